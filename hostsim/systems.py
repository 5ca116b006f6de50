# SPDX-License-Identifier: Apache-2.0
"""The OSes of an apply (changes.py): they join the KMC and leave it, or change, while it runs.

    systems.hold(plan)             at first: who leaves or changes is in the background, and stays
    await systems.boot(vms)        those that boot are up
    await systems.join(plan, vms)  the KMC knows who comes, and gives none of them the equipment
    await systems.settle(plan)     from here on they are OSes like others; who leaves has left
    systems.part(names)            nobody in the loop knows these any more

A host that had no OS gets its KMC with the first, and takes its equipment then; the KMC goes with
the last, so that the next ones have the equipment that the file has then. Each step pushes what
takes it back before it does anything.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from hostsim.booted import Booted
from hostsim.errors import HostsimError
from hostsim.hostfile.difference import Plan
from hostsim.members import refuse_ways_to_the_world
from hostsim.model import HostSpec
from hostsim.teardown import Teardown
from hostsim.vm import Vm
from netns.journal import Journal

if TYPE_CHECKING:
    from hostsim.kmc.kmc import Kmc


class Systems:
    """See the module. booted: those of the host that boot; closing: what takes the host down. All
    methods run in the host's loop."""

    def __init__(self, booted: Booted, closing: Teardown) -> None:
        self._booted = booted
        self._closing = closing
        self._ended = asyncio.Event()
        self.kmc: Kmc | None = None
        """None: the host has no OSes."""
        self._kept = False  # what stops it is in `closing`

    @property
    def foreground(self) -> str | None:
        """The foreground OS."""
        found: str | None = self.kmc.status()["foreground"] if self.kmc is not None else None
        return found

    def make(self, spec: HostSpec, oses: dict[str, Vm], journal: Journal) -> "Kmc":
        """The host's first OSes: it has a KMC from here on, which the caller starts."""
        from hostsim.kmc.kmc import Kmc  # evdev and udev: only if there is equipment

        self.kmc = Kmc(spec, oses, journal)
        return self.kmc

    def keep(self) -> None:
        """The KMC is stopped when the host goes down."""
        if self.kmc is not None and not self._kept:
            self._kept = True
            self._closing.push("equipment", self._stop)

    def end(self) -> None:
        """The host goes down: nothing here is waited for any more."""
        self._ended.set()

    def check(self, plan: Plan) -> None:
        """Raises HostsimError if an OS that is to leave or to change has the equipment."""
        if self.kmc is not None:
            self.kmc.refuse(_held(plan))

    def hold(self, plan: Plan, undo: Teardown) -> None:
        """See the module. Raises HostsimError as `check` does."""
        kmc = self.kmc
        if kmc is None:
            return
        kmc.bar(_held(plan))
        undo.push("OSes that stay", partial(kmc.admit, _held(plan)))
        kmc.prepare(plan.oses)

    async def boot(self, vms: Sequence[Vm], undo: Teardown) -> None:
        """See the module. Raises HostsimError, OSError: one ended, or was not in time."""
        booting = [vm for vm in vms if vm.spec.boots]
        undo.push("boots", partial(self._unboot, [vm.spec.name for vm in booting]))
        await self._unless_ended(self._booted.up(booting))

    async def join(self, plan: Plan, vms: Sequence[Vm], journal: Journal, undo: Teardown) -> None:
        """See the module. Raises HostsimError, OSError."""
        oses = {vm.spec.name: vm for vm in vms if vm.spec.os is not None}
        if not oses:
            return
        kmc = self.kmc
        if kmc is not None:
            undo.push("OSes", partial(kmc.part, list(oses)))
            await self._unless_ended(kmc.join(oses))
            return
        refuse_ways_to_the_world(plan.spec, plan.spec.nics)
        undo.push("the KMC", self._lose)
        made = self.make(plan.spec, oses, journal)
        undo.push("equipment", made.stop)
        await self._unless_ended(made.start())

    async def settle(self, plan: Plan) -> None:
        """See the module. Raises OSError, HostsimError with all done that can be."""
        kmc = self.kmc
        if kmc is None:
            return
        self.keep()
        leaving = [one.name for one in plan.removed]
        if not plan.spec.os_names():
            self.kmc = None
            try:
                kmc.part(leaving)
            finally:
                await kmc.stop()
            return
        with contextlib.ExitStack() as steps:  # the last one first; one that fails stops no other
            there = [one.name for one in (*plan.added, *plan.oses)]
            steps.callback(kmc.admit, there)
            steps.callback(kmc.adopt, plan.spec)
            steps.callback(kmc.change, [one.name for one in plan.oses])
            steps.callback(kmc.part, leaving)

    def part(self, names: Iterable[str]) -> None:
        """See the module. Raises OSError, with all of them gone."""
        names = list(names)
        self._unboot(names)
        kmc = self.kmc
        if kmc is not None:
            kmc.part(names)

    def _lose(self) -> None:
        self.kmc = None

    async def _stop(self) -> None:
        if self.kmc is not None:
            await self.kmc.stop()

    def _unboot(self, names: Iterable[str]) -> None:
        for name in names:
            self._booted.leave(name)

    async def _unless_ended(self, job: Awaitable[None]) -> None:
        """Raises HostsimError if the host goes down meanwhile: the job is cancelled then."""
        doing = asyncio.ensure_future(job)
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing})
        if doing.cancelled():
            raise HostsimError("apply", "the host goes down")
        doing.result()


def _held(plan: Plan) -> list[str]:
    """The OSes that leave or change."""
    return [one.name for one in (*plan.removed, *plan.oses) if one.os is not None]
