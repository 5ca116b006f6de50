# SPDX-License-Identifier: Apache-2.0
"""The words of the data plane: flow, verdict, rule and row as plain values. Pure.

What switch/layout.h calls them, for the modules that decide and explain without touching a map.
Addresses are packed bytes in network order, VM numbers are the VMs' indices, times are nanoseconds
of CLOCK_MONOTONIC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

IFINDEX = 10000
ETH0 = 20000
DIRECT = 1 << 24
VM_MAX = 4095
CHAIN_MAX = 16
EPOCHS = 4
REGIONS = 5
ROWS_MAX = 2048
PREFIXES = 4
RANGES = 8
FROM = 8
NO_ROUTE = 0xFFFF
NO_CONTENT, UNSEEN_CONTENT = 0xFFFFFFFF, 0xFFFFFFFE
RULE_AFTER = 3
FLOWS_MAX, CONNS_MAX = 1 << 20, 1 << 18
SHARE = 7
ASK_MAX = 8
"""Sizes and numbers of switch/layout.h. Every number of this module that C has too is held against
its header: by cext/switch/maps.py when it is imported, and by tests/unit/test_records.py."""

BRIDGE, STEER, DROP = 0, 1, 2
F_BYPASS, F_START, F_MIRROR, F_VM_GONE, F_INSPECT, F_IN_GROUP, F_UNSEEN = 1, 2, 4, 8, 16, 32, 64
VM_ALIVE, VM_ROUTES, VM_ENDPOINT, VM_ON_SWITCH, VM_PORT, VM_UNLIKE = 1, 2, 4, 8, 16, 32
VM_ROUTER, VM_IMPAIRED = 64, 128
PAIR_ASKED, PAIR_READY, PAIR_REFUSED = 1, 2, 3
EVENT_PAIR, EVENT_CONTENT = 1, 2
ON, ON_VLAN, ON_ETHERTYPE, ON_WAIT = 1, 2, 4, 8

COUNTERS = (
    "plain",
    "malformed",
    "orphan-fragment",
    "vm-gone",
    "filter",
    "stale",
    "table-full",
    "old-epoch",
    "forged",
    "rules",
    "events-lost",
    "asked",
    "mirrored",
    "deep-tags",
    "unicast-in-group",
    "fragment-conflict",
    "no-share",
    "spoofed",
)


DROPPED_BY = ("filter", "vm-gone", "unicast-in-group", "no-share")
"""Why packets of a flow are dropped that count among its packets: enum hs_dropped_by."""
NONE_DROPPED = (0,) * len(DROPPED_BY)


class Tuple(NamedTuple):
    """A flow, one direction. src, dst: 4 or 16 bytes; ports as numbers."""

    family: int
    proto: int
    src: bytes
    sport: int
    dst: bytes
    dport: int
    vlan: int = 0

    def reversed(self) -> "Tuple":
        """The same connection's other direction."""
        return self._replace(src=self.dst, sport=self.dport, dst=self.src, dport=self.sport)


class Verdict(NamedTuple):
    """A decision: see enum hs_action and the flags in switch/layout.h."""

    epoch: int
    flags: int
    action: int
    to: int


@dataclass(slots=True)
class Flow:
    """A flow at the port of `vm`. dropped: of its packets, those dropped there, by DROPPED_BY."""

    vm: int
    tuple: Tuple
    verdict: Verdict
    packets: int
    bytes: int
    last: int
    route: int | None
    reply: bool
    position: int
    mirror: int
    asked: int
    dropped: Sequence[int] = NONE_DROPPED


@dataclass(slots=True)
class Rule:
    """A flow in the VM that sends it, and its routing rule if the verdict names one."""

    vm: int
    tuple: Tuple
    verdict: Verdict
    switch_packets: int
    veth_packets: int
    veth_bytes: int
    last: int
    got_packets: int


@dataclass(slots=True)
class Ended:
    """The sums of what `vm` sent in flows that are forgotten: see Rule and Flow."""

    vm: int
    flows: int = 0
    switch_packets: int = 0
    veth_packets: int = 0
    got_packets: int = 0
    packets: int = 0
    dropped: Sequence[int] = NONE_DROPPED


IN_VM, AT_EXIT, IN_SWITCH, BEHIND = range(4)
"""Where the kernel drops a packet: enum hs_drop_place."""


class Drop(NamedTuple):
    """Packets of a flow (None: of none that can be told) that the kernel dropped for a reason, by
    its name. vm: the VM it was in, or, past its exit, the one that had sent it; 0: unknown. at: the
    VM whose port it was on its way out of, in the switch; else 0."""

    vm: int
    tuple: Tuple | None
    reason: str
    at: int
    place: int
    packets: int
    last: int


ACCOUNT_COUNTS = (
    "sent",
    "ring_packets",
    "ring_bytes",
    "eth0_packets",
    "eth0_bytes",
    "full-ring",
    "full-eth0",
    "too-long",
)
"""The counts of a port's tally, enum hs_tally_count; from the sixth on they are losses."""


Counts = tuple[int, ...]
"""By ACCOUNT_COUNTS."""


class Account(NamedTuple):
    """A flow in the tally of a packet function's port: what `vm` sent, or, with a `peer`, what it
    took from that VM's ring. sequence: changes when the place is another flow's, or this one's
    anew."""

    vm: int
    flow: Tuple
    peer: int
    sequence: int
    last: int
    counts: Counts

    @property
    def sent(self) -> int:
        """Packets that the function gave to its port."""
        return self.counts[0]

    @property
    def ring(self) -> tuple[int, int]:
        """Packets and bytes by ring."""
        return self.counts[1], self.counts[2]

    @property
    def eth0(self) -> tuple[int, int]:
        """Packets and bytes by eth0."""
        return self.counts[3], self.counts[4]

    @property
    def drops(self) -> dict[str, int]:
        """Packets lost, by reason; without those that are none."""
        return {name: n for name, n in zip(ACCOUNT_COUNTS[5:], self.counts[5:], strict=True) if n}

    def minus(self, base: Counts) -> "Account":
        """What was counted since."""
        counts = tuple(max(0, n - m) for n, m in zip(self.counts, base, strict=True))
        return self._replace(counts=counts)


class Row(NamedTuple):
    """One row of a policy; each list at most PREFIXES, RANGES or FROM long, empty for anything.

    route: of a mirror, the VM that gets the copy. family: 0 for either. content: what the name of
    the contents must be, as (kind, patterns); None if contents do not matter.
    """

    route: int
    family: int = 0
    proto: int | None = None
    src: tuple[tuple[bytes, bytes], ...] = ()  # address, mask
    dst: tuple[tuple[bytes, bytes], ...] = ()
    sport: tuple[tuple[int, int], ...] = ()
    dport: tuple[tuple[int, int], ...] = ()
    origins: tuple[int, ...] = ()
    tcp_flags: tuple[int, int] = (0, 0)
    dscp: int | None = None
    vlan: int = 0
    ethertype: int = 0
    content: tuple[str, tuple[str, ...]] | None = None


class Lists(NamedTuple):
    """A policy's rows: of its routes, filters and mirrors."""

    routes: tuple[Row, ...]
    filters: tuple[Row, ...] = ()
    mirrors: tuple[Row, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """All of them, as they stand in the kernel."""
        return self.routes + self.filters + self.mirrors


class Content(NamedTuple):
    """Bytes of a packet's contents, from the classifier. asked: which packet of the flow with
    contents it is, from 1. sequence: TCP's number of the first byte; start: that of the first byte
    of the flow, 0 if nobody saw it begin. rest: how many bytes of the packet are still to come."""

    vm: int
    asked: int
    tuple: Tuple
    sequence: int
    data: bytes
    start: int = 0
    rest: int = 0


class Conn(NamedTuple):
    """A connection, by one of its tuples. reply: that is the replies', by the route. origin,
    tcp_flags, dscp: of the packet that it is judged by; turned: that went against the tuple;
    hearsay: it had the address of another VM than it came from. back: the VM whose port the other
    direction came in by last; 0: none yet."""

    tuple: Tuple
    route: int | None
    reply: bool
    origin: int
    tcp_flags: int
    dscp: int
    undecided: bool
    content: int
    turned: bool
    hearsay: bool
    back: int
