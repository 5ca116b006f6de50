# SPDX-License-Identifier: Apache-2.0
"""Which device belongs to which driver: what is plugged in, at the start and later.

A device goes to the driver that the first matching `[[device]]` names. One that no table means is
the machine's. A host leaves alone what any host of this machine has: its devices, and its clones
(netns.claims). A device that cannot be taken now, because another program or another host has it,
is named by `waiting`, and tried again until it is taken or unplugged; nothing is done to it before.
A device that a program of an OS made is that OS's, and no table means it (`made`).
"""

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from cext.input.forward import CHORD, GONE, OSES, Forwarder
from hostsim.errors import HostsimError, reason
from hostsim.kmc.consoles import Consoles
from hostsim.kmc.direct import Direct
from hostsim.kmc.equipment import first_match
from hostsim.kmc.made import UINPUT, Made
from hostsim.kmc.mirror import Mirror
from hostsim.kmc.osnodes import OsNodes
from hostsim.model import DeviceSpec, HostSpec, Json
from netns import nodes
from netns.claims import CLONE, DEVICE, MADE, ClaimedError, Claims
from netns.console import KEYS, SYSRQ
from netns.evdevices import Source
from netns.evioctl import EV_KEY
from netns.hotplug import APART, BESIDE, Hotplug, InputNode
from netns.journal import Journal

log = logging.getLogger("hostsim.kmc")

AGAIN, LATER = 1.0, 60.0
"""Seconds between two tries to take a device that somebody else has, and one that cannot be taken
for another reason: to try costs the machine some clones, made and removed."""

SOON = 0.05
"""The same while any host makes a clone: a device that has just appeared may be that."""

BUTTONS = 0x100
"""BTN_MISC: codes of EV_KEY below it are keys, which the machine's consoles obey."""

MADE_IN = "/devices/virtual/input/"
"""Where in sysfs devices are that a program made through uinput."""


@dataclass(frozen=True)
class _Waiting:
    """A device that is to be taken, and in how many seconds. name, mode: empty: not known yet. why:
    empty: it may be a clone that is just being made, or on its way back to the machine."""

    node: InputNode
    delay: float = SOON
    why: str = ""
    name: str = ""
    mode: str = ""


class Plugs:
    """The two drivers of input devices, fed by the kernel's hotplug events. All methods run in the
    daemon's loop; `close` is for the end, and twice is harmless.

    hotkey: called when a device's hotkey is pressed.
    """

    def __init__(
        self,
        spec: HostSpec,
        nodes: dict[str, OsNodes],
        hotkey: Callable[[], None],
        journal: Journal,
    ) -> None:
        held = spec.kmc.held
        self._oses = nodes
        self._devices = spec.devices
        self._readers: list[int] = []
        self._hotplug: Hotplug | None = None
        self._claims = Claims(spec.name)
        self._consoles = Consoles(journal, KEYS, SYSRQ)
        self._keyboards: set[str] = set()  # of what we have
        self._waiting: dict[str, _Waiting] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._hotkey = hotkey
        self._forwarder = forwarder = Forwarder(OSES)
        self._numbers = {name: number for number, name in enumerate(nodes)}
        self.mirror = Mirror(nodes, self._numbers, held, journal, self._claims, forwarder)
        self.direct = Direct(nodes, self._numbers, held, journal, self._claims, forwarder)
        self.made = Made(nodes, self._claims)

    def start(self) -> None:
        """Take what is there, and listen for more. Raises OSError, HostsimError."""
        self._watch(self._forwarder.fileno(), self._on_notice)
        if self.direct.openings is not None:
            self._watch(self.direct.openings.fileno(), self.direct.opened)
        self.made.start()
        self._listen()

    def _listen(self) -> None:
        """If there is anything to listen for. Once more is harmless. Raises OSError."""
        if self.made.any:
            self._keyboards.add(UINPUT.name)  # what an OS makes may be one, at any moment
            self._set_console()
        if self._hotplug is None and (self._devices or self.made.any):
            self._hotplug = Hotplug()  # listens before it looks, so that nothing slips through
            for node in self._hotplug.present():
                self._plugged(node)
            self._watch(self._hotplug.fileno(), self._on_hotplug)
        if self.made.makers is not None and self.made.makers.fileno() not in self._readers:
            self._watch(self.made.makers.fileno(), self._on_made)

    def join(self, name: str) -> None:
        """The OS is new, in the background: it has a number, its clones, and /dev/uinput if it is
        to. Raises OSError, HostsimError: `leave` then."""
        free = [number for number in range(OSES) if number not in self._numbers.values()]
        if not free:
            raise HostsimError(name, f"is one OS too many: {OSES} at a time", "remove some first")
        self._numbers[name] = free[0]
        self.mirror.join(name)
        self.direct.join(name)
        self.made.join(name)
        self._listen()

    def leave(self, name: str) -> None:
        """The OS leaves the host. Also after half a `join`."""
        with contextlib.ExitStack() as steps:  # the last one first; one that fails stops no other
            steps.callback(self._numbers.pop, name, None)
            steps.callback(self.made.leave, name)
            if name in self._numbers:
                steps.callback(self.direct.leave, name)
                steps.callback(self.mirror.leave, name)
        if not self.made.others(name) and UINPUT.name in self._keyboards:
            self._keyboards.discard(UINPUT.name)
            self._set_console()

    def waiting(self) -> list[Json]:
        """Devices that cannot be taken now, as `Equipment.identify` has others, and `why`."""
        return [
            {
                "name": one.name,
                "node": one.node.node,
                "mode": one.mode,
                "owner": None,
                "states": {},
                "why": one.why,
            }
            for one in self._waiting.values()
            if one.why
        ]

    def hush(self) -> None:
        """Hear nothing any more. Twice is harmless."""
        while self._readers:
            asyncio.get_running_loop().remove_reader(self._readers.pop())
        while self._timers:
            self._timers.popitem()[1].cancel()

    def close(self) -> None:
        """Both drivers are closed by their owner, before this."""
        self.hush()
        self._keyboards.clear()
        self._set_console()
        self.made.close()
        self._claims.close()
        self._forwarder.close()
        if self._hotplug is not None:
            self._hotplug.close()
            self._hotplug = None

    def _on_notice(self) -> None:
        while (notice := self._forwarder.notice()) is not None:
            kind, number = notice
            if kind == CHORD:
                self._hotkey()
            elif kind == GONE:
                self.mirror.gone(number)

    def _on_made(self) -> None:
        """Before the machine's udev has told its programs of the device."""
        assert self.made.makers is not None
        for path in self.made.makers.made():
            sysname = path.rpartition("/")[2]
            if self.made.maker(path):
                self._plugged(InputNode(sysname, f"/dev/input/{sysname}", path))

    def _on_hotplug(self) -> None:
        assert self._hotplug is not None
        for action, node in self._hotplug.events():
            if action == "add":
                self._plugged(node)
            elif action == BESIDE:
                self._hide(node)
            elif action == APART:
                for oses in self._oses.values():
                    oses.lose_old(node.sysname)
            elif action == "remove":
                self._wait_no_more(node.sysname)
                self.mirror.remove(node.sysname)
                self.direct.remove(node.sysname)
                self.made.remove(node.sysname)
                self._keyboards.discard(node.sysname)
                self._set_console()

    def _hide(self, node: InputNode) -> None:
        """Of a driver of the kernel that came after we had taken the device (js0, mouse0)."""
        for sysname in nodes.beside(node.path):
            for driver in (self.mirror, self.direct, self.made):
                try:
                    driver.hide(sysname)
                except OSError as error:
                    log.warning("%s stays the machine's: %s", node.node, reason(error))

    def _plugged(self, node: InputNode) -> None:
        """Take the node if it is ours to take; else it may have to wait."""
        if any(one.has(node.sysname) for one in (self.mirror, self.direct, self.made)):
            return
        before = self._wait_no_more(node.sysname)
        after = self._try(node)
        if after is None:
            return
        self._waiting[node.sysname] = after
        if after.why and (before is None or before.why != after.why):
            log.warning("%s (%s): cannot be taken: %s", after.name, node.node, after.why)
        loop = asyncio.get_running_loop()
        self._timers[node.sysname] = loop.call_later(after.delay, self._plugged, node)

    def _wait_no_more(self, sysname: str) -> _Waiting | None:
        """It is tried now, or gone."""
        if sysname in self._timers:
            self._timers.pop(sysname).cancel()
        return self._waiting.pop(sysname, None)

    def _try(self, node: InputNode) -> _Waiting | None:
        """None: it is taken, or is not to be."""
        if node.path.startswith(MADE_IN) and self._claims.making():
            return _Waiting(node)
        owner = self._claims.owner(node.sysname)
        if owner is not None and owner.kind in (CLONE, MADE):
            log.debug("%s: %s, of host %s", node.node, owner.kind, owner.host)
            return None
        try:
            maker = self.made.maker(node.path) if node.path.startswith(MADE_IN) else ""
            if maker is None:
                return None
            if maker:
                self.made.add(maker, node)
                return None
            source = Source(node.node, nodes.where(node.node))
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENOENT):  # it has gone already
                still = os.path.exists(f"/sys{node.path}")  # not quite: it is asked again
                return _Waiting(node, AGAIN) if still else None
            return _Waiting(node, LATER, _why(error), node.sysname, "-")
        spec = first_match(self._devices, source.identity, node)
        if spec is None:
            source.close()
            return None
        return self._add(source, node, spec)

    def _add(self, source: Source, node: InputNode, spec: DeviceSpec) -> _Waiting | None:
        """`source` is the driver's then, or closed."""
        name = source.identity.name
        driver = self.mirror if spec.mode == "mirror" else self.direct
        try:
            self._claims.claim(node.sysname, DEVICE)
            source.grab()  # or it is busy, before a driver has done anything to it
            source.ungrab()
            if any(code < BUTTONS for code in source.codes(EV_KEY)):
                self._keyboards.add(node.sysname)
                self._set_console()
            driver.add(source, node, spec)
        except (OSError, HostsimError) as error:
            source.close()
            self._claims.release(node.sysname)
            self._keyboards.discard(node.sysname)
            self._set_console()
            busy = isinstance(error, OSError) and error.errno == errno.EBUSY
            delay = AGAIN if busy or isinstance(error, ClaimedError) else LATER
            return _Waiting(node, delay, _why(error), name, spec.mode)
        log.info("%s (%s): %s", name, node.node, spec.mode)
        return None

    def _set_console(self) -> None:
        """The machine's consoles and SysRq hear keys, or hear none as long as we have a
        keyboard."""
        if self._keyboards:
            self._consoles.quiet()
        else:
            self._consoles.give_back()

    def _watch(self, fd: int, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().add_reader(fd, callback)
        self._readers.append(fd)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EBUSY:
        return "another program has grabbed it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
