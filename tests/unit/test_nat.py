# SPDX-License-Identifier: Apache-2.0
"""The translator: every header and checksum of what it lets through, held against scapy's."""

import os
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from cext.nf.judges import Nat

SECOND = 10**9
NAT = "198.18.0.30"
MAC = "02:00:00:00:00:30"
CLIENT, CLIENT_MAC = "198.18.0.10", "02:00:00:00:00:10"
SERVER, SERVER_MAC = "198.18.0.20", "02:00:00:00:00:20"


def nat(low: int = 1024, high: int = 65535, kept: int = -1) -> Nat:
    return Nat(bytes([198, 18, 0, 30]), bytes.fromhex(MAC.replace(":", "")), (low, high), kept)


def through(one: Nat, packet: Any, now: int = SECOND, out: bool = True) -> Any:
    """What comes out, parsed; None: dropped. Its checksums are right."""
    source, target = (CLIENT_MAC, SERVER_MAC) if out else (SERVER_MAC, MAC)
    data = bytearray(bytes(Ether(src=source, dst=target) / packet))
    before = len(data)
    if not one.pass_(data, now):
        return None
    assert len(data) == before
    found = Ether(bytes(data))
    right(bytes(found[IP]))
    assert (found.src, found.dst) == (MAC, SERVER_MAC if out else CLIENT_MAC)
    return found[IP]


def right(data: bytes) -> None:
    """All checksums of an IPv4 packet, and of the packet that an ICMP error quotes."""
    packet = IP(data)
    again = IP(data)
    del again.chksum
    for layer in (TCP, UDP, ICMP):
        if layer in again and not again.frag and not again.flags.MF:
            if layer is UDP and packet[UDP].chksum == 0:
                continue
            del again[layer].chksum
            break
    assert bytes(IP(bytes(again))) == data, (
        packet.show(dump=True),
        IP(bytes(again)).show(dump=True),
    )


def quoted(error: Any) -> Any:
    """The packet in an ICMP error, its checksums looked at."""
    data = bytes(error[ICMP].payload)
    right(data)
    return IP(data)


def ends(error: Any) -> tuple[str, int, str, int]:
    """Of the packet in an ICMP error: source and target, address and port."""
    data = bytes(error[ICMP].payload)
    sport, dport = struct.unpack("!HH", data[20:24])
    return IP(data).src, sport, IP(data).dst, dport


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([TCP, UDP]),
    sport=st.integers(1, 65535),
    dport=st.integers(1, 65535),
    payload=st.binary(max_size=70),
    no_sum=st.booleans(),
)
def test_there_and_back(kind: Any, sport: int, dport: int, payload: bytes, no_sum: bool) -> None:
    one = nat()
    extra = {"chksum": 0} if kind is UDP and no_sum else {}
    sent = IP(src=CLIENT, dst=SERVER) / kind(sport=sport, dport=dport, **extra) / Raw(payload)
    out = through(one, sent)
    assert (out.src, out.dst, out.dport) == (NAT, SERVER, dport)
    assert out.sport == sport or sport < 1024 <= out.sport
    assert bytes(out[kind].payload) == payload
    answer = IP(src=SERVER, dst=NAT) / kind(sport=dport, dport=out.sport, **extra) / Raw(payload)
    back = through(one, answer, out=False)
    assert (back.src, back.dst, back.sport, back.dport) == (SERVER, CLIENT, dport, sport)


def test_udp_sums_that_come_out_as_zero() -> None:
    seen = set()
    for first in range(0, 0x10000, 0x101):
        one = nat()
        sent = IP(src=CLIENT, dst=SERVER) / UDP(sport=5000, dport=53)
        # A payload that makes the translated sum what is wanted, among them 0.
        out = through(one, sent / Raw(bytes([first >> 8, first & 255])))
        seen.add(out[UDP].chksum)
        wanted = out[UDP].chksum ^ 0xFFFF
        again = through(one, sent / Raw(((first + (0xFFFF - wanted)) % 0xFFFF).to_bytes(2, "big")))
        assert again[UDP].chksum != 0
    assert len(seen) > 200


def test_echo() -> None:
    one = nat()
    asked = through(one, IP(src=CLIENT, dst=SERVER) / ICMP(type=8, id=7, seq=3) / Raw(b"abc"))
    assert asked.src == NAT
    identifier = asked[ICMP].id
    assert identifier >= 1024  # 7 is none of its ports
    answer = IP(src=SERVER, dst=NAT) / ICMP(type=0, id=identifier, seq=3) / Raw(b"abc")
    back = through(one, answer, out=False)
    assert (back.dst, back[ICMP].id, back[ICMP].seq) == (CLIENT, 7, 3)
    # Nobody asks from outside, and nobody answers what was not asked.
    assert through(one, IP(src=SERVER, dst=NAT) / ICMP(type=8, id=identifier), out=False) is None
    assert through(one, IP(src=CLIENT, dst=SERVER) / ICMP(type=0, id=8)) is None


def test_two_of_inside_with_one_port() -> None:
    one = nat()
    ports = [
        through(one, IP(src=f"198.18.0.{n}", dst=SERVER) / UDP(sport=5000, dport=53)).sport
        for n in (10, 11)
    ]
    assert ports[0] == 5000
    assert ports[1] != 5000
    for n, port in zip((10, 11), ports, strict=True):
        back = through(one, IP(src=SERVER, dst=NAT) / UDP(sport=53, dport=port), out=False)
        assert (back.dst, back.dport) == (f"198.18.0.{n}", 5000)


def test_strangers_stay_outside() -> None:
    one = nat()
    through(one, IP(src=CLIENT, dst=SERVER) / UDP(sport=5000, dport=53))
    for stranger in (
        IP(src="198.18.0.99", dst=NAT) / UDP(sport=53, dport=5000),
        IP(src=SERVER, dst=NAT) / UDP(sport=54, dport=5000),
        IP(src=SERVER, dst=NAT) / UDP(sport=53, dport=5001),
        IP(src=SERVER, dst=NAT) / TCP(sport=53, dport=5000),
        IP(src=SERVER, dst=NAT, proto=47),
    ):
        assert through(one, stranger, out=False) is None
    assert one.counters()["drop-unknown"] == 5
    assert through(one, IP(src=NAT, dst=SERVER) / UDP(sport=1, dport=53)) is None
    assert through(one, IP(src=CLIENT, dst=SERVER, proto=47) / Raw(b"x" * 20)) is None
    assert one.counters()["drop-looped"] == 1
    assert one.counters()["drop-protocol"] == 1


def test_ports_run_out_and_come_back() -> None:
    one = nat(4000, 4003)

    def begin(n: int, now: int) -> Any:
        return through(one, IP(src=CLIENT, dst=SERVER) / UDP(sport=n, dport=53), now)

    first = {begin(n, SECOND).sport for n in range(4)}
    assert first == {4000, 4001, 4002, 4003}
    assert begin(9, 2 * SECOND) is None
    assert one.counters()["drop-full"] == 1
    assert (
        through(one, IP(src=CLIENT, dst=SERVER) / TCP(dport=80)).sport in first
    )  # TCP has its own
    begin(0, 100 * SECOND)
    assert begin(9, 130 * SECOND).sport in first
    assert begin(0, 131 * SECOND) is not None  # that one was in use all the time
    assert one.counters()["connections"] == 6


def test_a_source_that_floods_leaves_ports_to_others() -> None:
    """Seven eighths are the most that it gets, after a restart of the function, too."""
    fd = os.memfd_create("kept")
    try:
        one = nat(4001, 8096, fd)

        def begun(source: str, ports: range) -> int:
            asks = (IP(src=source, dst=SERVER) / UDP(sport=n, dport=53) for n in ports)
            asks_bytes = (bytearray(bytes(Ether(src=CLIENT_MAC) / ask)) for ask in asks)
            return sum(one.pass_(ask, SECOND) for ask in asks_bytes)

        assert begun("198.18.0.66", range(1, 5001)) == 4096 * 7 // 8
        assert begun(CLIENT, range(1, 101)) == 100
        assert one.counters()["drop-full"] == 5000 - 4096 * 7 // 8
        one = nat(4001, 8096, fd)
        assert begun("198.18.0.66", range(10001, 10101)) == 0
        assert begun(CLIENT, range(10001, 10101)) == 100
        assert through(one, IP(src=CLIENT, dst=SERVER) / TCP(dport=80)) is not None
    finally:
        os.close(fd)


def test_tcp_is_remembered_for_as_long_as_its_state_asks() -> None:
    def answered(open_: bool, after: int, flags: str = "A") -> bool:
        one = nat()
        ask = IP(src=CLIENT, dst=SERVER) / TCP(sport=5000, dport=80, flags="S")
        through(one, ask)
        answer = IP(src=SERVER, dst=NAT) / TCP(sport=80, dport=5000, flags="SA")
        if open_:
            through(one, answer, out=False)
        if flags != "A":
            answer[TCP].flags = flags
            through(one, answer, out=False)
        return through(one, answer, SECOND + after * SECOND, out=False) is not None

    assert answered(False, 239)
    assert not answered(False, 242)
    assert answered(True, 7000)
    assert not answered(True, 7442)
    assert answered(True, 239, "FA")
    assert not answered(True, 242, "R")


def test_an_answer_begins_nothing_and_a_packet_on_the_way_does() -> None:
    for flags, passes in (("SA", False), ("R", False), ("A", True), ("PA", True)):
        packet = IP(src=CLIENT, dst=SERVER) / TCP(sport=5000, dport=80, flags=flags)
        found = through(nat(), packet)
        assert (found is not None) == passes
        if found:  # a translator that was started anew goes on with the same port
            assert found.sport == 5000


@pytest.mark.parametrize("kind", [TCP, UDP])
@pytest.mark.parametrize("cut", [8, 20, 60])
def test_errors_are_translated_with_what_they_quote(kind: Any, cut: int) -> None:
    one = nat(7000, 7000)
    sent = IP(src=CLIENT, dst=SERVER) / kind(sport=5000, dport=80) / Raw(b"x" * 32)
    out = through(one, sent)
    assert out.sport == 7000
    quote = bytes(out)[: 20 + cut]
    error = IP(src="198.18.0.1", dst=NAT) / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(quote)
    back = through(one, error, out=False)
    assert (back.src, back.dst) == ("198.18.0.1", CLIENT)
    assert ends(back) == (CLIENT, 5000, SERVER, 80)
    if cut == 60:  # it is there whole: exactly what the client sent
        assert bytes(back[ICMP].payload)[:52] == bytes(sent)[:52]
    # And the other way: the client says that nobody listens for the server's answer.
    answer = through(one, IP(src=SERVER, dst=NAT) / kind(sport=80, dport=7000), out=False)
    error = IP(src=CLIENT, dst=SERVER) / ICMP(type=3, code=3) / Raw(bytes(answer)[: 20 + cut])
    out = through(one, error)
    assert out.src == NAT
    assert ends(out) == (SERVER, 80, NAT, 7000)


def test_an_echo_is_quoted_too() -> None:
    one = nat(7000, 7000)
    out = through(one, IP(src=CLIENT, dst=SERVER, ttl=1) / ICMP(type=8, id=5, seq=1) / Raw(b"abcd"))
    error = IP(src="198.18.0.1", dst=NAT) / ICMP(type=11) / Raw(bytes(out))
    back = through(one, error, out=False)
    assert quoted(back)[ICMP].id == 5
    unknown = IP(src=NAT, dst="198.18.0.77") / UDP(sport=7000, dport=1)
    error = IP(src="198.18.0.1", dst=NAT) / ICMP(type=3) / Raw(bytes(unknown))
    assert through(one, error, out=False) is None


def test_fragments_follow_the_first_one_both_ways() -> None:
    one = nat()
    whole = (
        IP(src=CLIENT, dst=SERVER, id=5) / UDP(sport=5000, dport=53) / Raw(bytes(range(250)) * 8)
    )
    first, *later = fragment(whole, 800)  # type: ignore[no-untyped-call]  # scapy's
    assert through(one, later[0]) is None
    parts = [through(one, part) for part in (first, *later)]
    assert {part.src for part in parts} == {NAT}
    joined = b"".join(bytes(part.payload) for part in parts)
    right(bytes(IP(src=NAT, dst=SERVER, id=5, proto=17) / Raw(joined)))
    reply = IP(src=SERVER, dst=NAT, id=6) / UDP(sport=53, dport=5000) / Raw(bytes(2000))
    first, *later = fragment(reply, 800)  # type: ignore[no-untyped-call]  # scapy's
    assert through(one, later[0], out=False) is None
    assert {through(one, part, out=False).dst for part in (first, *later)} == {CLIENT}
    assert one.counters()["drop-orphan-fragment"] == 2


def test_a_damaged_packet_stays_damaged() -> None:
    one = nat()
    sent = IP(src=CLIENT, dst=SERVER) / UDP(sport=5000, dport=53) / Raw(b"abcd")
    data = bytearray(bytes(Ether(src=CLIENT_MAC, dst=SERVER_MAC) / sent))
    data[-1] ^= 1
    assert one.pass_(data, SECOND)
    with pytest.raises(AssertionError):
        right(bytes(data)[14:])


def test_what_is_not_ipv4_passes_as_it_is() -> None:
    one = nat()
    data = bytearray(bytes(Ether(src=CLIENT_MAC, dst=SERVER_MAC) / IPv6() / UDP()))
    before = bytes(data)
    assert one.pass_(data, SECOND)
    assert bytes(data) == before
    assert one.counters()["passed-plain"] == 1
    assert not one.pass_(bytearray(20), SECOND) or one.counters()["passed-plain"] == 2


def test_ports_are_ports() -> None:
    for low, high in ((0, 5), (9, 8)):
        with pytest.raises(OSError, match="nat"):
            nat(low, high)


def test_connections_outlive_the_process() -> None:
    fd = os.memfd_create("kept")
    try:
        old = nat(4000, 4003, fd)
        ports = [
            through(old, IP(src=CLIENT, dst=SERVER) / UDP(sport=n, dport=53)).sport
            for n in (1, 2, 3)
        ]
        new = nat(4000, 4003, fd)
        for n, port in zip((1, 2, 3), ports, strict=True):
            back = through(new, IP(src=SERVER, dst=NAT) / UDP(sport=53, dport=port), out=False)
            assert (back.dst, back.dport) == (CLIENT, n)
        last = through(new, IP(src=CLIENT, dst=SERVER) / UDP(sport=4, dport=53))
        assert {*ports, last.sport} == {4000, 4001, 4002, 4003}
        assert through(new, IP(src=CLIENT, dst=SERVER) / UDP(sport=5, dport=53)) is None
        with pytest.raises(OSError, match="nat"):  # another table
            nat(4000, 65535, fd)
    finally:
        os.close(fd)


def test_a_table_full_of_nonsense_is_forgotten() -> None:
    fd = os.memfd_create("kept")
    try:
        through(nat(4000, 4003, fd), IP(src=CLIENT, dst=SERVER) / UDP(sport=1, dport=53))
        size = os.fstat(fd).st_size
        os.pwrite(fd, b"\xee" * (size - 64), 64)
        new = nat(4000, 4003, fd)
        ports = {
            through(new, IP(src=CLIENT, dst=SERVER) / UDP(sport=n, dport=53)).sport
            for n in range(1, 5)
        }
        assert ports == {4000, 4001, 4002, 4003}
    finally:
        os.close(fd)
