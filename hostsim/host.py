"""One host, built from its model and taken down again: the owner of all its parts.

    Host(spec, folder).start() -> stop()

`start` makes, in this order: the journal, the VMs and endpoints (side by side), the switch and
its links, the data plane, the programs, the KMC. A step that fails takes everything down again.
`stop` goes the other way and may be called twice. What the parts decide is theirs; this module
only wires them together, and notices when a VM or a program dies.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostsim import restart
from hostsim.errors import HostsimError
from hostsim.model import HostSpec, Json
from hostsim.programs import Programs
from hostsim.restart import Backoff
from hostsim.routing.dataplane import Dataplane
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns import namespace, uplinks
from netns.journal import Journal
from netns.links import LinkMonitor

if TYPE_CHECKING:
    from hostsim.kmc.kmc import Kmc
    from hostsim.nf.functions import Functions

log = logging.getLogger("hostsim.host")

SETTLE = 1.0
"""Seconds that `verify` waits for packets which are under way."""

TICK = 5.0
"""Seconds between two sweeps of idle rules. One walks tables made for a million flows (50 ms seen),
so it is done in a thread of its own: a flip must not wait for it."""


SYNC = 0.1
"""Seconds until a decision of the switch is a rule in a network function's port."""


class Host:
    """A host. All methods run in the thread of its asyncio loop."""

    def __init__(self, spec: HostSpec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.vms = {
            vm.name: Vm(spec.name, vm, index)
            for index, vm in enumerate((*spec.vms, *spec.endpoints), start=1)
        }
        self._journal: Journal | None = None
        self._switch: Switch | None = None
        self._dataplane: Dataplane | None = None
        self._kmc: Kmc | None = None
        self._monitor: LinkMonitor | None = None
        self._unplugged: set[str] = set()
        self._programs = Programs(self.vms, spec.path.parent, folder, self._watch, self._unwatch)
        self._functions: Functions | None = None
        self._ticking: list[asyncio.Task[None]] = []
        self._sweeper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sweeper")
        self._watched: list[int] = []
        self._backoffs = {name: Backoff() for name in spec.os_names()}
        self._restarts: dict[str, asyncio.TimerHandle] = {}
        self._up = False

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Build everything. Raises HostsimError or OSError, with nothing left behind."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        self._refuse_what_cannot_work()
        self._journal = Journal(self.folder / "journal")
        self._switch = Switch(self.spec.name, self._journal)
        self._dataplane = Dataplane(self.spec, self._switch, self.vms)
        await self._start_vms(self._dataplane.load)
        self._switch.start()
        self._switch.connect(list(self.vms.values()))
        self._switch.attach(self.spec.uplinks, first=len(self.vms) + 1)
        self._dataplane.start()
        self._watch(self._dataplane.fileno(), self._dataplane.on_readable)
        self._monitor = LinkMonitor(self._switch.netns_fd)
        self._watch(self._monitor.fileno(), self._links_changed)
        for vm in self.vms.values():
            self._watch_vm(vm)
        await self._start_functions()
        await self._programs.start([n for n, vm in self.vms.items() if vm.spec.run is not None])
        oses = {name: self.vms[name] for name in self.spec.os_names()}
        if oses:
            from hostsim.kmc.kmc import Kmc  # evdev and udev: only where there is equipment

            self._kmc = Kmc(self.spec, oses, self._journal)
            await self._kmc.start()
        self._ticking.append(asyncio.create_task(self._tick()))
        self._up = True

    async def stop(self) -> None:
        """Take everything down, newest first. Twice is harmless."""
        while self._ticking:
            self._ticking.pop().cancel()
        while self._restarts:
            self._restarts.popitem()[1].cancel()
        self._sweeper.shutdown()
        loop = asyncio.get_running_loop()
        while self._watched:
            loop.remove_reader(self._watched.pop())
        if self._kmc is not None:
            await self._kmc.stop()
            self._kmc = None
        self._programs.kill()
        if self._functions is not None:
            self._functions.close()
            self._functions = None
        if self._dataplane is not None:
            self._dataplane.close()
            self._dataplane = None
        with ThreadPoolExecutor(max_workers=8) as pool:
            stops = [loop.run_in_executor(pool, vm.stop) for vm in self.vms.values()]
            failures = await asyncio.gather(*stops, return_exceptions=True)
        self._programs.close()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._switch is not None:
            switch, self._switch = self._switch, None
            try:
                switch.close()
            except OSError as error:  # an uplink: the journal still has it
                failures.append(error)
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        for failure in failures:
            if isinstance(failure, BaseException):
                raise failure

    def _refuse_what_cannot_work(self) -> None:
        for name in (*self.spec.uplinks, *self.spec.nics):
            uplinks.inspect(name)
        for spec in self.spec.vms:
            missing = self.vms[spec.name].unsupported_limits()
            if missing:
                raise HostsimError(
                    f"[[vm]] {spec.name!r}",
                    f"this kernel has no cgroup controller for {', '.join(missing)}",
                    "hostsim check shows what there is; take the limit out of the host file",
                )

    async def _start_vms(self, beside: Callable[[], None]) -> None:
        """Start the VMs side by side, and do `beside` meanwhile."""
        journal = self._journal
        assert journal is not None
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            jobs: list[Callable[[], None]] = [
                beside,
                *(partial(vm.start, journal) for vm in self.vms.values()),
            ]
            starts = [loop.run_in_executor(pool, job) for job in jobs]
            results = await asyncio.gather(*starts, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    # -- network functions ------------------------------------------------------------------------

    async def _start_functions(self) -> None:
        if not any(spec.nf is not None for spec in self.spec.vms):
            return
        from hostsim.nf.functions import Functions  # only where there are any

        assert self._switch is not None
        self._functions = Functions(self.spec, self._switch, self.dataplane, self.vms, self.folder)
        self._functions.prepare()
        await asyncio.get_running_loop().run_in_executor(None, self._functions.start)
        self._sync_functions()
        self._ticking.append(asyncio.create_task(self._sync_often()))

    def _sync_functions(self) -> None:
        assert self._functions is not None
        for fd in self._functions.dead():
            if fd in self._watched:
                self._unwatch(fd)
        self._functions.sync()
        for fd in self._functions.alive():
            if fd not in self._watched:
                self._watch(fd, self._sync_functions)

    async def _sync_often(self) -> None:
        while True:
            await asyncio.sleep(SYNC)
            try:
                self._sync_functions()
            except (OSError, HostsimError):
                log.exception("network functions")

    # -- events -----------------------------------------------------------------------------------

    def _watch(self, fd: int, callback: Callable[[], Any]) -> None:
        asyncio.get_running_loop().add_reader(fd, callback)
        self._watched.append(fd)

    def _unwatch(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        self._watched.remove(fd)

    def _watch_vm(self, vm: Vm) -> None:
        self._watch(vm.pidfd, partial(self._vm_gone, vm))
        if vm.spec.os is not None:
            self._watch(vm.life_fd, partial(self._vm_ends, vm))

    def _vm_ends(self, vm: Vm) -> None:
        """An OS's process 1 ends: its equipment does not wait for the others, or for their reapers.
        Whatever let go of the pipe, what is in there ends now."""
        self._unwatch(vm.life_fd)
        vm.kill()
        if self._kmc is not None:
            self._kmc.vm_gone(vm.spec.name)

    def _vm_gone(self, vm: Vm) -> None:
        if vm.life_fd in self._watched:
            self._vm_ends(vm)
        self._unwatch(vm.pidfd)
        log.error("%s: its init died", vm.spec.name)
        if self._dataplane is not None:
            self._dataplane.vm_gone(vm.spec.name)
        if self._up and vm.spec.os is not None and vm.spec.os.restart == "on-failure":
            if restart.failed(vm.ended()):
                self._restart_later(vm)
            else:
                log.info("%s: it ended itself, and stays down", vm.spec.name)

    def _restart_later(self, vm: Vm) -> None:
        name = vm.spec.name
        loop = asyncio.get_running_loop()
        delay = self._backoffs[name].died(loop.time())
        if delay is None:
            log.error("%s: given up after %d starts in a row", name, restart.LIMIT)
            return
        self._restarts[name] = loop.call_later(delay, self._restart, vm)

    def _restart(self, vm: Vm) -> None:
        """In the loop, since everything here may ask a VM how it is; takes some 50 ms."""
        name = vm.spec.name
        del self._restarts[name]
        try:
            self._rebuild(vm)
        except (OSError, HostsimError):
            log.exception("%s: cannot be started again", name)
            if self._kmc is not None:
                self._kmc.vm_gone(name)
            self._restart_later(vm)
            return
        self._watch_vm(vm)
        self._backoffs[name].started(asyncio.get_running_loop().time())
        log.info("%s: started again", name)

    def _rebuild(self, vm: Vm) -> None:
        """What a dead OS left is taken down, and all of it is made anew."""
        assert self._switch is not None
        assert self._journal is not None
        self._programs.forget(vm.spec.name)
        self._switch.disconnect(vm)
        vm.stop()
        with contextlib.ExitStack() as undo:
            vm.start(self._journal)
            undo.callback(vm.stop)
            self._switch.connect([vm], list(self.vms.values()))
            self.dataplane.vm_back(vm.spec.name)
            self.kmc.vm_back(vm.spec.name)
            if vm.spec.run is not None:
                self._programs.start_again(vm.spec.name)
            undo.pop_all()

    def _links_changed(self) -> None:
        """A port of the switch came, went or changed its carrier: by whom, the kernel does not say,
        so every VM is looked at."""
        assert self._monitor is not None
        assert self._switch is not None
        self._monitor.drain()
        linked = self._switch.linked()
        for name, vm in self.vms.items():
            if (name in linked) == (name not in self._unplugged):
                continue
            if name in linked:
                self._unplugged.discard(name)
                log.info("%s: its link is back", name)
                if vm.alive:
                    self.dataplane.link_back(name)
            else:
                self._unplugged.add(name)
                log.error("%s: its link is lost", name)
                self.dataplane.link_lost(name)

    async def _tick(self) -> None:
        assert self._dataplane is not None
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            try:
                await loop.run_in_executor(self._sweeper, self._dataplane.tick)
            except OSError:
                log.exception("sweeping the rules")

    # -- what the command line asks ---------------------------------------------------------------

    @property
    def dataplane(self) -> Dataplane:
        assert self._dataplane is not None
        return self._dataplane

    @property
    def kmc(self) -> "Kmc":
        """Raises HostsimError where the host has no operating systems."""
        if self._kmc is None:
            raise HostsimError(
                f"host {self.spec.name}", "has no operating systems", "add [vm.os] to a VM"
            )
        return self._kmc

    async def verify(self) -> list[Json]:
        """Conservation of packets, by VM and flow; asked again while packets are on their way."""
        deadline = asyncio.get_running_loop().time() + SETTLE
        while True:
            rows = self.dataplane.report.verify()
            moving = any(row["missing"] for row in rows)
            if not moving or asyncio.get_running_loop().time() > deadline:
                return rows
            await asyncio.sleep(0.05)

    def devices(self) -> list[Json]:
        """The contract's `devices`; empty where the host has no operating systems."""
        return self._kmc.devices() if self._kmc else []

    def vm(self, name: str) -> Vm:
        """A living VM or endpoint. Raises HostsimError."""
        vm = self.vms.get(name)
        if vm is None:
            raise HostsimError(
                name,
                f"no VM or endpoint of host {self.spec.name}",
                f"there are: {', '.join(self.vms)}",
            )
        if not vm.alive:
            if name in self._restarts:
                raise HostsimError(
                    name, "is gone (its init died)", "it is about to be started again"
                )
            raise HostsimError(name, "is gone (its init died)", "hostsim down, then up again")
        return vm

    def target(self, name: str) -> Json:
        """What `hostsim exec` needs to enter a VM: pid of its init, cgroup directories."""
        vm = self.vm(name)
        return {"pid": vm.pid, "cgroups": [str(path) for path in vm.cgroups]}

    async def status(self) -> Json:
        """The contract's `status`."""
        assert self._switch is not None
        reports = await self._functions.report() if self._functions else {}
        drops = self.dataplane.report.kernel_drops()

        def node(name: str) -> Json:
            return self._node(name) | {"drops": None if drops is None else drops[name]}

        return {
            "host": self.spec.name,
            "foreground": self._kmc.status()["foreground"] if self._kmc else None,
            "vms": [
                node(spec.name) | ({"nf": reports[spec.name]} if spec.name in reports else {})
                for spec in self.spec.vms
            ],
            "endpoints": [node(spec.name) for spec in self.spec.endpoints],
            "switch": {
                "netns": self._switch.netns,
                "bridge": self._switch.bridge,
                "ports": self._switch.ports(),
                "counters": self.dataplane.report.counters(),
                "drops": None if drops is None else drops[""],
            },
            "devices": self.devices(),
        }

    def _node(self, name: str) -> Json:
        vm = self.vms[name]
        backoff = self._backoffs.get(name)
        return {
            **({"restarts": backoff.total} if backoff is not None else {}),
            "name": name,
            "netns": vm.netns,
            "cgroup": str(vm.cgroup),
            "pid": vm.pid,
            "state": self._state(vm),
            "os": vm.spec.os is not None,
            "addresses": [str(address) for address in vm.spec.addresses],
        }

    def _state(self, vm: Vm) -> str:
        """`running`; or what is wrong with it, the worst first: `dead` (its init), `restarting`
        (dead, or its network function is, and about to be started again), `unplugged` (its port or
        the port's carrier), `unnamed` (its name in /run/netns), `failed` (its program, or its
        network function for good)."""
        if not vm.alive:
            return "restarting" if vm.spec.name in self._restarts else "dead"
        if vm.spec.name in self._unplugged:
            return "unplugged"
        if not namespace.names(vm.netns, vm.netns_fd):
            return "unnamed"
        if vm.spec.nf is not None and self._functions is not None:
            return self._functions.state(vm.spec.name)
        return "failed" if vm.spec.name in self._programs.failed else "running"
