# SPDX-License-Identifier: Apache-2.0
"""What is kept of flows that are forgotten, so that `verify` still sees what became of them. Pure.

A flow that has been silent for FLOW_IDLE goes from the tables, and so do those of a VM that has
died. Their counts go into sums, one set for each VM, which the kernel keeps for what transfer
components sent (`ended` in cext/switch/maps.bpf.h), and `Retained` for what the ports of packet
functions sent and for what the kernel dropped. So what is kept is bounded by the numbers of VMs and
of names.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cext.switch.records import Drop, Ended, Flow
from hostsim.routing.accounts import Snapshot


@dataclass
class PortSums:
    """Of one VM's port: what its function sent, what of it arrived at the switch (`seen`) or was
    taken from rings, what was lost by name; takers: the VMs that took some."""

    flows: int = 0
    sent: int = 0
    got: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    takers: frozenset[int] = frozenset()
    seen: Ended = field(default_factory=lambda: Ended(0))


class Retained:
    """The sums. What `fold_drops` was given is read by `drops`, whole or not at all: the two may
    run in different threads."""

    def __init__(self) -> None:
        self._ports: dict[int, PortSums] = {}
        self._drops: Mapping[tuple[int, str, int, int], int] = {}

    def fold_ports(self, gone: Snapshot, flows: Sequence[Flow]) -> None:
        """Add what ports had counted of flows that are forgotten, and what the switch had."""
        for (vm, _), account in gone.sent.items():
            sums = self._of(vm)
            sums.flows += 1
            sums.sent += account.sent
            for name, count in account.drops.items():
                sums.drops[name] = sums.drops.get(name, 0) + count
        for (vm, _), count in gone.got.items():
            self._of(vm).got += count
        for (vm, _), takers in gone.takers.items():
            self._of(vm).takers |= takers
        for flow in flows:
            seen = self._of(flow.vm).seen
            seen.packets += flow.packets
            seen.dropped = [a + b for a, b in zip(seen.dropped, flow.dropped, strict=True)]

    def fold_drops(self, drops: Iterable[Drop]) -> None:
        """Add what the kernel dropped of flows that are forgotten."""
        sums = dict(self._drops)
        for one in drops:
            key = one.vm, one.reason, one.at, one.place
            sums[key] = sums.get(key, 0) + one.packets
        self._drops = sums

    @property
    def ports(self) -> Mapping[int, PortSums]:
        """By VM."""
        return self._ports

    @property
    def drops(self) -> list[Drop]:
        """What the kernel dropped, without the flows."""
        return [
            Drop(vm, None, reason, at, place, packets, 0)
            for (vm, reason, at, place), packets in self._drops.items()
        ]

    def _of(self, vm: int) -> PortSums:
        return self._ports.setdefault(vm, PortSums(seen=Ended(vm)))


NOTHING = Retained()
