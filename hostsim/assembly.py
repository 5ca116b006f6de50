# SPDX-License-Identifier: Apache-2.0
"""What every host stands on: its VMs, their switch, and the data plane between them.

    closing = Teardown("host lab")
    net = assemble(spec, numbered(spec), journal, closing)
    ...
    closing.close()

The daemon's host, the benches and the tests all build it here. It blocks, needs no event loop, and
may run in any thread.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hostsim import etc
from hostsim.errors import HostsimError, reason
from hostsim.model import HostSpec
from hostsim.needs import needs
from hostsim.routing.dataplane import Dataplane
from hostsim.switch import Switch
from hostsim.teardown import Teardown
from hostsim.vm import Vm
from netns import links, parameters, priority
from netns.journal import Journal

if TYPE_CHECKING:
    from hostsim.nf.functions import Functions

log = logging.getLogger("hostsim.assembly")

STOPS = 8
"""VMs that are taken down at the same time."""


@dataclass(frozen=True)
class Assembly:
    """The parts, linked and running."""

    spec: HostSpec
    vms: Mapping[str, Vm]
    switch: Switch
    dataplane: Dataplane

    def functions(
        self, logs: Path, closing: Teardown, placed: bool = True, tapped: bool = True
    ) -> "Functions":
        """The host's packet functions, ready to be started; its VMs need not have any. logs: the
        folder of their output. placed, tapped: see Functions. Raises OSError."""
        from hostsim.nf.functions import Functions  # only hosts that have some load it

        made = Functions(self.spec, self.switch, self.dataplane, self.vms, logs, placed, tapped)
        closing.push("network functions", made.close)
        made.prepare()
        return made


def numbered(spec: HostSpec) -> dict[str, Vm]:
    """The host's VMs and endpoints by name, none of them started."""
    vms = {
        one.name: Vm(spec.name, one, index)
        for index, one in enumerate((*spec.vms, *spec.endpoints), start=1)
    }
    names = etc.lines(spec)
    for vm in vms.values():
        vm.names = names
    return vms


def refuse(spec: HostSpec, vms: Iterable[Vm]) -> None:
    """Raises HostsimError if this machine has not what the host takes, or these VMs' limits."""
    for need in needs(spec, parameters.look):
        if need.certain and not need.met:
            raise HostsimError(
                need.name,
                f"this host takes {need.wanted:,} ({need.for_what}), and this machine has "
                f"{need.has:,}",
                need.raised,
            )
    for vm in vms:
        missing = vm.unsupported_limits()
        if missing:
            raise HostsimError(
                f"[[vm]] {vm.spec.name!r}",
                f"this kernel has no cgroup controller for {', '.join(missing)}",
                "hostsim check shows what there is; take the limit out of the host file",
            )


def assemble(
    spec: HostSpec, vms: Mapping[str, Vm], journal: Journal, closing: Teardown
) -> Assembly:
    """Start the VMs, link them, lend the uplinks, and write the policy. Everything that is to be
    taken down is in `closing` when it is made, also if this raises: HostsimError, OSError. Ends
    early with HostsimError once `closing` is given up."""
    switch = Switch(spec.name, journal)
    plane = Dataplane(spec, switch, vms)
    closing.push("switch", switch.close, blocks=True)
    closing.push("VMs", partial(stop, vms), blocks=True)
    closing.push("data plane", plane.close, blocks=True)
    starts = [partial(_start, vm, journal, closing) for vm in vms.values()]
    # The classifier is loaded by the kernel, beside the VMs; the library once they have started, if
    # it may be needed soon: for direct links, or for NICs.
    compiles = bool(spec.routes or spec.uplinks or spec.nics)
    _side_by_side([plane.load, *starts, *([links.load] if compiles else [])])
    switch.start()
    everybody, first = list(vms.values()), len(vms) + 1
    switch.place(everybody)
    plane.begin(range(first, first + len(spec.uplinks)))
    switch.connect(everybody)
    closing.check()
    switch.attach(spec.uplinks, first)
    plane.start()
    closing.check()
    return Assembly(spec, vms, switch, plane)


def start(vms: Mapping[str, Vm], journal: Journal, closing: Teardown) -> None:
    """Start VMs without a switch. Raises HostsimError, OSError."""
    closing.push("VMs", partial(stop, vms), blocks=True)
    _side_by_side([partial(_start, vm, journal, closing) for vm in vms.values()])


def _start(vm: Vm, journal: Journal, closing: Teardown) -> None:
    closing.check()
    vm.start(journal)


def stop(vms: Mapping[str, Vm]) -> None:
    """Stop all of them, also if one raises. Raises HostsimError, OSError: the first one.

    All that need no time for their end are killed first: the kernel then ends them beside each
    other."""
    if not any(vm.halts for vm in vms.values()):  # else one that halts may still need the others
        for vm in vms.values():
            with contextlib.suppress(OSError):  # `stop` tells what resists
                vm.kill()
    _side_by_side([vm.stop for vm in vms.values()], STOPS)


def _side_by_side(jobs: Iterable[Callable[[], None]], threads: int = os.cpu_count() or 1) -> None:
    """Do all jobs, in threads. Once all have ended, raises what the first one raised; what others
    raised is logged."""
    with ThreadPoolExecutor(threads, "assembly", initializer=priority.keep_up) as pool:
        ended = [pool.submit(job) for job in jobs]
    failures = [error for one in ended if (error := one.exception()) is not None]
    for error in failures[1:]:
        log.error("%s", reason(error))
    if failures:
        raise failures[0]
