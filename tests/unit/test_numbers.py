# SPDX-License-Identifier: Apache-2.0
"""Interface numbers that hostsim gives: those of one kind are never those of another."""

from itertools import combinations

from cext.switch import records
from hostsim.hostfile import file as hostfile
from hostsim.kmc import nics

KERNEL = range(1, 10_000)
"""What a namespace that hostsim made gives by itself: it has few interfaces of its own."""
MANY = 10_000
"""Network interfaces that may be equipment; no machine has so many."""


def test_ranges_are_apart() -> None:
    most = records.VM_MAX + 1
    ranges = {
        "the kernel's": KERNEL,
        "ports": range(records.IFINDEX, records.IFINDEX + most),
        "eth0": range(records.ETH0, records.ETH0 + most),
        "equipment": range(nics.NUMBER, nics.NUMBER + MANY),
        "direct links": range(records.DIRECT, records.DIRECT + (most << 12)),
    }
    for (one, first), (other, second) in combinations(ranges.items(), 2):
        assert first.stop <= second.start or second.stop <= first.start, (one, other)
    assert records.VM_MAX < 1 << 12
    assert hostfile.OSES_MAX <= records.VM_MAX
