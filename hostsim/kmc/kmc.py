"""The KMC (kernel mode controller): decides which OS is foreground, and moves the equipment.

It does what the state machine (`foreground`) says, with the drivers (`equipment`) and the OSes'
agents (`agents`), and reports back to it; all in the daemon's loop. A flip:

    the old OS's agent hears RELEASE, and has [kmc] release_timeout to answer; so long the OS's
        programs may also read what they were given before, where they would lose it
    each driver saves the old OS's state and releases
    each driver restores the new OS's state and takes
    the new OS's agent hears that it is foreground

A request that comes meanwhile waits in one place, and the newest wins; see `foreground`.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hostsim.errors import HostsimError
from hostsim.kmc import background, wire
from hostsim.kmc.agents import AgentPort, Bucket, Connection
from hostsim.kmc.direct import Direct
from hostsim.kmc.equipment import Equipment, first_match
from hostsim.kmc.foreground import (
    Abandoned,
    Action,
    AskRelease,
    Done,
    Foreground,
    Refused,
    Release,
    State,
    Superseded,
    Take,
    Tell,
)
from hostsim.kmc.mirror import Mirror
from hostsim.kmc.nics import Nics
from hostsim.kmc.osnodes import OsNodes
from hostsim.kmc.refrain import AN_AGENT, AgentLog, shown
from hostsim.kmc.wire import Message, Type
from hostsim.model import HostSpec, Json
from hostsim.vm import Vm
from netns import freezer
from netns.evdevices import Source, uinput_available
from netns.hotplug import Hotplug, InputNode
from netns.journal import Journal

log = logging.getLogger("hostsim.kmc")

BEAT = 1.0
"""Seconds between two PINGs to each agent that runs; one that misses MISSED of them is hung."""

MISSED = 3

ASK_RATE, ASK_BURST = 20.0, 50.0
"""Flips a second that the agent of one OS may ask for, and how many at once."""

AGAIN = 0.001
"""Seconds between two looks at what an OS's programs have not read."""

AGENT_START = 30.0
"""Seconds `start` waits for the agents; an OS without one is overruled at once."""


class _Asked(NamedTuple):
    """Somebody waits for a flip."""

    os: str
    by: str
    begun: float
    future: asyncio.Future[Json]


class Kmc:
    """The controller of one host's OSes (1 to 16). All methods run in the daemon's loop."""

    def __init__(self, spec: HostSpec, oses: dict[str, Vm], journal: Journal) -> None:
        # Nodes and sockets are on the VMs' own mounts, clones and grabs go with our descriptors.
        # In the journal is what outlives us: network interfaces, and triggers of LEDs.
        self._journal = journal
        self._spec = spec
        self._oses = oses
        fallback = spec.kmc.fallback
        self._machine = Foreground(list(oses), (fallback,) if fallback else ())
        self._nodes: dict[str, OsNodes] = {}
        self._ports = {name: AgentPort(name, vm, self) for name, vm in oses.items()}
        self._ready: dict[str, asyncio.Event] = {}
        self._mirror: Mirror | None = None
        self._direct: Direct | None = None
        self._nics: Nics | None = None
        self._hotplug: Hotplug | None = None
        self._readers: list[int] = []
        self._asked: list[_Asked] = []
        self._deadline: asyncio.TimerHandle | None = None
        self._release_number = 0
        self._answered = False  # the agent, to the last RELEASE
        self._by = "start"  # of a flip that nobody asked for
        self._overruled = dict.fromkeys(oses, 0)
        self._flips = 0
        self._asks = {name: Bucket(ASK_RATE, ASK_BURST) for name in oses}
        self._log = AgentLog()
        self._owners: set[str] = set()  # what the machine's owner waits for
        self._unanswered = dict.fromkeys(oses, 0)
        self._heart: asyncio.TimerHandle | None = None
        self._returning: dict[str, asyncio.TimerHandle] = {}  # started again, agent not there yet

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the devices, start the agents, make the first OS foreground. Raises HostsimError."""
        mirrored = any(device.mode == "mirror" for device in self._spec.devices)
        if mirrored and not uinput_available():
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
        for port in self._ports.values():
            port.open()
        self._nodes = {name: OsNodes(vm) for name, vm in self._oses.items()}
        held = self._spec.kmc.held
        self._mirror = Mirror(self._nodes, self._hotkey, held, self._journal)
        self._direct = Direct(self._nodes, self._hotkey, held, self._journal)
        self._watch(self._mirror.fileno(), self._mirror.on_readable)
        self._watch(self._direct.fileno(), self._direct.on_readable)
        if self._spec.devices:
            self._hotplug = Hotplug()  # listens before it looks, so that nothing slips through
            for node in self._hotplug.present():
                self._plugged(node)
            self._watch(self._hotplug.fileno(), self._on_hotplug)
        try:
            async with asyncio.timeout(AGENT_START):
                for ready in self._ready.values():
                    await ready.wait()
        except TimeoutError:
            late = [name for name, ready in self._ready.items() if not ready.is_set()]
            log.warning("no agent in %s after %g s", ", ".join(late), AGENT_START)
        first = self._spec.kmc.foreground or next(iter(self._oses))
        await self.flip(first, "start")
        for name, vm in self._oses.items():
            if name != first:
                background.enter(vm)
        self._beat()

    async def stop(self) -> None:
        """Give everything back to the machine and end the agents. Twice is harmless."""
        self._release_number += 1  # no answer counts any more
        loop = asyncio.get_running_loop()
        for timer in (self._deadline, self._heart, *self._returning.values()):
            if timer is not None:
                timer.cancel()
        while self._readers:
            loop.remove_reader(self._readers.pop())
        for asked in self._asked:
            if not asked.future.done():
                asked.future.set_exception(HostsimError("flip", "the host goes down"))
        self._asked.clear()
        for driver in self._drivers():
            driver.close()
        self._mirror = self._direct = self._nics = None
        if self._hotplug is not None:
            self._hotplug.close()
            self._hotplug = None
        for port in self._ports.values():
            port.close()
        for nodes in self._nodes.values():
            nodes.close()
        self._log.tell(everything=True)

    def vm_gone(self, name: str) -> None:
        """An OS's process 1 has ended, or is about to: what it had goes to the next in line, before
        anything else is done about it."""
        if name in self._oses:
            self._by = f"the end of {name}"
            if name in self._returning:
                self._returning.pop(name).cancel()
            self._act(self._machine.gone(name))
            log.warning("%s died", name)
            self._ports[name].close()

    def vm_back(self, name: str) -> None:
        """An OS that died was started again. Once its agent is there (or AGENT_START is over) it is
        in the background; where no OS is foreground, it gets the equipment. Raises OSError,
        HostsimError."""
        vm = self._oses[name]
        background.prepare(vm)
        self._nodes[name].close()
        self._nodes[name] = OsNodes(vm)
        self._unanswered[name] = 0
        assert self._mirror is not None
        assert self._nics is not None
        self._mirror.os_back(name)
        self._nics.os_back(name)
        self._ports[name].open()
        loop = asyncio.get_running_loop()
        self._returning[name] = loop.call_later(AGENT_START, self._returned, name)

    def _returned(self, name: str) -> None:
        self._returning.pop(name).cancel()
        if self._ports[name].resident is None:
            log.warning("no agent in %s after %g s", name, AGENT_START)
        log.info("%s is back", name)
        self._by = f"the return of {name}"
        self._act(self._machine.back(name))

    # -- what others ask --------------------------------------------------------------------------

    async def flip(self, name: str, by: str) -> Json:
        """Make `name` the foreground OS; returns when it has the equipment.

        {"foreground", "previous", "ms"}: ms from the request on. Raises HostsimError where it is
        refused, or another request takes its place; nothing has changed then.
        """
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._request(name, by, future)
        return await future

    def status(self) -> Json:
        """{"foreground", "oses": [{"name", "state", "agent", "overruled"}], "flips"}; agent: `ok`,
        `hung` (does not answer), `frozen` or `none`."""
        return {
            "foreground": self._machine.foreground,
            "oses": [
                {
                    "name": name,
                    "state": self._machine.state(name).value,
                    "agent": self._health(name),
                    "overruled": self._overruled[name],
                }
                for name in self._oses
            ],
            "flips": self._flips,
        }

    def devices(self) -> list[Json]:
        """The equipment; see `Equipment.identify`."""
        return [device for driver in self._drivers() for device in driver.identify()]

    # -- flips ------------------------------------------------------------------------------------

    def _request(
        self, name: str, by: str, future: asyncio.Future[Json], owner: bool = True
    ) -> None:
        begun = time.monotonic()
        waiting = self._machine.waiting
        try:
            if not owner and waiting is not None and waiting in self._owners:
                raise Refused(f"the machine's owner waits for {waiting}")
            actions = self._machine.flip(name)
        except Refused as refused:
            self._log.say(by, "refusals", f"flip to {name}, asked by {by}: refused: {refused}")
            future.set_exception(HostsimError(f"flip to {name}", str(refused)))
            return
        if owner:
            self._owners.add(name)
        self._asked.append(_Asked(name, by, begun, future))
        self._act(actions, begun)

    def _act(self, actions: Sequence[Action], begun: float | None = None) -> None:
        """begun: when that was asked for which these begin; else they begin now."""
        todo = deque(actions)
        while todo:
            match todo.popleft():
                case AskRelease(name):
                    since, begun = begun or time.monotonic(), None
                    todo.extendleft(reversed(self._ask_release(name, since)))
                case Release(name):
                    self._release(name)
                    todo.extendleft(reversed(self._machine.released(name)))
                case Take(name):
                    background.leave(self._oses[name])
                    self._take(name)
                    todo.extend(self._machine.taken(name))  # after what the old OS is to be told
                case Tell(name, state):
                    self._ports[name].tell(Message(Type.STATE, 0, state.value))
                    if state is State.BACKGROUND:
                        background.enter(self._oses[name])
                case Done(name, previous):
                    self._done(name, previous)
                case Superseded(name, newer):
                    why = f"a later request, for {newer}, took its place"
                    self._fail(name, why)
                case Abandoned(name):
                    self._fail(name, "it died")

    def _ask_release(self, name: str, since: float) -> list[Action]:
        self._release_number += 1
        timeout = self._spec.kmc.release_timeout
        ask = Message(Type.RELEASE, self._release_number, str(round(timeout * 1000)))
        if not self._ports[name].tell(ask):
            return self._machine.agent_released(name)
        self._deadline = asyncio.get_running_loop().call_at(since + timeout, self._overrule, name)
        self._answered = False
        for driver in self._drivers():
            driver.ask(name)
        return []

    def _overrule(self, name: str) -> None:
        self._deadline = None
        if not self._answered:
            self._overruled[name] += 1
        self._act(self._machine.deadline(name))
        timeout = self._spec.kmc.release_timeout
        if self._answered:
            log.warning("%s: did not read what it was given within %g s", name, timeout)
        else:
            log.warning("%s did not release within %g s: overruled", name, timeout)

    def _release(self, name: str) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        for driver in self._drivers():
            driver.save(name)
        for driver in self._drivers():
            try:
                driver.release(name)
            except OSError:
                # Whether the OS still has it is unknown, so nobody else may get it.
                log.exception("%s cannot be taken from %s; it is out of use", driver, name)
                if isinstance(driver, Mirror | Direct):
                    self._unwatch(driver.fileno())
                driver.close()

    def _take(self, name: str) -> None:
        for driver in self._drivers():
            driver.restore(name)
        for driver in self._drivers():
            driver.take(name)

    def _done(self, name: str, previous: str | None) -> None:
        self._flips += 1
        now = time.monotonic()
        longest = 0.0
        by = self._by
        asked, self._asked = self._asked_for(name)
        for one in asked:  # not when they ask: a flip does not wait for the log
            self._log.say(one.by, "requests", f"flip to {name}, asked by {one.by}")
        for one in reversed(asked):
            ms = round((now - one.begun) * 1000, 3)
            longest = max(longest, ms)
            by = one.by  # at last the first who asked
            if not one.future.done():
                one.future.set_result({"foreground": name, "previous": previous, "ms": ms})
        self._owners.discard(name)
        log.info("%s is foreground after %s, by %s, %g ms", name, previous, by, longest)
        event = {"event": "foreground", "os": name, "previous": previous, "by": by}
        for port in self._ports.values():
            port.announce(Message(Type.EVENT, 0, json.dumps(event)))

    def _fail(self, name: str, why: str) -> None:
        asked, self._asked = self._asked_for(name)
        self._owners.discard(name)
        for one in asked:
            self._log.say(one.by, "refusals", f"flip to {name}, asked by {one.by}: refused: {why}")
            if not one.future.done():
                one.future.set_exception(HostsimError(f"flip to {name}", why))

    def _asked_for(self, name: str) -> "tuple[list[_Asked], list[_Asked]]":
        """Who waits for this OS, and who for others."""
        here = [one for one in self._asked if one.os == name]
        return here, [one for one in self._asked if one.os != name]

    def _hotkey(self) -> None:
        try:
            name = self._machine.next()
        except Refused as refused:
            log.info("flip to the next OS, asked by the hotkey: refused: %s", refused)
            return
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_heard)
        self._request(name, "the hotkey", future)

    # -- agents (agents.Handler) ------------------------------------------------------------------

    def ready(self, name: str) -> None:
        """See `agents.Handler`."""
        self._ready[name].set()
        self._ports[name].tell(Message(Type.STATE, 0, self._machine.state(name).value))
        if name in self._returning:
            self._returned(name)

    def released(self, name: str, sequence: int) -> None:
        """See `agents.Handler`. An answer to an older question is ignored."""
        if sequence == self._release_number and not self._answered:
            self._answered = True
            self._released(name, sequence)

    def _released(self, name: str, sequence: int) -> None:
        """Go on once its programs have read what came before; nothing tells when, so it is looked
        at again. An older question's is ignored."""
        if sequence != self._release_number:
            return
        if self._deadline is not None and any(driver.unread(name) for driver in self._drivers()):
            asyncio.get_running_loop().call_later(AGAIN, self._released, name, sequence)
        else:
            self._act(self._machine.agent_released(name))

    def request(self, name: str, connection: Connection, message: Message) -> None:
        """See `agents.Handler`."""
        if message.type is Type.STATUS:
            status = {
                "os": name,
                "state": self._machine.state(name).value,
                "foreground": self._machine.foreground,
            }
            connection.send(Message(Type.OK, message.sequence, json.dumps(status)))
            return
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: _answer(connection, message.sequence, done))
        try:
            wanted = self._machine.next() if message.type is Type.NEXT else shown(message.body)
            if not {"*", name} & set(self._spec.kmc.may_flip):
                raise Refused(f"{name} may not ask for it ([kmc] may_flip)")
            if not self._asks[name].take(time.monotonic()):
                raise Refused(f"{name} asks too often")
        except Refused as refused:
            to = "the next OS" if message.type is Type.NEXT else shown(message.body)
            what, by = f"flip to {to}", f"{AN_AGENT}{name}"
            self._log.say(by, "refusals", f"{what}, asked by {by}: refused: {refused}")
            future.set_exception(HostsimError(what, str(refused)))
            return
        self._request(wanted, f"{AN_AGENT}{name}", future, owner=False)

    def offence(self, name: str, why: str) -> None:
        """See `agents.Handler`."""
        self._log.say(AN_AGENT + name, "offences", f"agent socket of {name}: {why}")

    def beat(self, name: str) -> None:
        """See `agents.Handler`."""
        self._unanswered[name] = 0

    def _beat(self) -> None:
        self._heart = asyncio.get_running_loop().call_later(BEAT, self._beat)
        self._log.tell()
        for name, vm in self._oses.items():
            if not vm.alive or freezer.asked(vm.cgroup) or self._ports[name].resident is None:
                self._unanswered[name] = 0
                continue
            if self._unanswered[name] == MISSED:
                log.warning("%s: its agent has not answered for %g s", name, MISSED * BEAT)
            self._unanswered[name] += 1
            self._ports[name].tell(Message(Type.PING))

    def _health(self, name: str) -> str:
        vm = self._oses[name]
        if self._ports[name].resident is None or not vm.alive:
            return "none"
        if freezer.asked(vm.cgroup):
            return "frozen"
        return "hung" if self._unanswered[name] > MISSED else "ok"

    # -- devices ----------------------------------------------------------------------------------

    def _drivers(self) -> list[Equipment]:
        drivers = (self._mirror, self._direct, self._nics)
        return [driver for driver in drivers if driver is not None]

    def _on_hotplug(self) -> None:
        assert self._hotplug is not None
        assert self._mirror is not None
        assert self._direct is not None
        for action, node in self._hotplug.events():
            if action == "add":
                self._plugged(node)
            elif action == "remove":
                self._mirror.remove(node.sysname)
                self._direct.remove(node.sysname)

    def _plugged(self, node: InputNode) -> None:
        assert self._mirror is not None
        assert self._direct is not None
        if self._mirror.owns(node.sysname) or self._mirror.has(node.sysname):
            return
        if self._direct.has(node.sysname):
            return
        source = None
        try:
            source = Source(node.node)
            spec = first_match(self._spec.devices, source.identity, node)
            if spec is None:
                source.close()
                return
            driver = self._mirror if spec.mode == "mirror" else self._direct
            driver.add(source, node, spec)
            log.info("%s (%s): %s", source.identity.name, node.node, spec.mode)
        except (OSError, HostsimError) as error:
            log.warning("%s: cannot be taken: %s", node.node, error)
            if source is not None:
                source.close()

    def _watch(self, fd: int, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().add_reader(fd, callback)
        self._readers.append(fd)

    def _unwatch(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        self._readers.remove(fd)


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
