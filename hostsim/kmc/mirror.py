# SPDX-License-Identifier: Apache-2.0
"""mirror: the KMC holds the device, and every OS has a uinput clone of it.

The clones are there as long as the device is plugged in, in the background too; only the
foreground's gets events. The C forwarder (cext/input/forward.h) does that and keeps keys, LEDs and
touches per OS; autorepeat's rate and an axis's calibration are properties of each clone. So there
is nothing to `save` or `restore` at a flip, and a clone's files stay open: nothing is lost that
`ask` and `unread` would look after. A device that is unplugged and comes back gets back LEDs, rate
and calibration. A clone has no key map (uinput(4) gives it none): EVIOCSKEYCODE fails with EINVAL
in an OS, and the machine's map of the device holds for all.

The machine's own programs hear nothing. The device is grabbed. A clone's nodes are taken out of the
machine's /dev before it is any OS's, so that who is told of it by udev (a compositor, logind, which
obeys power keys) finds nothing to open; and who was quick enough to open one loses it again.

Events carry the time at which they entered the clone.
"""

import contextlib
import errno
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from cext.input import forward
from cext.input.evict import evict
from hostsim.errors import HostsimError
from hostsim.kmc.clones import by_number, cloned, let_go
from hostsim.kmc.equipment import Equipment
from hostsim.kmc.osnodes import Node, OsNodes, node_path, udev_links, udev_properties
from hostsim.model import DeviceSpec, Held, Json
from netns import evstate, leds
from netns.claims import Claims
from netns.evdevices import Source, key_code, led_names
from netns.evstate import State
from netns.hotplug import InputNode
from netns.journal import Journal
from netns.nodes import drop
from netns.uinput import Clone

log = logging.getLogger("hostsim.kmc")


@dataclass
class _Mirrored:
    source: Source
    properties: dict[str, str]
    links: tuple[str, ...]
    fresh: State  # how each clone was at first
    triggers: dict[str, str] = field(default_factory=dict)  # of the device's LEDs, as found
    number: int = -1  # in the forwarder
    clones: dict[str, Clone] = field(default_factory=dict)


class Mirror(Equipment):
    """The driver. Its devices are claimed by the caller of `add`, and given up here when they go.
    The forwarder stays the caller's too, who hears its notices.

    numbers: of the OSes, in the forwarder; there before an OS joins, and until it has left.
    held: see `model.KmcSpec`. A modifier that is carried is pressed on the new OS's clone, and
    released there when it is let go; on the old OS's it was released at the flip.
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
        self._oses = oses
        self._index = numbers
        self._forwarder: forward.Forwarder | None = forwarder
        self._forwarder.carry(held == "carry-modifiers")
        self._devices: dict[str, _Mirrored] = {}
        self._memory = evstate.Memory()
        self._owner: str | None = None

    def gone(self, number: int) -> None:
        """The forwarder's device `number` was unplugged. Another's is no error."""
        for sysname, device in list(self._devices.items()):
            if device.number == number:
                self.remove(sysname)

    def has(self, sysname: str) -> bool:
        """Whether this node is a device of ours."""
        return sysname in self._devices

    def add(self, source: Source, node: InputNode, spec: DeviceSpec) -> None:
        """Take a device over from the machine; `source` is ours then. Raises OSError, HostsimError;
        then the source is closed."""
        if self._forwarder is None:
            source.close()
            raise OSError(errno.ENODEV, "devices in mirror mode are out of use")
        try:
            fresh = replace(evstate.read(source), leds=(), keys=())
            device = _Mirrored(source, udev_properties(source, node), udev_links(node), fresh)
        except OSError:
            source.close()
            raise
        known = self._memory.take(source.identity.key)
        self._cut_leds()
        try:
            chord = [key_code(name) for name in spec.hotkey]
            source.still()  # what the machine's readers have seen begin ends for them
            source.grab()
            for name in self._oses:
                device.clones[name] = cloned(source, self._claims)
            evict([clone.rdev for clone in device.clones.values()])
            for name, nodes in self._oses.items():
                leds.cut(leds.triggers(device.clones[name].sysname))
                if name in known:
                    with _opened(device.clones[name]) as clone:
                        evstate.apply(clone, known[name], fresh)
                if nodes.vm.alive:
                    self._give(name, device)
            clones = by_number({n: c.fileno() for n, c in device.clones.items()}, self._index)
            device.number = self._forwarder.add(source.fileno(), clones)
            self._forwarder.chord(device.number, chord)
            device.triggers = leds.triggers(node.sysname)
            for file, trigger in device.triggers.items():
                self._journal.add("led", file=file, trigger=trigger)
            leds.cut(device.triggers)
            self._devices[node.sysname] = device
            if self._owner is not None:
                self._forwarder.take(self._index[self._owner], device.number)
        except (OSError, HostsimError):
            self._devices.pop(node.sysname, None)
            self._let_go(device)
            raise

    def hide(self, sysname: str) -> None:
        """A node has come beside this one, on the machine: away with it, if ours is a clone, to the
        clone's OS. Raises OSError."""
        for device in self._devices.values():
            for name, clone in device.clones.items():
                if clone.sysname == sysname:
                    evict(drop(f"/dev/input/{sysname}"))
                    self._oses[name].give_old(sysname)

    def remove(self, sysname: str) -> None:
        """The device is gone. One that is not ours is no error."""
        device = self._devices.pop(sysname, None)
        if device is not None:
            states = {}
            for name, clone in device.clones.items():
                with _opened(clone) as source:
                    states[name] = evstate.read(source)
            self._memory.keep(device.source.identity.key, states, device.fresh)
            self._let_go(device)

    def join(self, name: str) -> None:
        """See `Equipment`: a clone of each device."""
        for sysname, device in list(self._devices.items()):
            try:
                self._join(name, device)
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.ENXIO):
                    raise
                self.remove(sysname)  # it has just been unplugged

    def _join(self, name: str, device: _Mirrored) -> None:
        assert self._forwarder is not None
        clone = device.clones[name] = cloned(device.source, self._claims)
        evict([clone.rdev])
        leds.cut(leds.triggers(clone.sysname))
        self._forwarder.join(device.number, self._index[name], clone.fileno())
        self._give(name, device)

    def leave(self, name: str) -> None:
        """See `Equipment`."""
        for device in self._devices.values():
            clone = device.clones.pop(name, None)
            if clone is None:
                continue
            if self._forwarder is not None:
                self._forwarder.leave(device.number, self._index[name])
            let_go(clone, self._oses[name], self._claims)
        self._memory.forget(name)

    def os_back(self, name: str) -> None:
        """The OS was started again: it finds its clones, as the OS before it had set them."""
        for device in self._devices.values():
            self._give(name, device)

    def identify(self) -> list[Json]:
        """See `Equipment`."""
        return [self._describe(sysname, device) for sysname, device in self._devices.items()]

    def _describe(self, sysname: str, device: _Mirrored) -> Json:
        assert self._forwarder is not None
        states = {}
        for name, index in self._index.items():
            bits, held = self._forwarder.os_state(device.number, index)
            lit = [code for code in range(16) if bits >> code & 1]
            states[name] = {
                "node": f"/dev/input/{device.clones[name].sysname}",
                "leds": led_names(lit),
                "held": held,
            }
        return {
            "name": device.source.identity.name,
            "node": device.source.node,
            "mode": "mirror",
            "owner": self._owner,
            "states": states,
            "counters": self._forwarder.stats(device.number),
            "lacks": ["uniq"] if device.source.identity.uniq else [],
        }

    def release(self, name: str) -> None:
        """What was queued is delivered, keys and touches are lifted, then the old OS is silent."""
        if self._forwarder is None:
            return  # out of use: it has nothing
        self._forwarder.release()
        self._owner = None

    def take(self, name: str) -> None:
        """LEDs, axes and switches as they are to be, then events."""
        if self._forwarder is None:
            return
        self._owner = name
        self._forwarder.take(self._index[name])

    def close(self) -> None:
        """See `Equipment`."""
        for sysname in list(self._devices):
            self._let_go(self._devices.pop(sysname))
        self._forwarder = None

    def _give(self, name: str, device: _Mirrored) -> None:
        self._oses[name].give(_clone_node(device.clones[name], device))
        self._oses[name].give_old(device.clones[name].sysname)

    def _cut_leds(self) -> None:
        """Of the clones that got LEDs late: the kernel loads input-leds with the first keyboard."""
        for device in self._devices.values():
            for clone in device.clones.values():
                leds.cut(leds.triggers(clone.sysname))

    def _let_go(self, device: _Mirrored) -> None:
        assert self._forwarder is not None
        leds.join(device.triggers)
        if device.number >= 0:
            self._forwarder.remove(device.number)
        for name, clone in device.clones.items():
            let_go(clone, self._oses[name], self._claims)
        with contextlib.suppress(OSError):  # ENODEV: unplugged
            device.source.lift()
        device.source.ungrab()
        device.source.close()
        self._claims.release(device.source.sysname)


@contextlib.contextmanager
def _opened(clone: Clone) -> Iterator[Source]:
    """The clone as its OS has it: the kernel's record of its LEDs, autorepeat and axes."""
    source = Source(clone.path)
    try:
        yield source
    finally:
        source.close()


def _clone_node(clone: Clone, device: _Mirrored) -> Node:
    path = node_path(clone.sysname)
    return Node(clone.sysname, clone.rdev, path, device.properties, device.links)
