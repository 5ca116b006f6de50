# SPDX-License-Identifier: Apache-2.0
"""A host that runs gets the VMs, endpoints and policy of another host file: `hostsim apply`.

    Changes(host).apply(file) -> Json

In this order: those who come are started, linked, known to the data plane, and run their programs
and packet functions, and processes wait for packet functions that change; then the policy changes,
with one epoch; then these are what they became, and those leave that the file has no more. An
address that moves from one who leaves to one who comes is both's meanwhile. Whatever fails before
the policy changes is undone, newest first, and nothing has changed. Who stays keeps its processes,
links and connections, and loses no packet.

What waits for VMs and for the kernel's locks is done in threads. One apply runs at a time, and none
while a VM is made anew (`turn`); a host that goes down ends it first.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cext.switch import records
from hostsim import etc, members
from hostsim.carriers import Carriers
from hostsim.errors import HostsimError, reason
from hostsim.hostfile import difference
from hostsim.hostfile.difference import Plan
from hostsim.model import HostSpec, Json
from hostsim.programs import Programs
from hostsim.routing.dataplane import Dataplane
from hostsim.switch import Switch
from hostsim.systems import Systems
from hostsim.teardown import Teardown, in_thread
from hostsim.vm import Vm
from netns.journal import Journal

if TYPE_CHECKING:
    from hostsim.nf.coming import Coming
    from hostsim.nf.functions import Functions

log = logging.getLogger("hostsim.host")


class Joined(NamedTuple):
    """What VMs join and leave. functions: None if the host has had none so far."""

    journal: Journal
    switch: Switch
    dataplane: Dataplane
    carriers: Carriers
    programs: Programs
    functions: "Functions | None"


class Changing(Protocol):
    """The host, as it is changed."""

    spec: HostSpec
    vms: dict[str, Vm]

    @property
    def joined(self) -> Joined: ...
    def attend(self, vms: Iterable[Vm]) -> None: ...
    def leave(self, vms: Iterable[Vm]) -> None: ...
    async def functions(self) -> "Functions": ...
    def sync_functions(self) -> None: ...


class Changes:
    """See the module."""

    def __init__(
        self,
        host: Changing,
        systems: Systems,
        doing: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """doing: names what the loop does (stalls.py)."""
        self._host = host
        self._doing = doing
        self._systems = systems
        self._busy = asyncio.Lock()
        self.ended = False
        """Whether the host goes down."""
        self._next = 0  # the least number that no VM has had

    async def end(self) -> None:
        """The host goes down: no apply and no turn begins; those that run are undone or done
        when this returns."""
        self.ended = True
        self._systems.end()
        async with self._busy:
            pass

    @contextlib.asynccontextmanager
    async def turn(self, what: str) -> AsyncIterator[None]:
        """Inside of this nobody else joins, leaves, or is made anew. what: begins the error. Raises
        HostsimError if the host goes down."""
        async with self._busy:
            self.refuse_if_ended(what)
            yield

    def refuse_if_ended(self, what: str = "apply") -> None:
        """Raises HostsimError if the host goes down."""
        if self.ended:
            raise HostsimError(what, "the host goes down")

    async def apply(self, file: HostSpec, dry_run: bool) -> Json:
        """See Host.apply."""
        if dry_run:
            plan = await in_thread(partial(difference.plan, self._host.spec, file))
            self._systems.check(plan)
            return _told(plan, len(file.routes), self._host.joined.dataplane.epoch, dry_run)
        async with self._busy:
            plan = await in_thread(partial(difference.plan, self._host.spec, file))
            undo = Teardown("apply")
            try:
                self._systems.hold(plan, undo)
                await self._join(plan, undo, file.path.parent)
                leaving = [one.name for one in plan.removed]
                dataplane = self._host.joined.dataplane
                change = await in_thread(partial(dataplane.compile, plan.spec, leaving))
                await in_thread(dataplane.readying.preparing(plan.spec.routes))
                before = dataplane.impairing(dataplane.impaired)
                undo.push("links' program", dataplane.let_go, blocks=True)
                undo.push("links", before, blocks=True)
                await in_thread(dataplane.impairing(change.links))
                become = await self._becoming(plan, undo, file.path.parent)
                self.refuse_if_ended()
                with self._doing("apply of a policy"):
                    done = dataplane.change(change)
            except BaseException:
                await self._undone(undo)
                raise
            self._host.spec = plan.spec
            for one in (*plan.spec.vms, *plan.spec.endpoints):
                self._host.vms[one.name].spec = one
            try:  # there is no way back from here
                with self._doing("packet functions that change"):
                    jobs = become()
                await in_thread(lambda: [job() for job in jobs])
            except (OSError, HostsimError):
                log.exception("apply: packet functions that change")
            try:
                with self._doing("OSes of an apply"):
                    await self._systems.settle(plan)
            except (OSError, HostsimError):
                log.exception("apply: OSes")
            await self._leave([self._host.vms[name] for name in leaving])
            await in_thread(dataplane.let_go)
            await in_thread(partial(_rename, list(self._host.vms.values()), plan.spec))
            for line in plan.lines:
                log.info("apply: %s", line)
            return _told(plan, done["routes"], done["epoch"], dry_run)

    async def _undone(self, undo: Teardown) -> None:
        """Everything is as it was; what resists is logged: the caller has an error already."""
        try:
            await undo.aclose()
        except HostsimError as error:
            log.error("%s", error)

    # -- those who come ---------------------------------------------------------------------------

    async def _join(self, plan: Plan, undo: Teardown, folder: Path) -> None:
        """folder: where packet functions are found. Raises HostsimError, OSError; `undo` has what
        takes it back."""
        self.refuse_if_ended()
        host, joined = self._host, self._host.joined
        new = self._numbered(plan)
        vms, before = list(new.values()), list(host.vms.values())
        members.refuse(plan.spec, vms)
        if not vms:
            return
        undo.push("programs", partial(joined.programs.leave, list(new)))
        await in_thread(partial(members.start, new, joined.journal, undo), undo.give_up)
        self.refuse_if_ended()
        undo.push("owners", joined.dataplane.disown)
        joined.dataplane.expect(vms)
        undo.push("ports", partial(_disconnect, joined.switch, vms), blocks=True)
        await in_thread(partial(joined.switch.connect, vms, before))
        back = partial(joined.switch.reroute, before, [*before, *vms], before)
        undo.push("routes", back, blocks=True)
        await in_thread(partial(joined.switch.reroute, before, before, [*before, *vms]))
        coming = await self._coming(plan, vms, undo, folder)
        undo.push("data plane", partial(self._part, vms))
        await in_thread(joined.dataplane.readying.joining(vms))
        self.refuse_if_ended()
        host.vms.update(new)
        with self._doing("VMs that join"):
            joined.dataplane.add(vms)
        host.attend(vms)
        await self._systems.boot(vms, undo)
        if coming is not None:
            await in_thread(partial(coming.start, self.refuse_if_ended))
            undo.push("packet functions", partial(self._part_functions, vms))
            (await host.functions()).adopt(coming)
        await joined.programs.start([name for name, vm in new.items() if vm.spec.run is not None])
        await self._systems.join(plan, vms, joined.journal, undo)
        self.refuse_if_ended()
        for vm in vms:
            if not vm.alive:
                raise HostsimError("apply", f"{vm.spec.name} died while it was started")

    async def _coming(
        self, plan: Plan, vms: Sequence[Vm], undo: Teardown, folder: Path
    ) -> "Coming | None":
        """The packet functions of those who come, ready to be started; None: they have none.
        Raises HostsimError, OSError."""
        if all(vm.spec.nf is None for vm in vms):
            return None
        functions = await self._host.functions()
        coming = await in_thread(partial(functions.coming, vms, plan.spec.routes, folder))
        undo.push("those packet functions", coming.close, blocks=True)
        await in_thread(coming.prepare)
        return coming

    async def _becoming(
        self, plan: Plan, undo: Teardown, folder: Path
    ) -> Callable[[], list[Callable[[], None]]]:
        """What the packet functions of the host do once the policy has changed; it leaves jobs for
        a thread. Raises HostsimError, OSError."""
        functions = self._host.joined.functions
        if functions is None:
            return list
        changing = await in_thread(partial(functions.changing, plan.changed, folder))
        undo.push("packet functions that change", changing.close, blocks=True)
        await in_thread(partial(changing.load, self.refuse_if_ended))
        names = {one.name for one in plan.added}

        def become() -> list[Callable[[], None]]:
            jobs = functions.change(changing)
            functions.policy(plan.spec.routes)
            functions.begin([vm for name, vm in self._host.vms.items() if name in names])
            self._sync_functions()
            return jobs

        return become

    def _numbered(self, plan: Plan) -> dict[str, Vm]:
        """Those who come, with numbers that nobody has had; these are used anew only if there are
        no others. Raises HostsimError if there is none at all."""
        host, uplinks = self._host, self._host.joined.switch.uplinks.values()
        taken = {vm.index for vm in host.vms.values()} | set(uplinks)
        self._next = max(self._next, *taken, 0) + 1 if taken else 1
        fresh = list(range(self._next, records.VM_MAX + 1))
        numbers = fresh + [one for one in range(1, records.VM_MAX + 1) if one not in taken]
        if len(set(numbers)) < len(plan.added):
            raise HostsimError("apply", f"more than {records.VM_MAX} VMs and endpoints")
        found: dict[str, Vm] = {}
        for spec, number in zip(plan.added, dict.fromkeys(numbers), strict=False):
            found[spec.name] = Vm(host.spec.name, spec, number)
            found[spec.name].names = etc.lines(plan.spec)
            self._next = max(self._next, number)
        return found

    # -- those who go -----------------------------------------------------------------------------

    async def _part_functions(self, vms: Sequence[Vm]) -> None:
        """Their packet functions end, once all that these have in hand has gone on. Raises
        OSError, HostsimError."""
        functions = self._host.joined.functions
        if functions is None or all(vm.spec.nf is None for vm in vms):
            return
        from hostsim.nf.coming import leave  # only hosts that have some load it

        parting = functions.part(vms)
        self._sync_functions()
        left = await in_thread(partial(leave, parting))
        functions.gone(left)

    def _sync_functions(self) -> None:
        """What fails is logged: it is tried again in a moment."""
        try:
            self._host.sync_functions()
        except (OSError, HostsimError):
            log.exception("apply: packet functions")

    def _part(self, vms: Sequence[Vm]) -> None:
        """Nobody in the loop knows these VMs any more. Raises OSError."""
        host, joined = self._host, self._host.joined
        host.leave(vms)
        try:
            self._systems.part(vm.spec.name for vm in vms)
        except OSError as error:
            log.error("apply: OSes that leave: %s", reason(error))
        for vm in vms:
            joined.programs.forget(vm.spec.name)
            joined.carriers.forget(vm.spec.name)
            host.vms.pop(vm.spec.name, None)
        joined.dataplane.remove(vms)

    async def _leave(self, vms: Sequence[Vm]) -> None:
        """Those that the file has no more. What resists is logged: there is no way back."""
        if not vms:
            return
        before = list(self._host.vms.values())
        joined = self._host.joined
        try:
            await self._part_functions(vms)
        except (OSError, HostsimError):
            log.exception("apply: packet functions that leave")
        try:
            with self._doing("VMs that leave"):
                self._part(vms)
        except (OSError, HostsimError):
            log.exception("apply: VMs that leave")
        after = list(self._host.vms.values())
        await in_thread(partial(_end, joined.switch, vms, before, after))
        joined.programs.leave([vm.spec.name for vm in vms])
        try:
            joined.dataplane.disown()
        except OSError:
            log.exception("apply: the addresses of VMs that have left")


def _told(plan: Plan, routes: int, epoch: int, dry_run: bool) -> Json:
    """The contract's `apply`."""
    return {
        "routes": routes,
        "epoch": epoch,
        "added": [one.name for one in plan.added],
        "removed": [one.name for one in plan.removed],
        "changes": plan.lines,
        "ignored": list(plan.ignored),
        "dry_run": dry_run,
    }


def _disconnect(switch: Switch, vms: Iterable[Vm]) -> None:
    for vm in vms:
        if vm.port:
            switch.disconnect(vm)


def _end(switch: Switch, vms: Sequence[Vm], before: Sequence[Vm], after: Sequence[Vm]) -> None:
    """End VMs that have left, with their ports and the routes to them."""
    for vm in vms:
        if not vm.halts:  # an OS that is up ends itself, if it does so in time
            vm.kill()
    for step in (
        partial(_disconnect, switch, vms),
        partial(members.stop, {vm.spec.name: vm for vm in vms}),
        partial(switch.reroute, after, before, after),
    ):
        try:
            step()
        except (OSError, HostsimError) as error:
            log.error("apply: VMs that leave: %s", reason(error))


def _rename(vms: Iterable[Vm], spec: HostSpec) -> None:
    """The names that VMs know each other by are those of `spec`."""
    names = etc.lines(spec)
    for vm in vms:
        before, vm.names = vm.names, names
        private = vm.spec.files == "private" and vm.spec.root is None
        if private and names != before and vm.runs:
            with contextlib.suppress(OSError):  # its memory is full, or it ends
                etc.rename(vm.pid, before, names)
