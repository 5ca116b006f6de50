# SPDX-License-Identifier: Apache-2.0
"""How a host is: what `status` says of its VMs, its endpoints and its switch (DESIGN.md, contract).

    condition = Condition(spec, vms, booted, programs, restarts, parts)
    condition.report(reports)     `status`, but for what only the daemon's loop can ask

`report` reads BPF maps and /run, and may take long: it runs in a child of the daemon (asides.py).
"""

from typing import Protocol

from hostsim.booted import Booted
from hostsim.carriers import Carriers
from hostsim.model import HostSpec, Json
from hostsim.programs import Programs
from hostsim.restarts import Restarts
from hostsim.routing.dataplane import Dataplane
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns import namespace


class Parts(Protocol):
    """The parts of a host that is built."""

    @property
    def switch(self) -> Switch: ...
    @property
    def dataplane(self) -> Dataplane: ...
    @property
    def carriers(self) -> Carriers: ...


class Condition:
    def __init__(
        self,
        spec: HostSpec,
        vms: dict[str, Vm],
        booted: Booted,
        programs: Programs,
        restarts: Restarts,
        parts: Parts,
    ) -> None:
        self._spec = spec
        self._vms = vms
        self._booted = booted
        self._programs = programs
        self._restarts = restarts
        self._parts = parts

    def report(self, reports: Json) -> Json:
        """The contract's `status` but for `foreground` and `devices`; reports: of each packet
        function its `nf`."""
        parts = self._parts
        drops = parts.dataplane.report.kernel_drops()
        unlike = parts.dataplane.report.unlike()

        def node(name: str) -> Json:
            return self._node(name, reports.get(name)) | {
                "drops": None if drops is None else drops[name],
                "unlike": unlike.get(name, ""),
            }

        return {
            "host": self._spec.name,
            "vms": [
                node(spec.name) | ({"nf": reports[spec.name]} if spec.name in reports else {})
                for spec in self._spec.vms
            ],
            "endpoints": [node(spec.name) for spec in self._spec.endpoints],
            "switch": {
                "netns": parts.switch.netns,
                "bridge": parts.switch.bridge,
                "ports": parts.switch.ports(),
                "counters": parts.dataplane.report.counters(),
                "taken_off": parts.dataplane.report.taken_off(),
                "drops": None if drops is None else drops[""],
            },
        }

    def _node(self, name: str, function: Json | None) -> Json:
        vm = self._vms[name]
        restarts = self._restarts.total(name)
        return {
            **({"restarts": restarts} if restarts is not None else {}),
            "name": name,
            "netns": vm.netns,
            "cgroup": str(vm.cgroup),
            "pid": vm.pid,
            "state": self._state(vm, function),
            "os": vm.spec.os is not None,
            "files": vm.spec.files,
            "limits": {
                "memory": vm.limits.memory,
                "cpus": vm.limits.cpus,
                "pids": vm.limits.pids,
            },
            "sockets": {"used": vm.sockets.used, "most": vm.sockets.most},
            "addresses": [str(address) for address in vm.spec.addresses],
        }

    def _state(self, vm: Vm, function: Json | None) -> str:
        """`running`; or what is wrong with it, the worst first: `dead` (its init), `off` (its OS
        has powered off), `restarting` (dead, or its network function is, and about to be started
        again), `booting` (its OS is not up yet), `unplugged` (its port or the port's carrier),
        `unnamed` (its name in /run/netns), `failed` (its program, or its network function for
        good)."""
        if (state := self._booted.state(vm)) != "":
            return state
        if not vm.runs:
            return "restarting" if self._restarts.waits(vm.spec.name) else "dead"
        if self._parts.carriers.away(vm.spec.name):
            return "unplugged"
        if not namespace.names(vm.netns, vm.netns_fd):
            return "unnamed"
        if function is not None:
            return str(function["state"])
        return "failed" if vm.spec.name in self._programs.failed else "running"
