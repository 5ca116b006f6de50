# SPDX-License-Identifier: Apache-2.0
"""The KMC (kernel mode controller): decides which OS is foreground, and moves the equipment.

It puts the parts together, and is what the OSes' agents speak to (`agents.Handler`); all in the
daemon's loop. Flips are in `flips`, hotplug in `plugs`, the agents' pulse in `heart`. A flip:

    the old OS's agent hears RELEASE, and has [kmc] release_timeout to answer; until then its
        programs may finish reading input that a revoke would discard, and the end of what is
        pressed
    each driver saves the old OS's state and releases
    each driver restores the new OS's state and takes
    the new OS's agent hears that it is foreground

A request that comes meanwhile waits in one place, and the newest wins; see `foreground`.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterable, Mapping

from hostsim.errors import HostsimError
from hostsim.kmc import background, wire
from hostsim.kmc.agents import AgentPort, Connection
from hostsim.kmc.door import Bucket
from hostsim.kmc.equipment import Equipment
from hostsim.kmc.flips import Flips
from hostsim.kmc.foreground import Refused, State
from hostsim.kmc.heart import Heart
from hostsim.kmc.nics import Nics
from hostsim.kmc.osnodes import OsNodes
from hostsim.kmc.plugs import Plugs
from hostsim.kmc.refrain import AN_AGENT, AgentLog, shown
from hostsim.kmc.screen import Screens
from hostsim.kmc.sound import Sound
from hostsim.kmc.wire import Message, Type
from hostsim.model import HostSpec, Json, VmSpec
from hostsim.vm import Vm
from netns import uinput
from netns.journal import Journal

log = logging.getLogger("hostsim.kmc")

ASK_RATE, ASK_BURST = 20.0, 50.0
"""Flips a second that the agent of one OS may ask for, and how many at once."""

AGENT_START = 30.0
"""Seconds `start` waits for the agents; an OS without one is overruled at once."""


class Kmc:
    """The controller of one host's OSes (1 to 16). All methods run in the daemon's loop."""

    def __init__(self, spec: HostSpec, oses: dict[str, Vm], journal: Journal) -> None:
        # Nodes and sockets are on the VMs' own mounts, clones and grabs go with our descriptors.
        # In the journal is what outlives us: network interfaces, and triggers of LEDs.
        self._journal = journal
        self._spec = spec
        self._oses = oses
        self._nodes: dict[str, OsNodes] = {}
        self._ports = {name: AgentPort(name, vm, self) for name, vm in oses.items()}
        self._ready: dict[str, asyncio.Event] = {}
        self._plugs: Plugs | None = None
        self._nics: Nics | None = None
        self._screens: Screens | None = None
        self._sound: Sound | None = None
        self._asks = {name: Bucket(ASK_RATE, ASK_BURST) for name in oses}
        self._log = AgentLog()
        self._flips = Flips(spec.kmc, oses, self._ports, self._drivers, self._log)
        self._heart = Heart(oses, self._ports, self._log.tell)
        self._returning: dict[str, asyncio.TimerHandle] = {}  # started again, agent not there yet

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the devices, start the agents, make the first OS foreground. Raises HostsimError,
        OSError: `stop` then."""
        mirrored = any(device.mode == "mirror" for device in self._spec.devices)
        if mirrored and not uinput.available():
            raise HostsimError(
                "[[device]] mode",
                "mirror needs uinput, and this kernel offers no /dev/uinput",
                "modprobe uinput, or use a kernel that has it (scripts/testvm)",
            )
        for vm in self._oses.values():
            background.prepare(vm)
        self._ready = {name: asyncio.Event() for name in self._oses}
        self._nics = Nics(self._spec.name, self._oses, self._journal)
        self._nics.start(self._spec.nics)
        for name, port in self._ports.items():
            if not port.open():
                self._ready[name].set()  # nobody to wait for
        self._nodes = {name: OsNodes(vm) for name, vm in self._oses.items()}
        self._plugs = Plugs(self._spec, self._nodes, self._hotkey, self._journal)
        self._plugs.start()
        if self._spec.screens:
            self._screens = Screens(
                self._oses,
                self._open_event,
                self._card_changed,
                self._switch,
                self._flips.settled,
                self.offence,
                self._journal,
            )
            self._screens.start(self._spec.screens)
        if self._spec.sounds:
            self._sound = Sound(self._oses, self._journal)
            self._sound.start(self._spec.sounds)
        await self._agents_there(self._oses)
        first = self._spec.kmc.foreground or next(iter(self._oses))
        await self.flip(first, "start")
        for name, vm in self._oses.items():
            if name != first:
                background.enter(vm)
        self._heart.start()

    async def _agents_there(self, names: Iterable[str]) -> None:
        """Wait for the agents of these OSes, AGENT_START seconds at most."""
        waited = {name: self._ready[name] for name in names}
        try:
            async with asyncio.timeout(AGENT_START):
                for ready in waited.values():
                    await ready.wait()
        except TimeoutError:
            late = [name for name, ready in waited.items() if not ready.is_set()]
            log.warning("no agent in %s after %g s", ", ".join(late), AGENT_START)

    async def stop(self) -> None:
        """Give everything back to the machine and end the agents. Twice is harmless."""
        with contextlib.ExitStack() as steps:  # the last one first; one that fails stops no other
            steps.callback(self._log.tell, everything=True)
            for nodes in self._nodes.values():
                steps.callback(nodes.close)
            for port in self._ports.values():
                steps.callback(port.close)
            if self._plugs is not None:
                steps.callback(self._plugs.close)
            for driver in reversed(self._drivers()):
                steps.callback(driver.close)
            if self._plugs is not None:
                steps.callback(self._plugs.hush)
            self._plugs = self._nics = self._screens = self._sound = None
            for timer in self._returning.values():
                steps.callback(timer.cancel)
            steps.callback(self._heart.stop)
            steps.callback(self._flips.stop)

    # -- OSes that join and leave -----------------------------------------------------------------

    async def join(self, oses: Mapping[str, Vm]) -> None:
        """These OSes are new on the host, and run. When this returns their agents are there, or
        AGENT_START is over; they are in the background, and barred until `admit`. Raises OSError,
        HostsimError: none of them has joined then."""
        try:
            for name, vm in oses.items():
                self._join(name, vm)
            await self._agents_there(oses)
        except BaseException:
            self.part(oses)
            raise

    def _join(self, name: str, vm: Vm) -> None:
        background.prepare(vm)
        self._flips.join(name)
        self._oses[name] = vm
        self._heart.answered(name)
        self._asks[name] = Bucket(ASK_RATE, ASK_BURST)
        self._ready[name] = asyncio.Event()
        self._ports[name] = AgentPort(name, vm, self)
        self._nodes[name] = OsNodes(vm)
        assert self._plugs is not None
        self._plugs.join(name)
        for driver in self._others():
            driver.join(name)
        if not self._ports[name].open():
            self._ready[name].set()  # nobody to wait for

    def prepare(self, specs: Iterable[VmSpec]) -> None:
        """OSes that stay are about to be as these. Raises HostsimError if that cannot be."""
        for spec in specs:
            background.prepare(self._oses[spec.name], spec)

    def change(self, names: Iterable[str]) -> None:
        """These OSes, which are barred, have other specs now."""
        for name in names:
            if self._flips.machine.state(name) is State.BACKGROUND:  # else it is to run until it is
                background.change(self._oses[name])

    def bar(self, names: Iterable[str]) -> None:
        """These OSes are to leave or change: nobody flips to them until `admit`, and nothing falls
        to them. Raises HostsimError as `refuse` does, and none of them is barred."""
        names = list(names)
        self.refuse(names)
        for name in names:
            self._flips.bar(name)

    def refuse(self, names: Iterable[str]) -> None:
        """Raises HostsimError if one of these OSes cannot leave or change now: it has the
        equipment, or gets it."""
        for name in names:
            self._flips.refuse(name)

    def part(self, names: Iterable[str]) -> None:
        """These OSes, which are barred, leave the host; what they have of the KMC's goes. One that
        is not there is no error. Raises OSError, with all of them gone."""
        with contextlib.ExitStack() as steps:  # one that fails stops no other
            for name in names:
                if name in self._oses:
                    steps.callback(self._part, name)

    def _part(self, name: str) -> None:
        with contextlib.ExitStack() as steps:  # the last one first
            steps.callback(self._forget, name)
            if name in self._ports:
                steps.callback(self._ports[name].close)
            if name in self._nodes:
                steps.callback(self._nodes[name].close)
            if self._plugs is not None:
                steps.callback(self._plugs.leave, name)
            for driver in self._others():
                steps.callback(driver.leave, name)

    def _forget(self, name: str) -> None:
        if name in self._returning:
            self._returning.pop(name).cancel()
        self._flips.leave(name)
        self._heart.leave(name)
        for table in (self._asks, self._ready, self._ports, self._nodes, self._oses):
            table.pop(name, None)

    def admit(self, names: Iterable[str]) -> None:
        """These OSes are on the host to stay, in the background; if no OS is foreground, one of
        them gets the equipment."""
        self._flips.admit([name for name in names if name in self._oses])

    def adopt(self, spec: HostSpec) -> None:
        """This is the host from now on: its order of OSes, and what its [kmc] says of releases, of
        who may flip and who follows. It has the same OSes."""
        self._spec = spec
        ordered = {name: self._oses[name] for name in spec.os_names()}
        self._oses.clear()
        self._oses.update(ordered)
        self._flips.adopt(spec.kmc)

    # -- OSes that end, and come again ------------------------------------------------------------

    def vm_gone(self, name: str) -> None:
        """An OS's process 1 has ended, or is about to: what it had goes to the next in line, before
        anything else is done about it."""
        if name in self._oses:
            if name in self._returning:
                self._returning.pop(name).cancel()
            self._flips.gone(name)
            self._ready[name].set()  # nobody to wait for
            log.warning("%s died", name)
            self._ports[name].close()
            if self._screens is not None:
                self._screens.os_gone(name)

    def vm_back(self, name: str) -> None:
        """An OS that died was started again. Once its agent is there (or AGENT_START is over) it is
        in the background; if no OS is foreground, it gets the equipment. Raises OSError,
        HostsimError."""
        vm = self._oses[name]
        background.prepare(vm)
        self._nodes[name].close()
        self._nodes[name] = OsNodes(vm)
        self._heart.answered(name)
        assert self._plugs is not None
        assert self._nics is not None
        self._plugs.mirror.os_back(name)
        self._plugs.direct.os_back(name)
        self._plugs.made.open(name)
        self._nics.os_back(name)
        if self._screens is not None:
            self._screens.os_back(name)
        if self._sound is not None:
            self._sound.os_back(name)
        self._ports[name].open()
        loop = asyncio.get_running_loop()
        self._returning[name] = loop.call_later(AGENT_START, self._returned, name)

    def _returned(self, name: str) -> None:
        self._returning.pop(name).cancel()
        if self._ports[name].resident is None:
            log.warning("no agent in %s after %g s", name, AGENT_START)
        log.info("%s is back", name)
        self._flips.back(name)

    # -- what others ask --------------------------------------------------------------------------

    async def flip(self, name: str, by: str) -> Json:
        """Make `name` the foreground OS; returns when it has the equipment.

        {"foreground", "previous", "ms"}: ms from the request on. Raises HostsimError if it is
        refused, or another request takes its place; nothing has changed then.
        """
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._flips.request(name, by, future)
        return await future

    def status(self) -> Json:
        """{"foreground", "oses": [{"name", "state", "agent", "overruled"}], "flips"}; agent: `ok`,
        `hung` (does not answer), `frozen` or `none`."""
        return {
            "foreground": self._flips.machine.foreground,
            "oses": [
                {
                    "name": name,
                    "state": self._flips.machine.state(name).value,
                    "agent": self._heart.health(name),
                    "overruled": self._flips.overruled[name],
                }
                for name in self._oses
            ],
            "flips": self._flips.count,
        }

    def devices(self) -> list[Json]:
        """The equipment (see `Equipment.identify`), and what waits to be (`Plugs.waiting`)."""
        taken = [device for driver in self._drivers() for device in driver.identify()]
        if self._plugs is None:
            return taken
        return taken + self._plugs.made.identify() + self._plugs.waiting()

    def _hotkey(self) -> None:
        try:
            name = self._flips.machine.next()
        except Refused as refused:
            log.info("flip to the next OS, asked by the hotkey: refused: %s", refused)
            return
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_heard)
        self._flips.request(name, "the hotkey", future)

    def _open_event(self, name: str, event: str) -> int:
        fd = self._nodes[name].open(event)
        self._nodes[name].wake(event)  # who opens it listens to udev's messages already
        return fd

    def _card_changed(self, name: str, path: str, properties: dict[str, str]) -> None:
        self._nodes[name].changed(path, properties)

    def _switch(self, name: str, session: int) -> None:
        """A compositor asks for the OS of this number (Ctrl+Alt+Fn), as an agent asks by name."""
        names = list(self._oses)
        wanted = names[session - 1] if 1 <= session <= len(names) else None
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_heard)
        # not now: it would begin a flip in the midst of what the client said
        to = wanted or f"OS number {session}"
        asyncio.get_running_loop().call_soon(self._ask_for, name, wanted, to, future)

    # -- agents (agents.Handler) ------------------------------------------------------------------

    def ready(self, name: str) -> None:
        """See `agents.Handler`."""
        self._ready[name].set()
        self._ports[name].tell(Message(Type.STATE, 0, self._flips.machine.state(name).value))
        if name in self._returning:
            self._returned(name)

    def released(self, name: str, sequence: int) -> None:
        """See `agents.Handler`."""
        self._flips.released(name, sequence)

    def request(self, name: str, connection: Connection, message: Message) -> None:
        """See `agents.Handler`."""
        if message.type is Type.STATUS:
            status = {
                "os": name,
                "state": self._flips.machine.state(name).value,
                "foreground": self._flips.machine.foreground,
            }
            connection.send(Message(Type.OK, message.sequence, json.dumps(status)))
            return
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: _answer(connection, message.sequence, done))
        try:
            wanted = (
                self._flips.machine.next() if message.type is Type.NEXT else shown(message.body)
            )
        except Refused as refused:
            self._refuse(name, "the next OS", str(refused), future)
            return
        to = "the next OS" if message.type is Type.NEXT else wanted
        self._ask_for(name, wanted, to, future)

    def _ask_for(
        self, name: str, wanted: str | None, to: str, future: asyncio.Future[Json]
    ) -> None:
        """OS `name` asks for a flip to `wanted`, in its words `to`; None: there is no such OS."""
        why = ""
        if not {"*", name} & set(self._spec.kmc.may_flip):
            why = f"{name} may not ask for it ([kmc] may_flip)"
        elif not self._asks[name].take(time.monotonic()):
            why = f"{name} asks too often"
        if wanted is None or why:
            self._refuse(name, to, why or "no OS has this number", future)
            return
        self._flips.request(wanted, f"{AN_AGENT}{name}", future, owner=False)

    def _refuse(self, name: str, to: str, why: str, future: asyncio.Future[Json]) -> None:
        what, by = f"flip to {to}", f"{AN_AGENT}{name}"
        self._log.say(by, "refusals", f"{what}, asked by {by}: refused: {why}")
        future.set_exception(HostsimError(what, why))

    def offence(self, name: str, why: str) -> None:
        """See `agents.Handler`."""
        self._log.say(AN_AGENT + name, "offences", f"agent socket of {name}: {why}")

    def beat(self, name: str) -> None:
        """See `agents.Handler`."""
        self._heart.answered(name)

    def _drivers(self) -> list[Equipment]:
        """Those in use, in the order in which they release and take."""
        plugs = self._plugs
        inputs = (plugs.mirror, plugs.direct) if plugs is not None else ()
        return [*inputs, *self._others()]

    def _others(self) -> list[Equipment]:
        """Those that are not the plugs'."""
        drivers: tuple[Equipment | None, ...] = (self._screens, self._sound, self._nics)
        return [driver for driver in drivers if driver is not None]


def _answer(connection: Connection, sequence: int, done: asyncio.Future[Json]) -> None:
    if done.cancelled():
        return
    error = done.exception()
    if isinstance(error, HostsimError):
        connection.send(wire.error(sequence, error.what, error.why, error.hint))
    elif error is not None:
        connection.send(wire.error(sequence, "flip", str(error)))
    else:
        connection.send(Message(Type.OK, sequence, json.dumps(done.result())))


def _heard(done: asyncio.Future[Json]) -> None:
    """Nobody waits for a hotkey's flip; what became of it is in the log."""
    if not done.cancelled():
        done.exception()
