# SPDX-License-Identifier: Apache-2.0
"""The network functions of a host: starts them in their VMs, joins neighbours by rings, gives them
their routing rules, starts again what has died, and keeps their books.

For each NF next to another in a route there is a channel each way, in memory that only these two
have, or, if the route says `ring = "shared"`, over one umem (hostsim/nf/rings.py).

Rules. The classifier decides a flow on the switch; `sync` reads its decisions and gives the rule to
the sending VM's table: this flow, at this VM, goes to that neighbour, in this epoch, and what to do
when its ring is full. A new epoch makes all rules stale with one store (cext/port/rules.h). A flow
whose port has no place to count it gets no rule. A flow of which switch and port have seen nothing
for FLOW_IDLE loses its rule, and both forget what they counted.

Places. Where the functions want most of the machine, each has its cores (hostsim/nf/cores.py).

A function that ends by itself is started again, at the pace of restart.FUNCTION; one that is given
up is to the switch as if its VM were gone. Its neighbours forget the rings to it before it gets new
ones, and meanwhile their packets go to the switch. Its VM decides how long it takes to be ready, so
nobody waits for that but START.

Functions join, leave and change while the host runs (coming.py). What shares memory is settled
when they join.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from cext.ring.channel import make_channel
from cext.switch import maps
from cext.switch.records import Account, Flow, Tuple
from hostsim.errors import HostsimError
from hostsim.logs import Logs
from hostsim.model import HostSpec, Json, RouteSpec, VmSpec
from hostsim.nf import cores, frames, rings, settings
from hostsim.nf.coming import SOURCE, Change, Changing, Coming, Left
from hostsim.nf.former import Former
from hostsim.nf.function import READY, Function, Memory
from hostsim.nf.placing import Placing
from hostsim.nf.runner import RING
from hostsim.restart import FUNCTION, Backoff
from hostsim.routing import dataplane
from hostsim.routing.accounts import Books, Snapshot
from hostsim.routing.ringside import Rings
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.process import Process

log = logging.getLogger("hostsim.functions")

START = 0.05  # seconds that others wait for a function to open its port; then it is looked at again
AGING = 2.0  # seconds between two looks for what is idle
ANSWER = 0.5  # seconds to say what was counted
IN_HAND = 128  # packets that a function may have taken or counted, but not passed on


class Functions:
    """All network functions of a host. `sync` is to be called some ten times a second. placed:
    they have their cores, if they want most of the machine. tapped: they can be captured."""

    def __init__(
        self,
        spec: HostSpec,
        switch: Switch,
        plane: dataplane.Dataplane,
        vms: Mapping[str, Vm],
        logs: Path,
        placed: bool = True,
        tapped: bool = True,
    ) -> None:
        self._switch = switch
        self._plane = plane
        self._vms = vms
        self._tapped = tapped
        self._logs = Logs(logs)
        self._frames = frames.USUAL
        self._by_number: dict[int, Function] = {}
        self._parting: dict[int, Function] = {}  # they leave, and still have something in hand
        self._backoffs: dict[int, Backoff] = {}
        self._pairs: set[rings.Pair] = set()
        self._memories: list[tuple[Memory, set[int]]] = []  # and who shares it
        self._epoch = 0
        self._books = Books()
        self._former = Former()
        self._aged = time.monotonic()
        self._reporting = asyncio.Lock()
        self._rings: dict[tuple[int, Tuple], int] = {}
        self._placing = Placing(()) if placed else None
        with_one = [vm for vm in vms.values() if vm.spec.nf is not None]
        self.adopt(self.coming(with_one, spec.routes, spec.path.parent))
        self._pairs |= rings.plan(spec.routes, self._numbers).pairs
        self.policy(spec.routes)
        plane.join(self)

    # -- life -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make ports and VMs ready. Raises OSError."""
        for function in self._by_number.values():
            function.prepare()

    def start(self) -> None:
        """Start all of them and join them; may run in a thread, while others use the switch.
        Raises HostsimError, OSError."""
        for function in self._by_number.values():
            function.spawn()
        # Sources last: whoever gets what they send is there.
        for function in sorted(self._by_number.values(), key=lambda f: f.vm.spec.nf == SOURCE):
            function.start()
        for pair in self._pairs:
            self._join(pair)

    def close(self) -> None:
        """End all of them. Twice is harmless."""
        self._plane.leave()
        for function in (*self._by_number.values(), *self._parting.values()):
            function.close()
        for memory, _ in self._memories:
            memory.close()
        self._logs.close()

    # -- those who come, go and change: see coming.py ---------------------------------------------

    @property
    def _numbers(self) -> dict[str, int]:
        return {one.vm.spec.name: number for number, one in self._by_number.items()}

    def policy(self, routes: Sequence[RouteSpec]) -> None:
        """The routes of the host are these."""
        if self._placing is not None:
            self._placing.line = cores.line(routes, self._numbers)

    def coming(self, vms: Sequence[Vm], routes: Sequence[RouteSpec], folder: Path) -> Coming:
        """The functions of these VMs, of those that have one; routes: of the host as it will be;
        folder: where functions are found. Raises OSError."""
        new = [vm for vm in vms if vm.spec.nf is not None]
        largest = max(frames.shape(vm.spec.mtu for vm in new), self._frames)
        coming = Coming({})
        try:
            for vm in new:
                given = self._given(vm, vm.spec)
                coming.functions[vm.index] = Function(
                    vm, self._switch, folder, self._logs, given, largest
                )
            plan = rings.plan(routes, {vm.spec.name: vm.index for vm in new})
            for group in plan.groups:
                memory = Memory(largest, group)
                coming.memories.append((memory, set(group)))
                for number in group:
                    coming.functions[number].memory = memory
        except BaseException:
            coming.close()
            raise
        return coming

    def _given(self, vm: Vm, spec: VmSpec) -> Json:
        everybody = {one.index: one for one in (*self._vms.values(), vm)}.values()
        macs = {a.ip: one.mac for one in everybody for a in one.spec.addresses}
        return settings.settings(spec, vm.mac, macs) | {"tapped": self._tapped}

    def adopt(self, coming: Coming) -> None:
        """These functions are the host's from now on."""
        for number, function in coming.functions.items():
            self._by_number[number] = function
            self._backoffs[number] = Backoff(FUNCTION)
            self._frames = max(self._frames, function.frames)
            function.rules.set_epoch(self._epoch)
        self._memories += coming.memories
        coming.functions.clear()
        coming.memories.clear()

    def begin(self, vms: Sequence[Vm]) -> None:
        """The routes are there that the sources among those who joined were loaded for."""
        for function in [self._by_number[vm.index] for vm in vms if vm.spec.nf == SOURCE]:
            try:
                function.begin()
            except OSError as error:
                log.error("%s: cannot be started: %s", function.vm.spec.name, error)
                function.due = time.monotonic()

    def part(self, vms: Sequence[Vm]) -> list[Function]:
        """The functions of VMs that leave, of those that have one: from now on no rule names them,
        and none is started again."""
        numbers = [vm.index for vm in vms if vm.index in self._by_number]
        parting = {number: self._by_number.pop(number) for number in numbers}
        self._parting |= parting
        self._rings = {
            key: to for key, to in self._rings.items() if not parting.keys() & {key[0], to}
        }
        return list(parting.values())

    def gone(self, left: Sequence[Left]) -> None:
        """These functions have ended: their neighbours forget them, and what they had counted is
        kept."""
        for one in left:
            number = one.function.vm.index
            self._forgotten(number, IN_HAND if one.whole else frames.RING + IN_HAND)
            self._pairs = {pair for pair in self._pairs if number not in pair}
            self._former.keep(number, one.accounts, one.other)
            del self._parting[number], self._backoffs[number]
            one.function.close()
            for memory, group in self._memories:
                group.discard(number)
                if not group:
                    memory.close()
            self._memories = [(memory, group) for memory, group in self._memories if group]

    def changing(self, specs: Sequence[VmSpec], folder: Path) -> Changing:
        """What has functions become what these VMs are to be."""
        named = {one.vm.spec.name: one for one in self._by_number.values()}
        found = [(named[spec.name], spec) for spec in specs if spec.name in named]
        return Changing(
            [Change(one, spec, self._given(one.vm, spec)) for one, spec in found], folder
        )

    def change(self, changing: Changing) -> list[Callable[[], None]]:
        """They are that from now on; one that was given up is started again. What is left to be
        done by a thread."""
        jobs: list[Callable[[], None]] = []
        for number, (function, new) in changing.ready.items():
            if number not in self._by_number:
                jobs.append(partial(function.give_up, new))
                continue
            jobs += function.become(new)
            if function.state == "failed":
                self._backoffs[number] = Backoff(FUNCTION)
                function.due = time.monotonic()
        changing.ready.clear()
        return jobs

    def _join(self, pair: rings.Pair) -> None:
        """New rings between two of them, and nobody else has them. They take no packet that the
        switch would not deliver: none longer than either's link takes."""
        a, b = pair
        mtu = min(self._by_number[number].vm.spec.mtu for number in pair)
        sizes = min(self._by_number[number].frames for number in pair)
        shared = any(pair <= group for _, group in self._memories)
        shape = sizes.shared(mtu) if shared else sizes.isolated(mtu)
        with contextlib.ExitStack() as closing:
            fds = [make_channel(shape), make_channel(shape)]
            for fd in fds:
                closing.callback(os.close, fd)
            bells = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(2)]
            for fd in (*bells[0], *bells[1]):
                closing.callback(os.close, fd)
            one, other = self._by_number[a], self._by_number[b]
            one.neighbour(b, shape, (fds[0], fds[1], bells[0][0], bells[1][1]))
            other.neighbour(a, shape, (fds[1], fds[0], bells[1][0], bells[0][1]))

    def _joined(self, a: int, b: int) -> bool:
        """Whether two VMs have rings; they get them when routes first make them neighbours."""
        ends = [self._by_number.get(number) for number in (a, b)]
        if not all(end is not None and end.ready and end.leaves is None for end in ends):
            return False
        pair = frozenset((a, b))
        if pair not in self._pairs:
            self._pairs.add(pair)
            self._join(pair)
        return True

    def _others(self, number: int) -> list[int]:
        """Those that have rings to it."""
        return [
            other
            for pair in self._pairs
            if number in pair
            for other in pair - {number}
            if other in self._by_number
        ]

    def _forgotten(self, number: int, packets: int) -> None:
        """Its neighbours have no rings to it any more. packets: that each may have put there, and
        nobody has taken."""
        for other in self._others(number):
            self._by_number[other].forget(number)
            self._lost(other, packets)

    def _lost(self, number: int, packets: int) -> None:
        """So many of what it sent may be lost."""
        self._books.died[number] = self._books.died.get(number, 0) + packets

    def _revive(self, function: Function) -> None:
        """Take one that has ended a step further towards running again."""
        now = time.monotonic()
        process = function.process
        if process is not None and function.leaves is not None and now > function.leaves:
            process.kill()
        if process is not None and process.poll() is not None and not function.begins:
            self._died(function, now)
        if not function.begins and (function.due is None or now < function.due):
            return
        again = function.due is not None
        try:
            if not self._begun(function, now) or not function.placed(START):
                return
        except (HostsimError, OSError) as error:
            log.error("%s: cannot be started again: %s", function.vm.spec.name, error)
            self._died(function, now)
            return
        if again:
            self._backoffs[function.vm.index].started(now)
            log.info("%s: its network function runs again", function.vm.spec.name)
        self._plane.link_back(function.vm.spec.name, "function")  # if it had been given up
        for other in self._others(function.vm.index):
            if self._by_number[other].ready:
                self._join(frozenset((function.vm.index, other)))

    def _begun(self, function: Function, now: float) -> bool:
        """Have it begin once it is loaded. Raises HostsimError, OSError."""
        if function.begins:
            return True
        function.spawn()
        if not function.loaded():
            assert function.due is not None
            if now < function.due + READY:
                return False
            function.drop_spare()
            raise HostsimError(function.vm.spec.name, f"not loaded after {READY:.0f} s")
        function.begin()
        return True

    def _keep_spare(self, function: Function) -> None:
        try:
            function.keep_spare()
        except (HostsimError, OSError) as error:
            log.warning("%s: no other process to take over: %s", function.vm.spec.name, error)

    def _died(self, function: Function, now: float) -> None:
        name, number = function.vm.spec.name, function.vm.index
        status = function.process.poll() if function.process is not None else None
        words = function.last_words() if status is not None and status >= 0 else ""
        changed = function.leaves is not None
        function.why = f"status {status}" + (f": {words}" if words else "")
        if changed:
            function.why = "a change by apply"
        function.ended()
        self._lost(number, RING + IN_HAND)
        self._forgotten(number, frames.RING + IN_HAND)
        killed = status == -signal.SIGKILL
        delay = 0.0 if changed else self._backoffs[number].died(now, killed)
        if delay is None or not function.vm.alive:
            log.error("%s: its network function is given up (%s)", name, function.why)
            function.due = None
            self._plane.link_lost(name, "function")
            return
        function.due = now + delay
        log.warning("%s: its network function ended (%s)", name, function.why)

    # -- rules ------------------------------------------------------------------------------------

    @property
    def rings(self) -> Rings:
        """The rules into rings that hold now."""
        return self._rings

    def new_epoch(self, epoch: int) -> None:
        """Every rule of another epoch is stale when this returns."""
        if epoch == self._epoch:
            return
        for function in self._by_number.values():
            function.rules.set_epoch(epoch)
        self._rings.clear()
        self._epoch = epoch

    def sync(self) -> None:
        """Restart what has died, and bring the rules in line with the switch's decisions. Raises
        OSError."""
        for function in self._by_number.values():
            self._revive(function)
            self._keep_spare(function)
        if self._placing is not None:
            running = {number: one.process for number, one in self._by_number.items()}
            self._placing.look({n: one.pid for n, one in running.items() if one is not None})
        self.new_epoch(self._plane.epoch)
        seen = self._plane.function_flows()
        if time.monotonic() - self._aged > AGING:
            self._aged = time.monotonic()
            seen = self._age(seen)
        given = {}
        for flow, route in self._plane.ring_hops(seen):
            key, to = (flow.vm, flow.tuple), flow.verdict.to
            if not self._joined(flow.vm, to):
                continue
            if self._rings.get(key) == to or self._give(flow, route):
                given[key] = to
        for vm, ended in self._rings.keys() - given.keys():
            self._by_number[vm].rules.remove(maps.pack_tuple(ended))
        self._rings = given

    def _give(self, flow: Flow, route: RouteSpec) -> bool:
        """Give a rule for a flow that has a place in its port's tally; False: none, or no room."""
        function = self._by_number[flow.vm]
        if function.tally.find(flow.tuple) is None:
            return False
        name, wait = maps.pack_tuple(flow.tuple), route.on_full == "wait"
        log.debug("%s: a rule into the ring to VM %d", function.vm.spec.name, flow.verdict.to)
        return function.rules.put(name, flow.verdict.to, self._epoch, wait)

    # -- books ------------------------------------------------------------------------------------

    def _accounts(self) -> list[Account]:
        """What the ports have written: first what came by ring, then what was sent, so that nothing
        seems to have been received that was not sent."""
        functions = (*self._by_number.values(), *self._parting.values())
        tallies = [function.tally for function in functions]
        former = self._former.accounts
        got = [one for tally in tallies for one in tally.read() if one.peer]
        sent = [one for tally in tallies for one in tally.read() if not one.peer]
        return [*got, *sent, *former]

    @property
    def taps(self) -> dict[str, int]:
        """By VM name, the descriptor of its function's tap."""
        return {one.vm.spec.name: one.tap for one in self._by_number.values()}

    def snapshot(self) -> Snapshot:
        """What the ports have counted, see accounts.py."""
        functions = (self._by_number | self._parting).items()
        other = {**self._former.other, **{n: one.tally.other() for n, one in functions}}
        return self._books.snapshot(self._accounts(), other)

    def _age(self, seen: Sequence[Flow]) -> list[Flow]:
        """Forget flows that nobody has sent for FLOW_IDLE, and their rules; their counts are
        retained. Those that are left."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        idle = int(dataplane.FLOW_IDLE * 1e9)
        long_ago = now - idle
        accounts = self._accounts()
        sent = {(one.vm, one.flow): one for one in accounts if not one.peer}
        # What a VM sent and what others took of it go together: half of it would look like a loss.
        # Those who take may write what they like, so their word is good for so long.
        latest = {key: min(one.last, now) for key, one in sent.items()}
        for one in accounts:
            key, most = (one.peer, one.flow), now
            if key in sent:
                most = min(now, sent[key].last + idle)
            if one.peer:
                latest[key] = max(latest.get(key, 0), min(one.last, most))
        left, dropped = [], []
        for flow in seen:
            account = sent.get((flow.vm, flow.tuple))
            if max(flow.last, latest.get((flow.vm, flow.tuple), 0)) > long_ago:
                left.append(flow)
                continue
            function = self._by_number.get(flow.vm)
            if function is not None:
                function.rules.remove(maps.pack_tuple(flow.tuple))
                again = function.tally.find(flow.tuple)
                if again is not None and account is not None and again.last != account.last:
                    left.append(flow)  # it has come back to life just now
                    continue
            self._plane.drop_flow(flow.vm, flow.tuple)
            dropped.append(flow)
        alive = {(flow.vm, flow.tuple) for flow in left}
        gone = [
            one
            for one in accounts
            if (key := (one.peer or one.vm, one.flow)) not in alive and latest[key] <= long_ago
        ]
        self._plane.retain(self._books.snapshot(gone, {}), dropped)
        self._books.forget(gone)
        self._books.prune(accounts)
        self._former.folded(gone)
        return left

    # -- what is asked ----------------------------------------------------------------------------

    def alive(self) -> list[int]:
        """The pidfds of the functions that run; they stay theirs."""
        running = [one.process for one in self._by_number.values() if one.process is not None]
        return [process.fileno() for process in running if process.poll() is None]

    async def report(self) -> dict[str, Json]:
        """By VM name, for `status`: the function, its state, its process, how often it was started
        again, why it last ended, and its counters: the last known ones of one that is `silent`. It
        is waited for once, for ANSWER at most."""
        async with self._reporting:
            await asyncio.gather(*(one.hear(ANSWER) for one in self._by_number.values()))
        return {
            one.vm.spec.name: {
                "name": one.vm.spec.nf,
                "state": one.state,
                "pid": one.process.pid if one.process is not None else None,
                "restarts": self._backoffs[number].total,
                "why": one.why,
                "counters": one.counted,
                "silent": one.silent,
            }
            for number, one in self._by_number.items()
        }

    def _named(self, name: str) -> Function:
        (found,) = [one for one in self._by_number.values() if one.vm.spec.name == name]
        return found

    def process(self, name: str) -> Process | None:
        """The process of a VM's network function, None while there is none."""
        return self._named(name).process
