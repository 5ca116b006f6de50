# SPDX-License-Identifier: Apache-2.0
"""The kernel's decision and Python's are the same, for any policy and any first packet."""

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cext.bpf import objects as bpf
from cext.switch import maps, records
from cext.switch.records import Lists, Tuple
from hostsim.model import FilterSpec, MatchSpec, RouteSpec
from hostsim.routing import policy

pytestmark = pytest.mark.root

NUMBERS = {"a": 1, "b": 2, "c": 3, "d": 4}
NETS = (
    IPv4Network("198.18.0.0/24"),
    IPv4Network("198.18.0.16/28"),
    IPv4Network("0.0.0.0/0"),
    IPv6Network("fd00::/16"),
    IPv6Network("fd00::7/128"),
)
ADDRESSES = [bytes([198, 18, 0, n]) for n in (1, 17, 30)] + [
    bytes([0xFD, 0, *[0] * 13, n]) for n in (6, 7)
]
ports = st.sampled_from((0, 22, 79, 80, 81, 443, 65535))
nets = st.lists(st.sampled_from(NETS), max_size=6, unique=True).map(tuple)
ranges = st.lists(st.tuples(ports, ports).map(lambda two: (min(two), max(two))), max_size=10)
matches = st.builds(
    MatchSpec,
    src=nets,
    dst=nets,
    proto=st.sampled_from((None, 1, 6, 17)),
    sport=ranges.map(tuple),
    dport=ranges.map(tuple),
    origins=st.lists(st.sampled_from(sorted(NUMBERS)), max_size=2, unique=True).map(tuple),
    tcp_flags=st.sampled_from((None, (2, 2), (18, 2))),
    dscp=st.sampled_from((None, None, 0, 46)),
    vlan=st.sampled_from((None, None, 7)),
    ethertype=st.sampled_from((None, None, None, 0x0800, 0x86DD, 0x88B5)),
    sni=st.sampled_from(((), (), ("x.org",))),
)


@st.composite
def packets(draw: st.DrawFn) -> tuple[Tuple, int, int, int]:
    """A tuple, TCP flags, DSCP, and the VM it comes in from."""
    src = draw(st.sampled_from(ADDRESSES))
    dst = draw(st.sampled_from([one for one in ADDRESSES if len(one) == len(src)]))
    proto = draw(st.sampled_from((1, 6, 17, 47)))
    vlan = draw(st.sampled_from((0, 0, 7)))
    flow = Tuple(4 if len(src) == 4 else 6, proto, src, draw(ports), dst, draw(ports), vlan)
    if draw(st.integers(0, 9)) == 0:
        flow = Tuple(0, 0, bytes([2] * 6), 0x88B5, bytes([4] * 6), 0, vlan)
    flags = draw(st.sampled_from((0, 2, 16, 18))) if flow.proto == 6 else 0
    return flow, flags, draw(st.sampled_from((0, 46))), draw(st.sampled_from((1, 2, 3, 4)))


@pytest.fixture(scope="module")
def kernel() -> Iterator[bpf.Object]:
    loaded = bpf.Object("classifier")
    for number in NUMBERS.values():
        flags = records.VM_ALIVE | records.VM_ROUTES
        value = maps.pack_vm("02:00:00:00:00:01", flags)
        loaded.map("vms").set(maps.pack_u32(number), value)
    yield loaded
    loaded.close()


def load(kernel: bpf.Object, lists: Lists, chains: list[tuple[int, ...]]) -> None:
    for at, row in enumerate(lists.rows):
        kernel.map("rows").set(maps.pack_u32(at), maps.pack_row(row))
    for at, chain in enumerate(chains):
        kernel.map("routes").set(maps.pack_u32(at), maps.pack_route(chain, True))
    kernel.map("policies").set(maps.pack_u32(1), maps.pack_policy(1, 1, 0, lists))
    kernel.map("config").set(maps.pack_u32(0), maps.pack_config(1, records.ON))


def decide(
    kernel: bpf.Object, origin: int, flow: Tuple, flags: int, dscp: int
) -> tuple[int | None, bool, records.Verdict]:
    judge = kernel.program("judge")
    return maps.judge(kernel.map("judged"), judge, origin, flow, flags, dscp)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    table=st.lists(matches, min_size=1, max_size=6),
    chain=st.permutations(sorted(NUMBERS)),
    length=st.integers(1, 4),
    several=st.lists(packets(), min_size=1, max_size=8),
    owned=st.dictionaries(st.sampled_from(ADDRESSES), st.integers(1, 4)),
)
def test_both_decide_alike(
    kernel: bpf.Object,
    table: list[MatchSpec],
    chain: list[str],
    length: int,
    several: list[tuple[Tuple, int, int, int]],
    owned: dict[bytes, int],
) -> None:
    for address in ADDRESSES:
        kernel.map("owners").delete(maps.pack_owner(address))
    for address, number in owned.items():
        kernel.map("owners").set(maps.pack_owner(address), maps.pack_u32(number))
    through = tuple(chain[:length])
    routes = [RouteSpec(index, match, through) for index, match in enumerate(table)]
    lists = policy.compile_lists(routes, (), (), NUMBERS)
    numbers = tuple(NUMBERS[name] for name in through)
    load(kernel, lists, [numbers] * len(routes))
    for flow, flags, dscp, origin in several:
        expected = policy.judge(lists.routes, policy.First(flow, flags, dscp, origin), owned)
        route, reply, verdict = decide(kernel, origin, flow, flags, dscp)
        assert (route, reply) == (expected.route, expected.reply), (lists, flow, flags)
        if expected.route is None:
            assert verdict.action == records.BRIDGE
            continue
        hop = policy.next_hop(numbers, origin, reply, lambda _: True)
        assert (verdict.action, verdict.to) == (hop.action, hop.to)


def test_a_filter_comes_before_the_route(kernel: bpf.Object) -> None:
    lists = policy.compile_lists(
        [RouteSpec(0, MatchSpec(proto=6), ("a",))],
        [FilterSpec(0, MatchSpec(proto=6, dport=((23, 23),)))],
        (),
        NUMBERS,
    )
    load(kernel, lists, [(1,)])
    for port, action in ((22, records.STEER), (23, records.DROP)):
        flow = Tuple(4, 6, ADDRESSES[0], 999, ADDRESSES[1], port)
        assert decide(kernel, 4, flow, 2, 0)[2].action == action


def test_a_thousand_routes(kernel: bpf.Object, tmp_path: Path) -> None:
    routes = [RouteSpec(n, MatchSpec(proto=6, dport=((n, n),)), ("a",)) for n in range(1, 1001)]
    routes = [RouteSpec(n, one.match, one.through) for n, one in enumerate(routes)]
    lists = policy.compile_lists(routes, (), (), NUMBERS)
    load(kernel, lists, [(1,)] * len(routes))
    for port in (1, 500, 1000, 1001):
        flow = Tuple(4, 6, ADDRESSES[0], 50000, ADDRESSES[1], port)
        found = decide(kernel, 4, flow, 2, 0)[0]
        assert found == (port - 1 if port <= 1000 else None)
