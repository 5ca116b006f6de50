# SPDX-License-Identifier: Apache-2.0
"""What `apply` changes of a host's data plane, worked out beforehand; pure."""

from collections.abc import Mapping
from typing import NamedTuple

from cext.switch import records
from hostsim.errors import HostsimError
from hostsim.model import HostSpec, VmSpec
from hostsim.routing.epochs import Epochs, Policy
from hostsim.routing.impair import Ends, ends


class Change(NamedTuple):
    """See the module. rates: in bit/s, by VM."""

    policy: Policy
    lists: records.Lists
    links: Ends
    rates: Mapping[str, int | None]


def compiled(spec: HostSpec, members: Mapping[str, VmSpec], epochs: Epochs) -> Change:
    """What a host file is about. members: the host's VMs and endpoints, as they will be. Raises
    HostsimError if the file's are others, or there are too many routes."""
    theirs = {vm.name: vm for vm in (*spec.vms, *spec.endpoints)}
    if {n: v.endpoint for n, v in theirs.items()} != {n: v.endpoint for n, v in members.items()}:
        raise HostsimError(
            "routes apply",
            "the file's VMs and endpoints are not those of the running host",
            f"the host has: {', '.join(members)}",
        )
    policy = Policy(spec.routes, spec.filters, spec.mirrors)
    rates = {name: vm.rate for name, vm in theirs.items()}
    return Change(policy, epochs.compile(policy), ends(spec.links), rates)
