# SPDX-License-Identifier: Apache-2.0
"""Which route a flow takes, and which VM is next: the decision. Pure; no I/O.

`compile_lists` turns the routes into the rows that the classifier walks; `judge` and `next_hop` are
the classifier's decision again, in Python (cext/switch/decide.bpf.h), for `explain` and for tests
that hold the two against each other. The first row that matches wins; no match is plain bridging.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cext.switch.records import (
    BRIDGE,
    DROP,
    FROM,
    PREFIXES,
    RANGES,
    ROWS_MAX,
    STEER,
    Lists,
    Row,
    Tuple,
)
from hostsim.errors import HostsimError
from hostsim.model import FilterSpec, MatchSpec, MirrorSpec, Network, RouteSpec
from hostsim.names import HAS_PORTS

TCP, UDP = 6, 17
CARRIERS = {"sni": (TCP,), "http_host": (TCP,), "dns_name": (UDP, TCP)}
SYN, ACK = 0x02, 0x10


Owners = Mapping[bytes, int]
"""The VM or endpoint that has an address, by the host file; addresses are packed."""
NO_OWNERS: Owners = {}


@dataclass(frozen=True)
class Judgement:
    """A connection's route (None: plain bridging), the row that said so, and which way this tuple
    goes: `reply` is against the chain's order. undecided: contents not seen yet could still choose
    another row."""

    route: int | None
    row: int | None
    reply: bool
    undecided: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Hop:
    """What the switch does with a packet: an action, the VM it goes to (0: the bridge), its place
    in the chain (the chain's length: past its end), and whether the flow enters its chain here."""

    action: int
    to: int
    position: int
    start: bool
    vm_gone: bool = False


@dataclass(frozen=True)
class First:
    """What is known of a connection's first packet.

    origin: the number of the VM or endpoint whose port it came in by, 0 if it is not known.
    names: what its contents told so far, as (kind, name).
    owner: the number of the VM or endpoint that has its source address, 0 if it is not known.
    unseen: its contents will never be known; they may be any.
    """

    flow: Tuple
    tcp_flags: int = 0
    dscp: int = 0
    origin: int = 0
    names: tuple[tuple[str, str], ...] = ()
    owner: int = 0
    unseen: bool = False


def compile_lists(
    routes: Iterable[RouteSpec],
    filters: Iterable[FilterSpec],
    mirrors: Iterable[MirrorSpec],
    numbers: Mapping[str, int],
) -> Lists:
    """The rows of a policy, in order. numbers: VM numbers by name. What has longer lists than a
    row takes, or mixes IPv4 and IPv6, gets several rows."""
    return Lists(
        tuple(row for one in routes for row in _rows(one.match, one.index, numbers)),
        tuple(row for one in filters for row in _rows(one.match, one.index, numbers)),
        tuple(row for one in mirrors for row in _rows(one.match, numbers[one.to], numbers)),
    )


def count_rows(matches: Iterable[MatchSpec], most: int) -> int:
    """How many rows `compile_lists` makes of these, or most + 1 if there are more: then it does not
    make them all to find out."""
    rows = (row for match in matches for row in _rows(match, 0, dict.fromkeys(match.origins, 0)))
    return sum(1 for _ in itertools.islice(rows, most + 1))


def refuse_too_many(
    routes: Sequence[RouteSpec], filters: Sequence[FilterSpec], mirrors: Sequence[MirrorSpec]
) -> None:
    """Raises HostsimError if `compile_lists` made more rows of these than the classifier has."""
    all_of_them: list[RouteSpec | FilterSpec | MirrorSpec] = [*routes, *filters, *mirrors]
    count = count_rows([one.match for one in all_of_them], ROWS_MAX)
    if count > ROWS_MAX or len(routes) > ROWS_MAX:
        raise HostsimError(
            "routes, filters and mirrors",
            f"more than {ROWS_MAX:,} rows of matches",
            "shorter lists in a match, or wider networks and ranges, need fewer",
        )


def match_rows(match: MatchSpec, index: int) -> Iterator[Row]:
    """The rows of one match that names no VM, as a list's entry `index`."""
    return _rows(match, index, {})


def _rows(match: MatchSpec, route: int, numbers: Mapping[str, int]) -> Iterator[Row]:
    origins = [numbers[name] for name in match.origins]
    not_ip = match.ethertype if match.ethertype not in (0x0800, 0x86DD, None) else 0
    for family in _families(match):
        src = [_prefix(net) for net in match.src if net.version == family]
        dst = [_prefix(net) for net in match.dst if net.version == family]
        for src_part, dst_part, sport, dport, origin, (proto, content) in itertools.product(
            _chunks(src, PREFIXES),
            _chunks(dst, PREFIXES),
            _chunks(match.sport, RANGES),
            _chunks(match.dport, RANGES),
            _chunks(origins, FROM),
            _contents(match),
        ):
            yield Row(
                route,
                family,
                proto,
                src_part,
                dst_part,
                sport,
                dport,
                origin,
                match.tcp_flags or (0, 0),
                match.dscp,
                match.vlan or 0,
                not_ip or 0,
                content,
            )


def _contents(
    match: MatchSpec,
) -> list[tuple[int | None, tuple[str, tuple[str, ...]] | None]]:
    """Protocol and names: nothing but what can carry a name waits for one."""
    return [
        (proto, (kind, getattr(match, kind)))
        for kind, carriers in CARRIERS.items()
        if getattr(match, kind)
        for proto in (carriers if match.proto is None else (match.proto,))
    ] or [(match.proto, None)]


def _families(match: MatchSpec) -> tuple[int, ...]:
    """The address families that can match, or (0,) if addresses do not matter."""
    if match.ethertype in (0x0800, 0x86DD):
        wanted: tuple[int, ...] = (4,) if match.ethertype == 0x0800 else (6,)
    elif not match.src and not match.dst:
        return (0,)
    else:
        wanted = (4, 6)
    return tuple(
        family
        for family in wanted
        if all(
            not nets or any(net.version == family for net in nets)
            for nets in (match.src, match.dst)
        )
    )


def _prefix(net: Network) -> tuple[bytes, bytes]:
    return net.network_address.packed, net.netmask.packed


def _chunks(items: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    return [tuple(items[at : at + size]) for at in range(0, len(items), size)] or [()]


def first_match(rows: Sequence[Row], first: First) -> int | None:
    """The index of the first row that matches."""
    return next((at for at, row in enumerate(rows) if _matches(row, first)), None)


def undecided(rows: Sequence[Row], first: First, found: int | None) -> bool:
    """Whether contents not seen yet could still choose another row than `found`."""
    before = rows if found is None else rows[:found]
    return not (first.names or first.unseen) and any(
        row.content is not None and _matches(row._replace(content=None), first) for row in before
    )


def _matches(row: Row, first: First) -> bool:
    flow = first.flow
    if row.vlan != flow.vlan:
        return False
    if (row.ethertype != 0) if flow.family else (row.ethertype != flow.sport):
        return False
    if row.family and row.family != flow.family:
        return False
    if row.proto is not None and row.proto != flow.proto:
        return False
    for ranges, port in ((row.sport, flow.sport), (row.dport, flow.dport)):
        if ranges and not (
            flow.proto in HAS_PORTS and any(low <= port <= high for low, high in ranges)
        ):
            return False
    for prefixes, address in ((row.src, flow.src), (row.dst, flow.dst)):
        if prefixes and not any(_inside(address, *prefix) for prefix in prefixes):
            return False
    if row.origins and first.origin not in row.origins and first.owner not in row.origins:
        return False
    if row.dscp is not None and row.dscp != first.dscp:
        return False
    mask, want = row.tcp_flags
    if first.tcp_flags & mask != want:
        return False
    return (
        row.content is None
        or first.unseen
        or any(
            kind == row.content[0] and name_matches(name, row.content[1])
            for kind, name in first.names
        )
    )


def name_matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a host name is one of the patterns: exact, or `*.` and anything below."""
    return any(
        name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
        if pattern.startswith("*.")
        else name == pattern
        for pattern in patterns
    )


def _inside(address: bytes, network: bytes, mask: bytes) -> bool:
    return all(a & m == n for a, n, m in zip(address, network, mask, strict=True))


def judge(rows: Sequence[Row], first: First, owners: Owners = NO_OWNERS) -> Judgement:
    """The judgement at the first packet of a connection nothing is known of: hs_judge_conn in
    decide.bpf.h."""
    turned = first.flow.reversed()
    tcp = first.flow.proto == TCP
    if tcp and not first.tcp_flags & SYN and not first.names:
        first = replace(first, unseen=True)  # what would tell has passed
    ahead = replace(first, owner=owners.get(first.flow.src, 0))
    back = replace(
        first,
        flow=turned,
        tcp_flags=SYN if tcp else first.tcp_flags,  # nobody saw the packet that began it
        origin=0,
        owner=owners.get(turned.src, 0),
    )
    forward, backward = first_match(rows, ahead), first_match(rows, back)
    open_ahead, open_back = undecided(rows, ahead, forward), undecided(rows, back, backward)
    if tcp and first.tcp_flags & (SYN | ACK) == SYN | ACK:
        reply = backward is not None or forward is None
    elif tcp and not first.tcp_flags & SYN:
        reply = backward is not None and (forward is None or backward < forward)
    else:
        reply = forward is None and not open_ahead and (backward is not None or open_back)
    row, is_open = (backward, open_back) if reply else (forward, open_ahead)
    return Judgement(None if row is None else rows[row].route, row, reply, is_open)


def own(first: First, flow: Tuple, enters: int, reply: bool, turned: bool) -> First:
    """What filters and mirrors hold a flow against: hs_watch in decide.bpf.h. first: of its
    connection; enters: by whose port it comes into the switch, 0 in the midst of its chain; reply:
    it is of the replies; turned: the connection's first packet went the other way."""
    if reply:
        return replace(first, flow=flow, origin=0, owner=0)
    began = 0 if turned else first.origin
    return replace(first, flow=flow, origin=enters or began, owner=began)


def to_group(flow: Tuple) -> bool:
    """Whether packets of this tuple are to a group: no route holds for them in frames to groups,
    filters and mirrors do. IPv4: RFC 5771 and the limited broadcast address; a subnet's looks like
    any host's."""
    if flow.family == 4:
        return flow.dst[0] >> 4 == 0xE or flow.dst == b"\xff" * 4
    return flow.dst[0] == 0xFF if flow.family == 6 else bool(flow.dst[0] & 1)


def next_hop(
    chain: Sequence[int], vm: int, reply: bool, alive: Callable[[int], bool], skip: bool = False
) -> Hop:
    """Where a packet goes that came in by the port of `vm`. A VM of the chain goes on from its own
    place; anyone else starts at the chain's beginning (its end, for replies)."""
    inside = vm in chain
    step = -1 if reply else 1
    at = chain.index(vm) if inside else len(chain) if reply else -1
    gone = False
    while 0 <= (at := at + step) < len(chain):
        if alive(chain[at]):
            return Hop(STEER, chain[at], at, not inside, gone)
        gone = True
        if not skip:
            return Hop(DROP, chain[at], at, not inside, gone)
    return Hop(BRIDGE, 0, len(chain), True, gone)
