# SPDX-License-Identifier: Apache-2.0
"""The members of a host, its VMs and endpoints: numbered, refused if the machine has not what they
take, started and stopped side by side.

It blocks, needs no event loop, and may run in any thread.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from hostsim import etc
from hostsim.errors import HostsimError, reason
from hostsim.model import HostSpec
from hostsim.needs import needs
from hostsim.teardown import Teardown
from hostsim.vm import Vm
from netns import parameters, priority, uplinks
from netns.journal import Journal

log = logging.getLogger("hostsim.members")

STOPS = 8
"""VMs that are taken down at the same time."""


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


def refuse_ways_to_the_world(spec: HostSpec, names: Iterable[str]) -> None:
    """Raises HostsimError if the machine's default route goes by one of these interfaces, which the
    host takes, and the host file does not allow that."""
    for name in names:
        if uplinks.inspect(name).default_route and name not in spec.may_take:
            table = "[switch]" if name in spec.uplinks else "its [[device]]"
            raise HostsimError(
                f"interface {name}",
                "the machine's default route goes by it, which the machine would lose",
                f"take_default_route = true in {table} takes it all the same",
            )


def start(vms: Mapping[str, Vm], journal: Journal, closing: Teardown) -> None:
    """Start VMs without a switch. Raises HostsimError, OSError."""
    closing.push("VMs", partial(stop, vms), blocks=True)
    side_by_side([partial(start_one, vm, journal, closing) for vm in vms.values()])


def start_one(vm: Vm, journal: Journal, closing: Teardown) -> None:
    """Start a VM, unless `closing` is given up. Raises HostsimError, OSError."""
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
    side_by_side([vm.stop for vm in vms.values()], STOPS)


def side_by_side(jobs: Iterable[Callable[[], None]], threads: int = os.cpu_count() or 1) -> None:
    """Do all jobs, in threads. Once all have ended, raises what the first one raised; what others
    raised is logged."""
    with ThreadPoolExecutor(threads, "members", initializer=priority.keep_up) as pool:
        ended = [pool.submit(job) for job in jobs]
    failures = [error for one in ended if (error := one.exception()) is not None]
    for error in failures[1:]:
        log.error("%s", reason(error))
    if failures:
        raise failures[0]


def both(error: Exception, second: HostsimError) -> HostsimError:
    """Why a host could not be built, and why it could not be taken down."""
    if isinstance(error, HostsimError):
        what, why, hint = error.what, error.why, error.hint
    else:
        what, why, hint = "up", reason(error), ""
    return HostsimError(what, f"{why}; {second.what}: {second.why}", hint or second.hint)
