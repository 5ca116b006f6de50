# SPDX-License-Identifier: Apache-2.0
"""VMs that are told beforehand whose MAC address is whose: netns/neighbours.py says why.

    everybody = known(vms)      nothing, if the kernel has room for all to ask each other
    make(vm, everybody)         in any thread, once its eth0 is up

What comes from outside is none of it.
"""

import contextlib
import logging
from collections.abc import Sequence

from hostsim.vm import Vm
from netns import neighbours
from netns.links import Rtnl

log = logging.getLogger("hostsim.switch")

MOST = 1 << 18
"""Neighbours that are told at most: some 100 MB of the kernel's memory."""

Known = Sequence[tuple[Vm, tuple[bytes, bytes]]]
"""VMs, and what others are told of each: see `neighbours.pack`."""


def count(vms: Sequence[Vm]) -> int:
    """Entries of neighbours if all VMs talk to all."""
    talkers = sum(bool(vm.spec.addresses) for vm in vms)
    return talkers * max(0, sum(len(vm.spec.addresses) for vm in vms) - 1)


def known(everybody: Sequence[Vm]) -> Known:
    """What each of them is to be told. Their MAC addresses are settled."""
    wanted = count(everybody)
    if wanted <= neighbours.room() // 2:
        return []
    if wanted > MOST:
        log.warning(
            "%d VMs with addresses: if all talk to all, %d neighbours are too many to tell; "
            "sysctl net.ipv4.neigh.default.gc_thresh3 (and ipv6) has to be as many",
            len(everybody),
            wanted,
        )
        return []
    owners = [one for one in everybody for _ in one.spec.addresses]
    addresses = [(a.ip, one.mac) for one in everybody for a in one.spec.addresses]
    return list(zip(owners, neighbours.pack(addresses), strict=True))


def make(vm: Vm, everybody: Known) -> None:
    """Tell one of them about all others. Raises OSError."""
    theirs = [words for owner, words in everybody if owner is not vm]
    said = [*neighbours.patience(vm.eth0), *neighbours.messages(theirs, vm.eth0)]
    with contextlib.closing(Rtnl(vm.netns_fd)) as rtnl:
        rtnl.pour(said)
