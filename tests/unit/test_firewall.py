# SPDX-License-Identifier: Apache-2.0
"""The firewall's decisions: against the policy's matcher in Python, over any rules and frames; and
what becomes of connections, fragments and ICMP errors after the first packet."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from cext._native import lib
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from cext.nf.judges import Firewall
from cext.switch.maps import pack_row
from cext.switch.records import Row, Tuple
from hostsim.model import MatchSpec
from hostsim.routing.policy import ACK, SYN, First, first_match, match_rows

SECOND = 10**9
HOSTS = ("198.18.0.1", "198.18.0.2", "198.18.1.1")
NETS = ("198.18.0.0/24", "198.18.0.1/32", "198.18.1.0/24", "fd00::/16")
PORTS = (1, 80, 443, 65535)
FLAGS = (0x02, 0x12, 0x10, 0x01, 0x04)


def firewall(*rules: tuple[MatchSpec, bool], default: bool = False, conns: int = 0) -> Firewall:
    rows = [row for at, (match, _) in enumerate(rules) for row in match_rows(match, at)]
    return Firewall([pack_row(row) for row in rows], [*(do for _, do in rules), default], conns)


def frame(packet: Any) -> bytes:
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)


matches = st.builds(
    MatchSpec,
    src=st.lists(st.sampled_from(NETS).map(ip_network), max_size=2).map(tuple),
    proto=st.sampled_from([None, 1, 6, 17]),
    dport=st.lists(st.sampled_from([(80, 80), (1, 100), (443, 65535)]), max_size=2).map(tuple),
    sport=st.lists(st.sampled_from([(80, 80), (1, 100)]), max_size=1).map(tuple),
    tcp_flags=st.sampled_from([None, (0x12, 0x02), (0x04, 0x04)]),
    dscp=st.sampled_from([None, 0, 46]),
    vlan=st.sampled_from([None, None, None, 7]),
    ethertype=st.sampled_from([None, None, None, 0x0800, 0x86DD, 0x88CC]),
)
packets = st.fixed_dictionaries(
    {
        "src": st.sampled_from(HOSTS),
        "dst": st.sampled_from(HOSTS),
        "proto": st.sampled_from([1, 6, 17, 47]),
        "sport": st.sampled_from(PORTS),
        "dport": st.sampled_from(PORTS),
        "flags": st.sampled_from(FLAGS),
        "dscp": st.sampled_from([0, 46]),
        "vlan": st.sampled_from([0, 0, 0, 7]),
        "six": st.booleans(),
    }
)


def build(p: dict[str, Any]) -> tuple[bytes, First]:
    """The frame, and what the switch would know of it."""
    src, dst = p["src"], p["dst"]
    ip: Packet
    if p["six"]:
        src, dst = (f"fd00::{address.rsplit('.', 1)[1]}" for address in (src, dst))
        ip = IPv6(src=src, dst=dst, tc=p["dscp"] << 2, nh=p["proto"])
    else:
        ip = IP(src=src, dst=dst, tos=p["dscp"] << 2, proto=p["proto"])
    sport, dport, flags = p["sport"], p["dport"], 0
    if p["proto"] == 6:
        flags = p["flags"]
        ip = ip / TCP(sport=sport, dport=dport, flags=flags)
    elif p["proto"] == 17:
        ip = ip / UDP(sport=sport, dport=dport)
    elif p["proto"] == 1 and not p["six"]:
        ip, dport = ip / ICMP(type=8, id=sport), sport
    elif p["proto"] == 1:  # ICMP for IPv4 has no sense here, but a number and no ports
        ip, sport, dport = ip / ICMP(type=8, id=0), 0, 0
    else:
        ip, sport, dport = ip / Raw(b"x" * 20), 0, 0
    layers = Dot1Q(vlan=p["vlan"]) / ip if p["vlan"] else ip
    net = ip_network(src).network_address.packed, ip_network(dst).network_address.packed
    flow = Tuple(6 if p["six"] else 4, p["proto"], net[0], sport, net[1], dport, p["vlan"])
    return frame(layers), First(flow, flags, p["dscp"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(matches, st.booleans()), max_size=6), st.booleans(), packets)
def test_it_decides_as_the_policy_does(
    rules: list[tuple[MatchSpec, bool]], default: bool, packet: dict[str, Any]
) -> None:
    data, first = build(packet)
    rows: list[Row] = [row for at, (match, _) in enumerate(rules) for row in match_rows(match, at)]
    route = judged(rows, first)
    wanted = default if route is None else rules[route][1]
    assert firewall(*rules, default=default).pass_(data, SECOND) == wanted


def judged(rows: list[Row], first: First) -> int | None:
    """The rule of a first packet: its own way round, a TCP SYN+ACK the other; in the middle of a
    TCP connection the first that matches either way."""
    turned = replace(first, flow=first.flow.reversed())
    syn, ack = first.tcp_flags & SYN, first.tcp_flags & ACK
    found = [first_match(rows, first), first_match(rows, turned)]
    if first.flow.proto != 6 or (syn and not ack):
        found = found[:1]
    elif syn:
        found = found[1:]
    rules = [one for one in found if one is not None]
    return rows[min(rules)].route if rules else None


WEB = (MatchSpec(proto=6, dport=((80, 80),)), True)


def tcp(flags: str, reply: bool = False, dport: int = 80) -> bytes:
    a, b = HOSTS[0], HOSTS[2]
    if reply:
        return frame(IP(src=b, dst=a) / TCP(sport=dport, dport=4000, flags=flags))
    return frame(IP(src=a, dst=b) / TCP(sport=4000, dport=dport, flags=flags))


def test_replies_of_accepted_connections_pass_and_nothing_else() -> None:
    one = firewall(WEB)
    assert not one.pass_(tcp("S", dport=81), 1)
    assert one.pass_(tcp("S"), 1)
    assert one.pass_(tcp("SA", reply=True), 2)
    assert one.pass_(tcp("A"), 3)
    stranger = IP(src=HOSTS[2], dst=HOSTS[0]) / TCP(sport=4000, dport=4000, flags="S")
    assert not one.pass_(frame(stranger), 4)
    assert one.counters() == {
        "accepted": 3, "drop-malformed": 0, "drop-orphan-fragment": 0, "drop-table-full": 0,
        "drop-rule-0": 0, "drop-default": 2,
    }  # fmt: skip


def test_a_firewall_that_forgot_goes_on_with_what_it_would_accept() -> None:
    for flags, reply in (("A", False), ("A", True), ("SA", True), ("FA", True)):
        assert firewall(WEB).pass_(tcp(flags, reply), 1), (flags, reply)
        assert not firewall(WEB).pass_(tcp(flags, reply, dport=81), 1)
    assert not firewall(WEB).pass_(tcp("S", reply=True), 1)


@pytest.mark.parametrize("flags", ["SA", "A", "FA", "PA"])
def test_nobody_lets_himself_in_by_an_answer(flags: str) -> None:
    """The inside may begin connections to the outside. What looks like a part of one passes, for it
    may be; a SYN the other way is none, whatever came before, from the inside too."""
    one = firewall((MatchSpec(src=(ip_network(f"{HOSTS[0]}/32"),)), True))

    def outside(flags: str) -> bytes:
        return frame(IP(src=HOSTS[2], dst=HOSTS[0]) / TCP(sport=4000, dport=22, flags=flags))

    def inside(flags: str) -> bytes:
        return frame(IP(src=HOSTS[0], dst=HOSTS[2]) / TCP(sport=22, dport=4000, flags=flags))

    assert not one.pass_(outside("S"), 1)
    one.pass_(outside(flags), 2)
    assert not one.pass_(outside("S"), 3)
    one.pass_(inside("R"), 4)
    assert not one.pass_(outside("S"), 5)
    assert one.pass_(inside("S"), 6)
    assert not one.pass_(outside("S"), 7)
    assert one.pass_(outside("SA"), 8)


def test_what_waits_for_an_answer_makes_room() -> None:
    """A flood of SYNs does not shut out the next one; connections that were answered stay."""
    one = firewall(default=True, conns=8)

    def syn(port: int, reply: bool = False) -> bytes:
        a, b = (HOSTS[2], HOSTS[0]) if reply else (HOSTS[0], HOSTS[2])
        sport, dport = (80, port) if reply else (port, 80)
        return frame(IP(src=a, dst=b) / TCP(sport=sport, dport=dport, flags="SA" if reply else "S"))

    assert one.pass_(syn(1), 1)
    assert one.pass_(syn(1, reply=True), 2)
    assert all(one.pass_(syn(port), 3) for port in range(2, 9))
    assert not one.pass_(syn(9), 4 * SECOND)
    assert all(one.pass_(syn(port), 6 * SECOND) for port in range(9, 16))
    assert one.pass_(syn(1, reply=True), 6 * SECOND)
    assert one.counters()["drop-table-full"] == 1


def test_connections_end_when_they_are_silent() -> None:
    one = firewall((MatchSpec(proto=17, dport=((53, 53),)), True))
    ask = frame(IP(src=HOSTS[0], dst=HOSTS[2]) / UDP(sport=5, dport=53))
    answer = frame(IP(src=HOSTS[2], dst=HOSTS[0]) / UDP(sport=53, dport=5))
    assert not one.pass_(answer, 1)
    assert one.pass_(ask, 1)
    assert one.pass_(answer, 119 * SECOND)
    assert one.pass_(answer, 238 * SECOND)
    assert not one.pass_(answer, 359 * SECOND)
    assert one.pass_(ask, 360 * SECOND)


def test_a_full_table_drops_by_name_and_frees_itself() -> None:
    one = firewall(default=True, conns=8)
    asks = [frame(IP(src=HOSTS[0], dst=HOSTS[2]) / UDP(sport=n, dport=53)) for n in range(1, 10)]
    assert [one.pass_(ask, 1) for ask in asks] == [True] * 8 + [False]
    assert one.counters()["drop-table-full"] == 1
    assert one.pass_(asks[8], 130 * SECOND)


def test_a_source_that_floods_pays_with_its_own() -> None:
    """The connections of others stay, answered or not, and new ones find a place. Defence: in a
    full set, one of the source that has most gives way (gives_way, nf/track.c)."""
    inside, flooder, outside = "198.18.0.1", "198.18.0.66", "198.18.1.1"
    one = firewall((MatchSpec(src=(ip_network("198.18.0.0/24"),)), True), conns=1024)

    def sent(source: str, port: int, make: Any, back: bool = False, **more: Any) -> bytes:
        source, target = (outside, source) if back else (source, outside)
        ports = {"sport": 53, "dport": port} if back else {"sport": port, "dport": 53}
        return frame(IP(src=source, dst=target) / make(**ports, **more))

    for port in range(1, 41):
        assert one.pass_(sent(inside, port, UDP), 1)
        assert one.pass_(sent(inside, port, UDP, back=True), 1)
        assert one.pass_(sent(inside, port, TCP, flags="S"), 1)
    now = 7 * SECOND  # what waits for an answer gives way to others now, but not to a flood
    for port in range(1, 2000):
        one.pass_(sent(flooder, port, UDP), now)
        one.pass_(sent(flooder, port, UDP, back=True), now)
    refused = one.counters()["drop-table-full"]
    for port in range(1, 41):
        assert one.pass_(sent(inside, port, UDP, back=True), now)
        assert one.pass_(sent(inside, port, TCP, back=True, flags="SA"), now)
    assert all(one.pass_(sent(inside, port, UDP), now) for port in range(1001, 1041))
    assert one.counters()["drop-table-full"] == refused > 0


def test_fragments_do_as_the_first_one() -> None:
    whole = IP(src=HOSTS[0], dst=HOSTS[2], id=9) / UDP(sport=1, dport=53) / Raw(b"x" * 3000)
    first, *later = (frame(part) for part in fragment(whole, 1000))  # type: ignore[no-untyped-call]  # scapy's
    one = firewall((MatchSpec(proto=17, dport=((53, 53),)), True))
    assert not one.pass_(later[0], 1)
    assert one.counters()["drop-orphan-fragment"] == 1
    assert one.pass_(first, 1)
    assert all(one.pass_(part, 2) for part in later)
    assert one.pass_(later[0], (lib.HS_FRAGMENT_SECONDS - 1) * SECOND)
    assert not one.pass_(later[0], (lib.HS_FRAGMENT_SECONDS + 1) * SECOND)


def test_icmp_errors_pass_with_their_connection() -> None:
    one = firewall((MatchSpec(proto=17), True))
    sent = IP(src=HOSTS[0], dst=HOSTS[2]) / UDP(sport=1, dport=53)
    error = frame(IP(src=HOSTS[1], dst=HOSTS[0]) / ICMP(type=3, code=1) / sent)
    assert not one.pass_(error, 1)
    assert one.pass_(frame(sent), 2)
    assert one.pass_(error, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(13),
        frame(IP(len=4000) / UDP()),
        frame(IP(ihl=15) / UDP()),
        frame(IP() / TCP())[:40],
        frame(IPv6() / ICMPv6EchoRequest())[:50],
        frame(IPv6(nh=0) / Raw(b"\0" * 72)),
    ],
)
def test_what_lies_about_its_length_is_malformed(data: bytes) -> None:
    one = firewall(default=True)
    assert not one.pass_(data, 1)
    assert one.counters()["drop-malformed"] == 1


def test_fragments_over_ipv6_do_as_the_first_one_whatever_protocol_they_say() -> None:
    one = firewall((MatchSpec(proto=17, dport=((53, 53),)), True))
    whole = UDP(sport=1, dport=53) / Raw(b"x" * 24)
    for ident, allowed in ((7, True), (8, False)):
        whole.dport = 53 if allowed else 54
        data = bytes(whole)
        head = IPv6(src="fd00::1", dst="fd00::2")
        first = head / IPv6ExtHdrFragment(nh=17, m=1, id=ident) / Raw(data[:16])
        later = head / IPv6ExtHdrFragment(nh=60, offset=2, id=ident) / Raw(data[16:])
        assert one.pass_(frame(first), 1) is allowed
        assert one.pass_(frame(later), 2) is allowed
