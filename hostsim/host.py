# SPDX-License-Identifier: Apache-2.0
"""One host, built from its model and taken down again: the owner of all its parts.

    Host(spec, folder).start() -> stop()

`start` makes, in this order: the journal, the VMs and endpoints with their switch and data plane
(assembly.py), the packet functions, the programs, the KMC. Each pushes the step that takes it down
onto one stack (teardown.py). `stop` runs that stack; so does a `start` that fails. What the parts
decide is theirs; this module only wires them together, and notices when a VM or a program dies.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostsim import restart
from hostsim.ahead import Ahead
from hostsim.assembly import Assembly, assemble
from hostsim.booted import Booted
from hostsim.carriers import Carriers
from hostsim.changes import Changes, Joined
from hostsim.condition import Condition
from hostsim.errors import HostsimError
from hostsim.members import both
from hostsim.model import HostSpec, Json, LinkSpec, VmSpec
from hostsim.programs import Programs
from hostsim.remaking import remake
from hostsim.restarts import Restarts
from hostsim.routing.dataplane import Dataplane
from hostsim.settling import Settling
from hostsim.stalls import Stalls
from hostsim.switch import Switch
from hostsim.systems import Systems
from hostsim.teardown import in_thread
from hostsim.vm import Vm
from netns import priority
from netns.journal import Journal

if TYPE_CHECKING:
    from hostsim.kmc.kmc import Kmc
    from hostsim.nf.functions import Functions

log = logging.getLogger("hostsim.host")

NICE = -10
"""Of the daemon: a person waits for a flip."""
TICK = 5.0
"""Seconds between two sweeps of idle rules. One walks tables made for a million flows (50 ms seen),
so it is done in a thread of its own: a flip must not wait for it."""


SYNC = 0.1
"""Seconds until a decision of the switch is a rule in a network function's port."""


@dataclass(frozen=True)
class _Parts:
    """What a host consists of once its VMs are linked. functions: None if it has none."""

    journal: Journal
    net: Assembly
    carriers: Carriers
    functions: "Functions | None"

    @property
    def switch(self) -> Switch:
        return self.net.switch

    @property
    def dataplane(self) -> Dataplane:
        return self.net.dataplane


class Host:
    """A host. All methods run in the thread of its asyncio loop."""

    def __init__(
        self,
        spec: HostSpec,
        folder: Path,
        stalls: Stalls | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        """stalls: the selector of the loop that it will run in, if somebody wants to know. ahead:
        what is made of the host already, if anything; this host's from here on."""
        self.spec = spec
        self._stalls = stalls
        self.folder = folder
        self._ahead = ahead or Ahead(spec, folder)
        self.vms = self._ahead.vms
        self._closing = self._ahead.closing
        self._made: _Parts | None = None
        self._programs = Programs(self.vms, spec.path.parent, folder, self._watch, self._unwatch)
        self._ticking: list[asyncio.Task[None]] = []
        self._booted = Booted(self.vms, self._programs, self._os_back)
        self._systems = Systems(self._booted, self._closing)
        self._changes = Changes(self, self._systems, self._doing)
        self._watched: list[int] = []
        self._functions_watched: set[int] = set()
        self._remaking: set[asyncio.Task[None]] = set()
        self._restarts = Restarts(vm.name for vm in spec.vms if _may_restart(vm))
        self._settling: Settling | None = None
        self._up = False

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Build everything. Raises HostsimError or OSError, with nothing left behind; if taking it
        down failed too, HostsimError with both."""
        try:
            await self._start()
        except BaseException as error:
            try:
                await self.stop()
            except HostsimError as second:
                if not isinstance(error, Exception):
                    log.error("%s", second)
                    raise error from second
                raise both(error, second) from error
            raise

    async def _start(self) -> None:
        closing = self._closing
        journal = await in_thread(self._ahead.start, closing.give_up)
        closing.push("programs' ends", self._programs.close, blocks=True)
        net = await in_thread(
            lambda: assemble(self.spec, self.vms, journal, closing, self._ahead.loading),
            closing.give_up,
        )
        carriers = Carriers(net.switch, net.dataplane, self.vms)
        closing.push("link monitor", carriers.close)
        functions = None
        if any(spec.nf is not None for spec in self.spec.vms):
            functions = net.functions(self.folder, closing)
        closing.push("programs", self._programs.kill)
        oses = {name: self.vms[name] for name in self.spec.os_names()}
        if oses:
            self._systems.make(self.spec, oses, journal)
        self._made = _Parts(journal, net, carriers, functions)
        self._watch(net.dataplane.fileno(), net.dataplane.on_readable)
        self._watch(carriers.fileno(), carriers.on_readable)
        for vm in self.vms.values():
            self._watch_vm(vm)
        # Not before: systems that boot need the processors more than what a daemon loads.
        priority.come_first(NICE)
        await self._booted.all_up()
        if functions is not None:
            await in_thread(functions.start, self._kill_vms)
            self.sync_functions()
            self._ticking.append(asyncio.create_task(self._sync_often()))
        await self._programs.start([n for n, vm in self.vms.items() if vm.spec.run is not None])
        if self._systems.kmc is not None:
            self._systems.keep()
            await self._systems.kmc.start()
        sweeper = ThreadPoolExecutor(1, "sweeper", initializer=priority.keep_up)
        closing.push("sweeper", sweeper.shutdown, blocks=True)
        closing.push("sweeps", lambda: net.dataplane.sweep_by(lambda job: job()))
        net.dataplane.sweep_by(lambda job: sweeper.submit(job).add_done_callback(_swept))
        self._ticking.append(asyncio.create_task(self._tick(sweeper)))
        self._settling = Settling(self._watch, self._unwatch, sweeper)
        closing.push("sums of sockets", self._settling.close)
        self._up = True

    async def stop(self) -> None:
        """Take everything down, newest first. Twice is harmless. Raises HostsimError that names the
        step that failed; all others were run."""
        await self._changes.end()
        self._closing.push("events", self._hear_no_more)
        await self._closing.aclose()
        self._made = None

    def _kill_vms(self) -> None:
        """Whoever waits for something in a VM need not wait any longer."""
        for vm in self.vms.values():
            vm.kill()

    def _hear_no_more(self) -> None:
        """Nothing that happens from here on starts, restarts or tells anything."""
        self._up = False
        self._programs.hear_no_more()
        if self._made is not None:
            self._made.carriers.hear_no_more()
        while self._ticking:
            self._ticking.pop().cancel()
        if self._settling is not None:
            self._settling.hear_no_more()
        self._booted.close()
        self._restarts.close()
        loop = asyncio.get_running_loop()
        while self._watched:
            loop.remove_reader(self._watched.pop())

    @property
    def _parts(self) -> _Parts:
        """Raises HostsimError while it is not built."""
        if self._made is None:
            raise HostsimError(f"host {self.spec.name}", "is not up")
        return self._made

    # -- network functions ------------------------------------------------------------------------

    async def functions(self) -> "Functions":
        """The packet functions; the first ones are about to join. Raises OSError."""
        parts = self._parts
        if parts.functions is not None:
            return parts.functions
        made = await in_thread(partial(parts.net.functions, self.folder, self._closing))
        self._made = replace(parts, functions=made)
        self._ticking.append(asyncio.create_task(self._sync_often()))
        return made

    def sync_functions(self) -> None:
        """See Functions.sync. The ends of those that run are seen. Raises OSError."""
        functions = self._parts.functions
        if functions is None:
            return
        for fd in self._functions_watched - set(functions.alive()):
            self._unwatch(fd)
            self._functions_watched.discard(fd)
        functions.sync()
        for fd in set(functions.alive()) - self._functions_watched:
            self._watch(fd, self.sync_functions)
            self._functions_watched.add(fd)

    async def _sync_often(self) -> None:
        while True:
            await asyncio.sleep(SYNC)
            try:
                with self._doing("network functions"):
                    self.sync_functions()
            except (OSError, HostsimError):
                log.exception("network functions")

    # -- events -----------------------------------------------------------------------------------

    def _watch(self, fd: int, callback: Callable[[], Any]) -> None:
        asyncio.get_running_loop().add_reader(fd, self._named, callback)
        self._watched.append(fd)

    def _named(self, callback: Callable[[], Any]) -> None:
        """Call it, and have it named if it takes long."""
        with self._doing(str(getattr(callback, "__qualname__", "") or "a VM's event")):
            callback()

    def _doing(self, what: str) -> contextlib.AbstractContextManager[None]:
        return self._stalls.doing(what) if self._stalls is not None else contextlib.nullcontext()

    def _unwatch(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        self._watched.remove(fd)

    def _watch_vm(self, vm: Vm) -> None:
        self._watch(vm.pidfd, partial(self._vm_gone, vm))
        if vm.spec.os is not None:
            self._watch(vm.life_fd, partial(self._vm_may_end, vm))

    def _vm_may_end(self, vm: Vm) -> None:
        if vm.ends():
            self._vm_ends(vm)

    def _vm_ends(self, vm: Vm) -> None:
        """An OS's process 1 is ending. Take its equipment away now instead of waiting until all its
        processes are reaped, and kill whatever still runs in it."""
        if vm.life_fd in self._watched:
            self._unwatch(vm.life_fd)
        vm.kill()
        if self._systems.kmc is not None:
            self._systems.kmc.vm_gone(vm.spec.name)

    def _vm_gone(self, vm: Vm) -> None:
        if vm.life_fd in self._watched:
            self._vm_ends(vm)
        self._unwatch(vm.pidfd)
        self.dataplane.vm_gone(vm.spec.name)
        if vm.spec.boots:
            self._os_gone(vm)
            return
        log.error("%s: its init died", vm.spec.name)
        if self._up and vm.spec.restarts:
            if restart.failed(vm.ended()):
                self._restart_later(vm)
            else:
                log.info("%s: it ended itself, and stays down", vm.spec.name)

    def _os_gone(self, vm: Vm) -> None:
        """An OS that boots has ended, by its own will or not."""
        wish = self._booted.gone(vm)
        if self._up and (wish == "again" or (wish == "failed" and vm.spec.restarts)):
            self._restart_later(vm)

    def _restart_later(self, vm: Vm) -> None:
        self._restarts.later(vm.spec.name, partial(self._restart, vm))

    def _restart(self, vm: Vm) -> None:
        """Its pause is over."""
        task = asyncio.get_running_loop().create_task(self._start_again(vm))
        self._remaking.add(task)
        task.add_done_callback(self._remaking.discard)

    async def _start_again(self, vm: Vm) -> None:
        name = vm.spec.name
        try:
            async with self._changes.turn(name):
                if self.vms.get(name) is not vm or vm.alive:
                    return  # it has left, or somebody was quicker
                await self._remake(vm)
        except (OSError, HostsimError):
            if self._changes.ended:
                return
            log.exception("%s: cannot be started again", name)
            if vm.spec.os is not None:
                self.kmc.vm_gone(name)
            self._restart_later(vm)
            return
        self._restarts.started(name)
        log.info("%s: started again", name)

    async def _remake(self, vm: Vm) -> None:
        """What a VM was is taken down, and all of it is made anew. In a turn."""
        with self._restarts.making(vm.spec.name):
            await remake(vm, self.vms, self.joined, self._doing, self._back)

    def _back(self, vm: Vm) -> None:
        """A VM that was made anew runs."""
        if vm.spec.boots:
            self._booted.again(vm)
        else:
            self._os_back(vm)
        self._watch_vm(vm)

    def _os_back(self, vm: Vm) -> None:
        """A VM that was made anew runs, or the OS that it boots is up."""
        if vm.spec.os is not None:
            self.kmc.vm_back(vm.spec.name)
        if vm.spec.run is not None:
            self._programs.start_again(vm.spec.name)

    async def _tick(self, sweeper: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            try:
                await loop.run_in_executor(sweeper, self.dataplane.tick)
            except OSError:
                log.exception("sweeping the rules")

    # -- what the command line asks ---------------------------------------------------------------

    @property
    def dataplane(self) -> Dataplane:
        return self._parts.dataplane

    @property
    def kmc(self) -> "Kmc":
        """Raises HostsimError if the host has no operating systems."""
        kmc = self._systems.kmc
        if kmc is None:
            raise HostsimError(
                f"host {self.spec.name}", "has no operating systems", "add [vm.os] to a VM"
            )
        return kmc

    def devices(self) -> list[Json]:
        """The contract's `devices`; empty if the host has no operating systems."""
        return self._systems.kmc.devices() if self._systems.kmc else []

    def vm(self, name: str) -> Vm:
        """A living VM or endpoint. Raises HostsimError."""
        vm = self._known(name)
        if not vm.alive:
            if self._restarts.waits(name):
                raise HostsimError(
                    name, "is gone (its init died)", "it is about to be started again"
                )
            raise HostsimError(name, "is gone (its init died)", f"hostsim restart {name}")
        return vm

    def _known(self, name: str) -> Vm:
        vm = self.vms.get(name)
        if vm is None:
            raise HostsimError(
                name,
                f"no VM or endpoint of host {self.spec.name}",
                f"there are: {', '.join(self.vms)}",
            )
        return vm

    async def restart(self, name: str) -> Json:
        """End a VM or endpoint, dead or alive, and make it anew; {"vm", "pid"}. Raises
        HostsimError: with nothing done if it is not to be restarted; one that cannot be made again
        is dead."""
        async with self._changes.turn(f"restart {name}"):
            vm = self._known(name)
            self._refuse_restart(vm)
            if vm.life_fd in self._watched or (vm.spec.boots and vm.pidfd in self._watched):
                self._vm_ends(vm)
            if vm.pidfd in self._watched:
                self._unwatch(vm.pidfd)
                self.dataplane.vm_gone(name)
            await self._remake(vm)
        log.info("%s: restarted", name)
        return {"vm": name, "pid": vm.pid}

    def _refuse_restart(self, vm: Vm) -> None:
        name = vm.spec.name
        if vm.spec.nf is not None:
            raise HostsimError(
                name,
                "is a packet function",
                "it is started again by itself: hostsim exec VM -- kill PID",
            )
        if self._systems.foreground == name:
            raise HostsimError(name, "is the foreground OS", "hostsim flip OS, then restart it")

    async def apply(self, file: HostSpec, dry_run: bool = False) -> Json:
        """Have the VMs, endpoints, routes, filters, mirrors, links and rates of a host file, while
        the rest runs; or, with dry_run, say what that would do. The contract's `apply`. Raises
        HostsimError, OSError, with everything as it was."""
        return await self._changes.apply(file, dry_run)

    async def link(self, spec: LinkSpec) -> list[Json]:
        """Impair a link; the contract's `link`. Raises HostsimError, OSError."""
        async with self._changes.turn(f"link {spec.of}"):
            wanted = self.dataplane.linked(spec)
            await in_thread(self.dataplane.impairing(wanted))
            with self._doing("link"):
                rows = self.dataplane.impair(wanted)
            await in_thread(self.dataplane.let_go)
            return rows

    async def links(self) -> list[Json]:
        """The impaired ones; the contract's `link`. Raises HostsimError, OSError."""
        async with self._changes.turn("link"):
            return self.dataplane.links()

    @property
    def joined(self) -> Joined:
        """What VMs join and leave. Raises HostsimError while the host is not built."""
        parts = self._parts
        return Joined(
            parts.journal, parts.switch, parts.dataplane, parts.carriers, self._programs,
            parts.functions,
        )  # fmt: skip

    def attend(self, vms: Iterable[Vm]) -> None:
        """These VMs have joined: their ends are seen."""
        for vm in vms:
            self._watch_vm(vm)
            if _may_restart(vm.spec):
                self._restarts.join(vm.spec.name)

    def leave(self, vms: Iterable[Vm]) -> None:
        """These VMs leave: their ends are nobody's concern, and they are not started again."""
        for vm in vms:
            self._restarts.leave(vm.spec.name)
            for fd in (vm.pidfd, vm.life_fd):
                if fd in self._watched:
                    self._unwatch(fd)

    def target(self, name: str) -> Json:
        """What `hostsim exec` needs to enter a VM: pid of its init, its user 0, its cgroups,
        whether programs in it may make user namespaces."""
        vm = self.vm(name)
        groups = [str(path) for path in vm.cgroups]
        return {"pid": vm.pid, "owner": vm.owner, "cgroups": groups, "nests": vm.nests}

    async def status(self) -> Callable[[], Json]:
        """The contract's `status`: what the loop alone can ask is asked, also all that may reap a
        process; a child of the daemon finds the rest (asides.py)."""
        parts = self._parts
        reports = await parts.functions.report() if parts.functions else {}
        mine = {
            "foreground": self._systems.foreground,
            "devices": self.devices(),
        }
        condition = Condition(
            self.spec, self.vms, self._booted, self._programs, self._restarts, parts
        )
        return lambda: condition.report(reports) | mine


def _may_restart(spec: VmSpec) -> bool:
    """Whether it is started again by itself: after a reboot of its own, too."""
    return spec.is_system or spec.restarts


def _swept(done: Future[None]) -> None:
    """A sweep was done in its thread, or not."""
    if not done.cancelled() and done.exception() is not None:
        log.error("sweeping the rules: %s", done.exception())
