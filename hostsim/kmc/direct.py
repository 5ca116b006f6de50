# SPDX-License-Identifier: Apache-2.0
"""direct: the evdev node itself moves from OS to OS.

Between two owners the KMC releases every key that is down and lifts every contact, which also
clears the kernel's record of it (EVIOCGKEY, EVIOCGMTSLOTS): the next owner finds nothing pressed,
and the real release reaches nobody. What the old owner had open is revoked: its programs read
ENODEV, see the udev `remove`, and open the node again at the next `add`. Client libraries
(libinput, libevdev's users) release held keys by themselves when the device goes.

With held = "carry-modifiers" a modifier stays down in the kernel's record: a reader that asks
(EVIOCGKEY) sees it down from the first. libinput and others go by the events that they have seen.
So when the next owner's first program opens the node, the modifier is released and pressed once
more: the program takes no notice of the release, for it has seen no press. Later programs have the
record alone: for those who read by then, such a pair would be a tap. A device's hotkey is never
carried.

The kernel has one LED state, autorepeat, key map and calibration of axes for each device
(netns.evstate): each OS's are saved at its release and set again at its next take; an OS's first
are those that the device was found with, and no LED lit. They are remembered for a device that is
unplugged and comes back, as they were at the OS's last release.

What the old owner's programs were given before the flip was asked for, they read first, and the
release of every key that is down: a flip waits for that (`unread`), up to the release timeout. What
waits in a file when it is revoked is lost to its program, as the kernel has it, and counted.

A release leaves no window for two readers:

    1. the OS is held still (cgroup.freeze)
    2. no new open: its node is unlinked, and the device list of its cgroup has it no more
    3. every open file is revoked (cext/input/revoke.h): those that the OS had when it was asked to
       let go, and if the kernel's list of the device has others then, all that a look through the
       processes of the host's VMs finds
    4. an OS in which files are still found after PASSES, or that takes longer to look through than
       BUDGET, is killed, and looked through once more;
       if files are found even then, nobody gets the devices: this driver is out of use
    5. the OS may run again
    6. each device's state is saved, and its keys and contacts are lifted

That the node went is announced when the next owner has had it for a moment (AFTERWARDS): nobody
waits for that, and its programs are to open the node before the daemon does anything else.

The machine's own programs lose what they have open when the device is taken, and its nodes are out
of the machine's /dev until it is given back (netns/nodes.py): no compositor hears what is typed for
an OS. Until there is a first owner, and after the last, the KMC has the device grabbed. From one
owner to the next it has not: no OS can open the node in between, and the end of a grab waits for
the kernel's RCU, which takes longer than all the rest.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cext.input import forward
from cext.input.evict import evict
from cext.input.opened import Openings
from cext.input.revoke import Hold, Own, Revoker
from hostsim.errors import reason
from hostsim.kmc.clones import Copy, has_pad
from hostsim.kmc.equipment import Equipment
from hostsim.kmc.osnodes import Node, OsNodes, node_path, udev_links, udev_properties
from hostsim.model import DeviceSpec, Held, Json
from netns import evstate, leds
from netns.claims import Claims
from netns.evdevices import MODIFIERS, Source, key_code, led_names
from netns.evstate import EV_LED, State
from netns.hotplug import InputNode
from netns.journal import Journal
from netns.nodes import away, back, drop

log = logging.getLogger("hostsim.kmc")

STILL = 0.05
"""Seconds to wait for the OS's processes to come to rest; then the passes alone must do."""

BUDGET = 0.08
"""Seconds of the daemon's own time for looking through one OS: some 4,000 processes, or 80,000
descriptors, on a usual machine. A pause of the machine does not count (cext/input/spent.h): it
would have an OS killed that has three processes."""

LONGER = 2.0
"""The same for what is left of an OS that was killed."""

AFTERWARDS = 0.02
"""Seconds after a take, until what is left of the old owner's nodes is taken down and announced."""

PASSES = 50
"""Most passes over an OS's processes; a clean one ends it."""


@dataclass
class _Device:
    source: Source
    node: Node
    found: State
    triggers: dict[str, str] = field(default_factory=dict)  # of its LEDs, as found
    now: State | None = None  # as saved just now, until something else is set
    saved: dict[str, State] = field(default_factory=dict)
    hotkey: frozenset[int] = frozenset()
    carried: frozenset[int] = frozenset()  # keys that stay down, from a release to the next take
    shown: frozenset[int] = frozenset()  # carried keys that the owner is yet to see pressed
    grabbed: bool = True
    watched: int = -1  # in the forwarder, if it has a hotkey
    copy: Copy | None = None  # of a pad, for old programs
    unread: int = 0  # events that went with revoked files

    @property
    def plain(self) -> bool:
        """There is nothing to set on it."""
        return self.found == State() and EV_LED not in self.source.types

    @property
    def fresh(self) -> State:
        """How an OS has it at its first take."""
        return replace(self.found, leds=())


class Direct(Equipment):
    """The driver. held: see `model.KmcSpec`, and above. numbers: see `Mirror`.

    The forwarder is the caller's, who hears its notices. It watches devices for their hotkeys here,
    which the OS that has the node sees too: nothing stands between the node and its readers.
    """

    def __init__(
        self,
        oses: dict[str, OsNodes],
        numbers: dict[str, int],
        held: Held,
        journal: Journal,
        claims: Claims,
        forwarder: forward.Forwarder,
    ) -> None:
        self._journal = journal
        self._claims = claims
        self._carries = MODIFIERS if held == "carry-modifiers" else frozenset()
        self._oses = oses
        self._index = numbers
        self._watcher: forward.Forwarder | None = forwarder
        self._revoker: Revoker | None = Revoker()
        self._asks = True  # the kernel, who has a device open
        self._devices: dict[str, _Device] = {}
        self._memory = evstate.Memory()
        self._owner: str | None = None
        self.openings = Openings() if self._carries else None
        self._opening: dict[int, _Device] = {}
        self._settling: asyncio.TimerHandle | None = None

    def opened(self) -> None:
        """A node was opened (`openings`): what is carried is pressed for its first reader."""
        for number in self.openings.opened() if self.openings is not None else ():
            device = self._opening.pop(number, None)
            if device is not None and self._devices.get(device.node.sysname) is device:
                with self._plugged(device.node.sysname):
                    device.source.press_again(device.shown)

    def has(self, sysname: str) -> bool:
        """Whether this node is a device of ours."""
        return sysname in self._devices

    def add(self, source: Source, node: InputNode, spec: DeviceSpec) -> None:
        """Take a device over from the machine; `source` is ours then. Raises OSError, and then the
        source is closed."""
        if self._watcher is None:
            source.close()
            raise OSError(errno.ENODEV, "devices in direct mode are out of use")
        triggers = leds.triggers(node.sysname)
        try:  # what is in the journal is undone backwards: the triggers first, as in `close`
            chord = [key_code(name) for name in spec.hotkey]
            device = _Device(
                source,
                Node(
                    node.sysname,
                    source.rdev,
                    node_path(node.sysname),
                    udev_properties(source, node),
                    udev_links(node),
                ),
                evstate.read(source),
                hotkey=frozenset(chord),
            )
            device.triggers = triggers
            if not device.plain:
                key, state = source.identity.key, device.found.text()
                self._journal.add("device", node=source.node, key=key, state=state)
            for file, trigger in triggers.items():
                self._journal.add("led", file=file, trigger=trigger)
            leds.cut(triggers)
            source.still()
            source.grab()
            self._journal.add("nodes", node=source.node)
            evict(away(source.node))
            device.saved = self._memory.take(source.identity.key)
            if self._owner is not None:
                self._restore(device, self._owner)
                self._oses[self._owner].give(device.node)
            if chord:
                device.watched = self._watcher.watch(source.fileno())
                self._watcher.chord(device.watched, chord)
        except OSError:
            leds.join(triggers)
            source.close()
            with contextlib.suppress(OSError):
                back(source.node, tell=False)  # else it would be tried again at once
            raise
        self._devices[node.sysname] = device
        self._copy(device)
        self._know_clients()

    def _know_clients(self) -> None:
        """At the first device: until then there may be no driver of the kernel's to be asked."""
        try:
            if self._asks and self._revoker is not None:
                self._revoker.know_clients()
        except OSError as error:
            self._asks = False  # not again
            log.info("flips of direct devices take longer: %s", reason(error))

    def _copy(self, device: _Device) -> None:
        """For old programs, if they know this kind of device and have none yet."""
        sysname, node = device.node.sysname, device.source.node
        if device.copy is not None or self._watcher is None or not has_pad(sysname):
            return
        try:
            device.copy = Copy(
                node, self._oses, self._index, self._owner, self._claims, self._watcher
            )
        except OSError as error:  # new programs have it all the same
            log.warning("%s: no js0 beside it: %s", node, error)

    def hide(self, sysname: str) -> None:
        """As `Mirror.hide`, of a device of ours, whose own node is open in an OS, or of a clone
        beside it. Raises OSError."""
        if (device := self._devices.get(sysname)) is not None:
            moved = away(device.source.node)
            evict([number for number in moved if number != device.node.rdev])
            self._copy(device)
        for copy in [device.copy for device in self._devices.values() if device.copy]:
            if name := copy.of(sysname):
                evict(drop(f"/dev/input/{sysname}"))
                copy.give(name)

    def join(self, name: str) -> None:
        """See `Equipment`."""
        for device in self._devices.values():
            if device.copy is not None:
                device.copy.join(name)

    def leave(self, name: str) -> None:
        """See `Equipment`."""
        for device in self._devices.values():
            if device.copy is not None:
                device.copy.leave(name)
            device.saved.pop(name, None)
        self._memory.forget(name)
        self._forget_places(name)

    def os_back(self, name: str) -> None:
        """The OS was started again, in the background."""
        self._forget_places(name)
        for device in self._devices.values():
            if device.copy is not None:
                device.copy.give(name)

    def _forget_places(self, name: str) -> None:
        if self._revoker is not None and name in self._oses:
            self._revoker.leave(self._oses[name].vm.cgroup)

    def remove(self, sysname: str, tell: bool = False) -> None:
        """The device is gone, or (tell) it is the machine's again, which is announced. One that is
        not ours is no error."""
        device = self._devices.pop(sysname, None)
        if device is None:
            return
        if device.copy is not None:
            device.copy.close()
        for nodes in self._oses.values():
            nodes.forget(sysname)
        if device.watched >= 0 and self._watcher is not None:
            self._watcher.remove(device.watched)
        self._memory.keep(device.source.identity.key, device.saved, device.fresh)
        device.source.close()
        self._claims.release(sysname)
        try:
            # Of one that is gone, the next may have the name already: its own news is on the way,
            # and a second one would have us lose it again, and so on.
            back(device.source.node, tell)
        except OSError as error:
            log.warning("%s: %s", device.source.node, error)

    def identify(self) -> list[Json]:
        """See `Equipment`."""
        return [
            {
                "name": device.source.identity.name,
                "node": device.source.node,
                "mode": "direct",
                "owner": self._owner,
                "states": {
                    name: {
                        "node": f"/dev/input/{sysname}",
                        "leds": led_names(list(device.saved.get(name, State()).leds)),
                    }
                    for name in self._oses
                },
                "counters": {"unread": device.unread},
            }
            for sysname, device in self._devices.items()
        ]

    def ask(self, name: str) -> None:
        """Note who has the nodes open."""
        if self._revoker is not None and self._devices:
            group = self._oses[name].vm.cgroup
            try:
                self._revoker.look(group, self._own())
            except OSError as error:  # nobody is waited for then
                log.warning("%s: %s", name, error)

    def lift(self, name: str) -> None:
        """A program that reads the node itself, and knows nothing of libinput's rule that a device
        that goes has nothing pressed, is told so."""
        lifted = 0
        for sysname, device in list(self._devices.items()):
            with self._plugged(sysname):
                lifted += device.source.still(self._carries - device.hotkey)
        if lifted and self._revoker is not None:
            self._revoker.mark()  # it is to read that too

    def unread(self, name: str) -> int:
        """Of its open files, those that have not been read as far as they came at `ask`, or at
        `lift`, if that has added to them."""
        return self._revoker.unread() if self._revoker is not None else 0

    def release(self, name: str) -> None:
        """The steps at the top of the module. Raises OSError (EBUSY: step 4)."""
        if self._revoker is None:
            return  # out of use: it has nothing
        nodes = self._oses[name]
        group = nodes.vm.cgroup
        rdevs = self._rdevs()
        self._opening.clear()
        if not rdevs:
            self._revoker.forget()
        with self._revoker.holding(group) if rdevs else contextlib.nullcontext() as hold:  # 1
            for sysname in self._devices:
                nodes.withdraw(sysname)  # 2
            self._owner = None
            rest = time.monotonic() + STILL
            if hold is not None and not (
                self._revoke_noted(hold) or self._revoke(hold, group, rdevs, rest, BUDGET)  # 3
            ):
                # 4. No other OS may get what this one still reads: whoever opens it there ends.
                log.error("%s: killed, as it does not let go of its devices", name)
                nodes.vm.kill()
                if not self._revoke(hold, group, rdevs, time.monotonic() + STILL, LONGER):
                    raise OSError(errno.EBUSY, "its devices are still opened")
        # 5: the end of the block. 6:
        for sysname, device in list(self._devices.items()):
            device.carried = self._carries - device.hotkey
            with self._plugged(sysname):
                device.now = device.found
                if not device.plain:
                    device.now = evstate.read(device.source, mapped=bool(device.found.keys))
                device.saved[name] = device.now
                device.source.still(device.carried)

    def restore(self, name: str) -> None:
        """Nothing pressed but what is carried; settings as it had them. No OS has the node yet."""
        for sysname, device in list(self._devices.items()):
            with self._plugged(sysname):
                self._restore(device, name)

    def take(self, name: str) -> None:
        """The node appears."""
        self._owner = name
        for device in self._devices.values():
            self._oses[name].give(device.node, functools.partial(self._await_open, device, name))
        if self._settling is not None:
            self._settling.cancel()
        self._settling = asyncio.get_running_loop().call_later(AFTERWARDS, self._settle)

    def close(self) -> None:
        """See `Equipment`."""
        if self._settling is not None:
            self._settling.cancel()
        if self._owner is not None:
            self.release(self._owner)
        for sysname, device in list(self._devices.items()):
            with self._plugged(sysname):
                device.source.lift()
                leds.join(device.triggers)
                evstate.apply(device.source, device.found)
        for sysname in list(self._devices):
            self.remove(sysname, tell=True)
        self._watcher = None
        if self.openings is not None:
            self.openings.close()
        if self._revoker is not None:
            self._revoker.close()
            self._revoker = None

    def _settle(self) -> None:
        for nodes in self._oses.values():
            nodes.settle()

    def _await_open(self, device: _Device, name: str, node: int) -> None:
        """node: a descriptor (O_PATH) of the OS's own."""
        if not device.shown or self.openings is None:
            return
        try:
            number = self.openings.watch(node)
            self._opening[number] = device
        except OSError as error:  # it has the kernel's record all the same
            log.warning("%s: carried keys are not pressed: %s", name, error)

    def _revoke_noted(self, hold: Hold) -> bool:
        """Take the devices from who had them at `ask`. Whether nobody has one open any more."""
        assert self._revoker is not None
        nobody, unread = self._revoker.revoke_noted(hold, self._own(), STILL)
        for device, count in zip(self._devices.values(), unread, strict=True):
            device.unread += count
        return nobody

    def _revoke(
        self, hold: Hold, group: Path, rdevs: list[int], rest: float, budget: float
    ) -> bool:
        """Whether no VM of the host has an open file of the devices any more. rest: when the OS's
        processes are waited for no more (time.monotonic)."""
        assert self._revoker is not None
        still = max(0.0, rest - time.monotonic())
        found = self._revoker.revoke(hold, group.parent, rdevs, still, budget, PASSES)
        for device, unread in zip(self._devices.values(), found.unread, strict=False):
            device.unread += unread
        if found.late:
            log.warning("%s: looking through it takes too long", group.name)
        if found.restless:
            log.warning("%s: does not come to rest; revoked all the same", group.name)
        if found.killed:
            log.warning("%s: killed %d that hid a device, or may have", group.name, found.killed)
        return found.clean

    def _own(self) -> list[Own]:
        return [
            Own(one.source.rdev, one.source.fileno(), -1 if one.copy is None else one.copy.fileno())
            for one in self._devices.values()
        ]

    def _rdevs(self) -> list[int]:
        return [device.source.rdev for device in self._devices.values()]

    @contextlib.contextmanager
    def _plugged(self, sysname: str) -> Iterator[None]:
        """A device whose kernel object is gone is dropped."""
        try:
            yield
        except OSError as error:
            log.info("%s: gone: %s", self._devices[sysname].source.identity.name, error)
            self.remove(sysname)

    def _restore(self, device: _Device, name: str) -> None:
        device.source.lift(device.carried)
        down = device.source.held() if device.carried else ()
        device.shown, device.carried = device.carried.intersection(down), frozenset()
        if device.grabbed:  # its end lets the machine's console set the LEDs: ours come after
            device.source.ungrab()
            device.grabbed = False
        now, device.now = device.now, None
        if not device.plain:
            evstate.apply(device.source, device.saved.get(name, device.fresh), now)
