"""The input nodes that one OS has: in its /dev/input, its device list, its udev.

A VM has no udev daemon. What libudev's readers (libinput, pyudev, ...) want is kept for them: links
in /sys/class/input, which is the VM's own; a record in /run/udev/data; messages. The VM's user 0
may write in these directories, so every step goes by descriptor and follows no link.

A node is given whole. Withdrawing closes the door to new opens, and `settle` takes down and
announces the rest, when there is time for it; files that are open are the driver's business.
"""

import contextlib
import functools
import grp
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cext.input import evnode
from hostsim.errors import HostsimError
from hostsim.vm import Vm
from netns.evdevices import Source, classify
from netns.hotplug import InputNode
from netns.uevent import Announcer

log = logging.getLogger("hostsim.kmc")

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


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


def node_path(sysname: str) -> str:
    """Where an evdev node is in sysfs, from /devices on. Raises OSError."""
    real = os.path.realpath(f"/sys/class/input/{sysname}", strict=True)
    return real.removeprefix("/sys")


_COPIED = ("ID_", "LIBINPUT_", "MOUSE_", "POINTINGSTICK_", "XKB", "EVDEV_ABS_")
"""udev properties of a device that an OS needs, and that hold for a clone too."""


def udev_properties(source: Source, node: InputNode) -> dict[str, str]:
    """udev's properties of a real device, or what can be told without a udev daemon."""
    known = {key: value for key, value in node.properties.items() if key.startswith(_COPIED)}
    return known if "ID_INPUT" in known else {**known, **classify(source)}


def udev_links(node: InputNode) -> tuple[str, ...]:
    """The device's stable names in /dev/input/by-id and by-path."""
    links = node.properties.get("DEVLINKS", "").split()
    return tuple(
        link.removeprefix("/dev/input/")
        for link in links
        if link.startswith(("/dev/input/by-id/", "/dev/input/by-path/"))
    )


class OsNodes:
    """What `vm`'s programs find in /dev/input. `close` forgets it; the VM takes the rest down."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self._given: dict[str, Node] = {}
        self._recorded: dict[str, Node] = {}
        self._leaving: list[Node] = []
        self._announcer = Announcer(vm.netns_fd)
        # libudev takes this file for a sign that udev's messages will come
        os.close(os.open("control", _CREATE, 0o600, dir_fd=vm.udev_fd))

    def __contains__(self, sysname: str) -> bool:
        return sysname in self._given

    def give(self, node: Node) -> None:
        """The node appears: allowed, made, announced. Raises OSError; nothing is given then."""
        if not self.vm.alive:
            raise HostsimError(f"OS {self.vm.spec.name}", "it does not run")
        self.settle()
        self.vm.devices.allow(os.major(node.rdev), os.minor(node.rdev))
        self._given[node.sysname] = node
        try:
            # first what a program can read from, and write to: LEDs, effects; then what libudev's
            # readers look at
            evnode.make(self.vm.input_fd, node.sysname, node.rdev, _input_group())
            self._record(node)
        except OSError:
            self.withdraw(node.sysname)
            self.settle()
            raise
        self._say("add", node)

    def withdraw(self, sysname: str) -> None:
        """The node goes, and no new open succeeds; see `settle` for the rest. Not given, or an OS
        that is gone, is no error."""
        node = self._given.pop(sysname, None)
        if node is None or not self.vm.alive:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(sysname, dir_fd=self.vm.input_fd)
        self.vm.devices.deny(os.major(node.rdev), os.minor(node.rdev))
        self._leaving.append(node)

    def settle(self) -> None:
        """Take down what udev's readers see of withdrawn nodes, and say that they went."""
        if not self._leaving:
            return  # whether the OS lives is not asked for nothing
        leaving, self._leaving = self._leaving, []
        for node in leaving if self.vm.alive else ():
            self._erase(node)
            self._say("remove", node)

    def _record(self, node: Node) -> None:
        """The links, and the udev record (once: nobody looks at it without the links)."""
        parent, target = os.path.split(node.path)
        folder = self.vm.input_class_fd
        _link(f"../..{node.path}", target, folder)
        _link(f"../..{parent}", os.path.basename(parent), folder)
        for link in node.links:
            directory, name = link.split("/")
            with _inside(self.vm.input_fd, directory) as where:
                _link(f"../{node.sysname}", name, where)
        if self._recorded.get(node.sysname) is node:
            return
        with _inside(self.vm.udev_fd, "data") as data:
            fd = os.open(node.database, _CREATE, 0o644, dir_fd=data)
            with open(fd, "w") as file:
                file.write(node.record())
        self._recorded[node.sysname] = node

    def _erase(self, node: Node) -> None:
        names = (node.sysname, os.path.basename(os.path.dirname(node.path)))
        places = [(self.vm.input_class_fd, name) for name in names]
        with contextlib.ExitStack() as stack:
            for link in node.links:
                directory, name = link.split("/")
                places.append((stack.enter_context(_inside(self.vm.input_fd, directory)), name))
            for where, name in places:
                with contextlib.suppress(OSError):  # gone, or a directory: then it is the OS's own
                    os.unlink(name, dir_fd=where)

    def forget(self, sysname: str) -> None:
        """The device is gone for good: so is its record. Not recorded is no error."""
        self.withdraw(sysname)
        self.settle()
        node = self._recorded.pop(sysname, None)
        if node is not None and self.vm.alive:
            with _inside(self.vm.udev_fd, "data") as data, contextlib.suppress(OSError):
                os.unlink(node.database, dir_fd=data)

    def _say(self, action: str, node: Node) -> None:
        try:
            self._announcer.say(action, node.path, node.udev())
        except OSError as error:  # the node itself is there or gone all the same
            log.warning("%s: udev %s of %s: %s", self.vm.spec.name, action, node.sysname, error)

    def close(self) -> None:
        """Close what belongs to us. Twice is harmless."""
        self._announcer.close()


def _link(target: str, name: str, where: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=where)
    os.symlink(target, name, dir_fd=where)


@contextlib.contextmanager
def _inside(parent: int, name: str) -> Iterator[int]:
    """A directory below one of the VM's, made where it is missing, never through a link."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


@functools.cache
def _input_group() -> int:
    try:
        return grp.getgrnam("input").gr_gid
    except KeyError:
        return 0
