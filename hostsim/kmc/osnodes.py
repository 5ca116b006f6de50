# SPDX-License-Identifier: Apache-2.0
"""The input nodes that one OS has: in its /dev/input, its device list, its udev.

A VM has no udev daemon. What libudev's readers (libinput, pyudev, ...) want is kept for them: links
in /sys/class/input, which is the VM's own; a record in /run/udev/data; messages. The VM's user 0
may write in these directories at the same time, and may put anything in our way: netns/tree.py. An
OS that does goes without what was to be there; no other OS, and no flip, hears of it.

Old programs know no evdev. For them there is a pad's `js0`, or a mouse's `mouse0`, beside the evdev
node (`give_old`): with the first number that the OS has free, since many a program looks for `js0`
only, and for itself, since such a program asks no udev.

A node is given whole. It is made in a directory of its own (WORKSHOP), and appears by one link:
nobody who watches /dev/input is woken before. Withdrawing closes the door to new opens. `settle`
takes down and announces the rest, and makes the node for the next time, when there is time for it.
Files that are open are the driver's business.
"""

import contextlib
import errno
import functools
import grp
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cext.input import evnode
from cext.vm.tree import open_beneath
from hostsim.errors import reason
from hostsim.vm import Vm
from netns import nodes, tree
from netns.evdevices import Source, classify
from netns.hotplug import InputNode
from netns.uevent import Announcer, News, news

log = logging.getLogger("hostsim.kmc")

GROUP_FILE_MAX = 1 << 20
"""Bytes of an OS's /etc/group that are read."""
IDS = 65536
"""Ids that an OS has."""
WORKSHOP = ".hostsim"
"""In an OS's /dev/input. What the OS can open is said by its device list, not by this."""


@dataclass(frozen=True)
class Node:
    """An evdev node to give. path: in sysfs, from /devices on. properties: udev's, of the device
    (ID_INPUT_KEYBOARD and the like)."""

    sysname: str
    rdev: int
    path: str
    properties: Mapping[str, str] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    """Other names below /dev/input: `by-id/...`."""

    def udev(self) -> dict[str, str]:
        """All properties of a udev message."""
        links = " ".join(f"/dev/input/{link}" for link in self.links)
        return {
            **self.properties,
            "SUBSYSTEM": "input",
            "DEVNAME": f"/dev/input/{self.sysname}",
            "MAJOR": str(os.major(self.rdev)),
            "MINOR": str(os.minor(self.rdev)),
            **({"DEVLINKS": links} if links else {}),
        }

    def record(self) -> str:
        """What udev keeps in /run/udev/data (sd-device's db format): links, age, properties."""
        lines = [f"S:input/{link}" for link in self.links]
        lines.append(f"I:{time.monotonic_ns() // 1000}")
        lines += [f"E:{key}={value}" for key, value in self.properties.items() if key[0] != "."]
        return "\n".join([*lines, "V:1", ""])

    @property
    def database(self) -> str:
        """The record's file name."""
        return f"c{os.major(self.rdev)}:{os.minor(self.rdev)}"


class _Old(NamedTuple):
    """A node that an OS has beside the evdev node `beside`. name: which it has there."""

    beside: str
    name: str
    rdev: int


class _Made(NamedTuple):
    """A node in the workshop. held: a descriptor of it (O_PATH); the OS may do with its name there
    what it likes."""

    rdev: int
    held: int


def node_path(sysname: str) -> str:
    """Where an evdev node is in sysfs, from /devices on. Raises OSError."""
    real = os.path.realpath(f"/sys/class/input/{sysname}", strict=True)
    return real.removeprefix("/sys")


_COPIED = ("ID_", "LIBINPUT_", "MOUSE_", "POINTINGSTICK_", "XKB", "EVDEV_ABS_")
"""udev properties of a device that an OS needs, and that hold for a clone too."""


def udev_properties(source: Source, node: InputNode) -> dict[str, str]:
    """udev's properties of a real device, or what can be told without a udev daemon."""
    known = {key: value for key, value in node.properties.items() if key.startswith(_COPIED)}
    known.pop("LIBINPUT_IGNORE_DEVICE", None)  # the machine's libinput is to, not the OS's
    return known if "ID_INPUT" in known else {**known, **classify(source)}


def udev_links(node: InputNode) -> tuple[str, ...]:
    """The device's stable names in /dev/input/by-id and by-path."""
    links = node.properties.get("DEVLINKS", "").split()
    return tuple(
        link.removeprefix("/dev/input/")
        for link in links
        if link.startswith(("/dev/input/by-id/", "/dev/input/by-path/")) and link.count("/") == 4
    )


class OsNodes:
    """What `vm`'s programs find in /dev/input. `close` forgets it; the VM takes the rest down."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self._given: dict[str, Node] = {}
        self._recorded: dict[str, Node] = {}
        self._leaving: list[Node] = []
        self._made: dict[str, _Made] = {}
        """What is in the workshop, by name."""
        self._workshop = -1
        self._news: dict[tuple[str, str], tuple[Node, News]] = {}
        """As they were last said, by action and name."""
        self._old: dict[str, _Old] = {}
        """By the kernel's name, which no other node has at the same time."""
        self._without: set[str] = set()
        """What is in the way of the OS itself, and was logged."""
        self._group = group_of(vm, "input")
        self._announcer = Announcer(vm.netns_fd, vm.owner)
        with self._own_affair("control"):  # libudev's sign that udev's messages will come
            tree.write(vm.udev_fd, "control", b"", 0o600)

    def __contains__(self, sysname: str) -> bool:
        return sysname in self._given

    @contextlib.contextmanager
    def _own_affair(self, what: str) -> Iterator[None]:
        """What fails in the block fails for this OS alone: it goes without, and that is logged once
        for each `what`."""
        try:
            yield
        except OSError as error:
            if what not in self._without:
                self._without.add(what)
                log.warning("%s goes without %s: %s", self.vm.spec.name, what, reason(error))

    def give(self, node: Node, made: Callable[[int], None] = lambda _: None) -> None:
        """The node appears: allowed, made, announced. An OS that is gone, or whose own files are in
        the way, goes without it. Raises nothing.

        made: called with a descriptor of the node (O_PATH) before it appears: nobody has opened it
        yet. Once more if the OS has taken away what was made for it."""
        if not self.vm.alive:
            return
        self.settle()
        with self._own_affair(node.sysname):
            self.vm.devices.allow(os.major(node.rdev), os.minor(node.rdev))
            self._given[node.sysname] = node
            # first what a program can read from, and write to: LEDs, effects; then what libudev's
            # readers look at
            self._appear(node, made)
            self._record(node)
            self._say("add", node)
        self._tidy(node.sysname)

    def _appear(self, node: Node, made: Callable[[int], None]) -> None:
        """A program that looks for nodes all the time finds this one whole: its owner is set, and
        `made` is done. It appears as a new name, not as one that was moved: many a program that
        watches the directory is told of what is made only (IN_CREATE, inotify(7)). `_tidy`
        follows."""
        ready = self._made.get(node.sysname)
        if ready is not None and ready.rdev == node.rdev:
            made(ready.held)
            with contextlib.suppress(FileNotFoundError):  # the OS has taken it away
                evnode.put(ready.held, self.vm.input_fd, node.sysname)
                return
        held = self._make(node)
        made(held)
        evnode.put(held, self.vm.input_fd, node.sysname)

    def _make(self, node: Node) -> int:
        """In the workshop, for `_appear`. Its descriptor, which stays ours. Raises OSError."""
        self._drop(node.sysname)
        for left in (True, False):
            if self._workshop < 0:
                self._workshop = tree.opened(self.vm.input_fd, WORKSHOP, 0o700)
            try:
                evnode.make(self._workshop, node.sysname, node.rdev, self.vm.owner, self._group)
                break
            except FileNotFoundError:  # the OS has removed the directory, which was empty
                self._leave_workshop()
                if not left:
                    raise
        held = evnode.hold(self._workshop, node.sysname, node.rdev)
        self._made[node.sysname] = _Made(node.rdev, held)
        return held

    def _drop(self, name: str) -> bool:
        """It is held no more. Whether it was."""
        if (ready := self._made.pop(name, None)) is not None:
            os.close(ready.held)
        return ready is not None

    def _tidy(self, name: str) -> None:
        """Nothing of this name is in the workshop any more."""
        if not self._drop(name):
            return
        try:
            tree.remove(self._workshop, name)
        except OSError:  # the OS has put something else in the workshop's place
            self._leave_workshop()

    def _leave_workshop(self) -> None:
        """The next one is found, or made, anew. Twice is harmless."""
        for name in list(self._made):
            self._drop(name)
        if self._workshop >= 0:
            os.close(self._workshop)
            self._workshop = -1

    def give_old(self, sysname: str) -> None:
        """What the kernel has beside an evdev node, with or without that. Once more, it is made
        anew. Raises nothing.

        An open file of one cannot be revoked: it must be the OS's alone, as a clone's is."""
        for kernel, rdev in nodes.old(sysname).items() if self.vm.alive else ():
            old = self._old.get(kernel) or _Old(sysname, self._free(kernel), rdev)
            self._old[kernel] = old
            with self._own_affair(kernel):
                self.vm.devices.allow(os.major(rdev), os.minor(rdev))
                self._appear(Node(old.name, rdev, ""), lambda _: None)
            self._tidy(old.name)

    def _free(self, kernel: str) -> str:
        """The first name of its kind that the OS has not."""
        taken, kind = {old.name for old in self._old.values()}, kernel.rstrip("0123456789")
        return next(name for n in itertools.count() if (name := f"{kind}{n}") not in taken)

    def lose_old(self, kernel: str) -> None:
        """The kernel has it no more, by this name; another device may get its number. Not given is
        no error. Raises nothing."""
        old = self._old.pop(kernel, None)
        if old is not None and self.vm.alive:
            with self._own_affair(kernel):
                self.vm.devices.deny(os.major(old.rdev), os.minor(old.rdev))
            with contextlib.suppress(OSError):  # the OS's own is there
                tree.remove(self.vm.input_fd, old.name)

    def keep(self, name: str, rdev: int) -> None:
        """A node of the OS's /dev that no flip moves: allowed, and made. Raises OSError."""
        self.vm.devices.allow(os.major(rdev), os.minor(rdev))
        evnode.make(self.vm.dev_fd, name, rdev, self.vm.owner, self._group)

    def open(self, sysname: str) -> int:
        """A descriptor of a node that the OS has now, the caller's then; none of another device,
        whatever has its name. Raises OSError."""
        node = self._given.get(sysname)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), sysname)
        path = nodes.where(f"/dev/input/{sysname}")
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        if os.fstat(fd).st_rdev != node.rdev:
            os.close(fd)
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), sysname)
        return fd

    def wake(self, sysname: str) -> None:
        """Say `change` of a node that the OS has: libinput, which a compositor resumes, notes the
        devices that it finds there, and tells of them only when something wakes it. Without this
        that would be a key, which then is lost."""
        node = self._given.get(sysname)
        if node is not None and self.vm.alive:
            self._say("change", node)

    def changed(self, path: str, properties: Mapping[str, str]) -> None:
        """Say `change` of a device that has no node here: a display's card. path: in sysfs, from
        /devices on."""
        if self.vm.alive:
            with self._own_affair(f"change of {path}"):
                self._announcer.say(news("change", path, properties))

    def withdraw(self, sysname: str) -> None:
        """The node goes, and no new open succeeds; see `settle` for the rest. Not given, or an OS
        that is gone, is no error. Raises OSError if the OS may still open the device."""
        node = self._given.get(sysname)
        if node is None:
            return
        if self.vm.alive:
            # First of all: whatever the OS has made of the name, it opens nothing by it any more.
            self.vm.devices.deny(os.major(node.rdev), os.minor(node.rdev))
            with contextlib.suppress(OSError):  # the OS has it away, or something else in its place
                tree.remove(self.vm.input_fd, sysname)
            self._leaving.append(node)
        del self._given[sysname]

    def settle(self) -> None:
        """Take down what udev's readers see of withdrawn nodes, and say that they went."""
        if not self._leaving:
            return  # whether the OS lives is not asked for nothing
        leaving, self._leaving = self._leaving, []
        for node in leaving if self.vm.alive else ():
            self._erase(node)
            self._say("remove", node)
            if node.sysname in self._recorded:  # it is still plugged in
                try:
                    self._make(node)
                except OSError:  # `give` tries again, and says why
                    self._leave_workshop()

    def _record(self, node: Node) -> None:
        """The links, and the udev record (once: nobody looks at it without the links)."""
        for place, name, target in self._links(node):
            with self._own_affair(f"{place} {name}"), self._at(place) as where:
                tree.link(where, name, target)
        if self._recorded.get(node.sysname) is node:
            return
        with self._own_affair(f"data {node.database}"), self._at("data") as data:
            tree.write(data, node.database, node.record().encode(), 0o644)
            self._recorded[node.sysname] = node

    def _links(self, node: Node) -> Iterator[tuple[str, str, str]]:
        """Of each link of a node: the place it is in (`_at`), its name, and where it leads."""
        parent, target = os.path.split(node.path)
        yield "class", target, f"../..{node.path}"
        yield "class", os.path.basename(parent), f"../..{parent}"
        for link in node.links:
            directory, name = link.split("/")
            yield directory, name, f"../{node.sysname}"

    @contextlib.contextmanager
    def _at(self, place: str) -> Iterator[int]:
        """A directory of the OS: `class` is /sys/class/input, `data` is /run/udev/data, and all
        others are below /dev/input. Raises OSError."""
        if place == "class":
            yield self.vm.input_class_fd
            return
        above = self.vm.udev_fd if place == "data" else self.vm.input_fd
        with tree.folder(above, place) as where:
            yield where

    def _erase(self, node: Node) -> None:
        for place, name, _ in self._links(node):
            with contextlib.suppress(OSError), self._at(place) as where:  # then it is the OS's own
                tree.remove(where, name)

    def forget(self, sysname: str) -> None:
        """The device is gone for good: so is its record. Not recorded is no error."""
        for kernel in [kernel for kernel, old in self._old.items() if old.beside == sysname]:
            self.lose_old(kernel)
        self.withdraw(sysname)
        node = self._recorded.pop(sysname, None)
        self.settle()
        self._tidy(sysname)
        for action in ("add", "remove", "change"):
            self._news.pop((action, sysname), None)
        if node is not None and self.vm.alive:
            with contextlib.suppress(OSError), self._at("data") as data:
                tree.remove(data, node.database)

    def _say(self, action: str, node: Node) -> None:
        known, said = self._news.get((action, node.sysname), (None, None))
        if said is None or known is not node:
            said = news(action, node.path, node.udev())
            self._news[action, node.sysname] = node, said
        try:
            self._announcer.say(said)
        except OSError as error:  # the node itself is there or gone all the same
            log.warning("%s: udev %s of %s: %s", self.vm.spec.name, action, node.sysname, error)

    def close(self) -> None:
        """Close what belongs to us. Twice is harmless."""
        self._announcer.close()
        self._leave_workshop()


def group_of(vm: Vm, name: str) -> int:
    """The number outside of the VM's group `name`; its user 0's if it has none."""
    return vm.owner + _group_inside(vm, name) if vm.spec.root else _machines_group(name)


def _group_inside(vm: Vm, name: str) -> int:
    """The number of a group in a root of the VM's own; 0: it has none."""
    try:
        with tree.root(vm.pid) as root:
            fd = open_beneath(root, "etc/group", os.O_RDONLY)
            with open(fd, "rb") as file:
                text = file.read(GROUP_FILE_MAX).decode(errors="replace")
    except OSError:
        return 0
    for line in text.splitlines():
        words = line.split(":")
        if words[0] == name and len(words) > 2 and words[2].isdecimal():
            return int(words[2]) if int(words[2]) < IDS else 0
    return 0


@functools.cache
def _machines_group(name: str) -> int:
    """The number of a group of the machine; 0 if there is none."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return 0
