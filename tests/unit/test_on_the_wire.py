# SPDX-License-Identifier: Apache-2.0
"""Frames of a packet socket as a wire has them (hostsim/lab/wire.py), held against scapy's."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from hostsim.lab import wire

FOUR = IP(src="198.18.0.10", dst="198.18.0.20", id=65534)
SIX = IPv6(src="fd00::10", dst="fd00::20")
KINDS = {
    wire.GSO_TCPV4: FOUR / TCP(sport=5, dport=80, seq=0xFFFFFF00, flags="PAFC", window=9),
    wire.GSO_TCPV6: SIX / TCP(sport=5, dport=80, seq=7, flags="PA", options=[("NOP", None)] * 4),
}
FIELDS: dict[type[Packet], tuple[str, ...]] = {
    IP: ("len", "chksum"),
    IPv6: ("plen",),
    TCP: ("chksum",),
    UDP: ("len", "chksum"),
}
UDPS = (FOUR / UDP(sport=5, dport=53), SIX / UDP(sport=5, dport=53))


def header(flags: int, gso: int, size: int, start: int, offset: int) -> bytes:
    return wire.HEADER.pack(flags, gso, 0, size, start, offset)


def start_of(packet: Packet) -> int:
    """Of the TCP or UDP header in the frame."""
    return len(bytes(Ether())) + (40 if IPv6 in packet else 20)


def partial(packet: Packet, offset: int) -> bytes:
    """The frame as the kernel has it before a card sums it up: the pseudo header's sum alone."""
    frame, start = bytearray(bytes(Ether(dst="02::1", src="02::2") / packet)), start_of(packet)
    ip = frame[14:start]
    pseudo = bytes(ip[8:40] if IPv6 in packet else ip[12:20])
    pseudo += struct.pack("!II", len(frame) - start, 17 if UDP in packet else 6)
    struct.pack_into("!H", frame, start + offset, 0xFFFF - checksum(pseudo))
    return bytes(frame)


def right(frame: bytes) -> bool:
    """Whether all checksums and lengths are those that scapy would have put in."""
    seen = Ether(frame)
    for layer, names in FIELDS.items():
        for name in names if layer in seen else ():
            delattr(seen[layer], name)
    return bytes(seen) == frame


@given(st.binary(max_size=200), st.sampled_from(UDPS))
def test_a_checksum_that_is_not_computed_yet(load: bytes, packet: Packet) -> None:
    frame = partial(packet / Raw(load), wire.UDP_OFFSET)
    (done,) = wire.frames(header(1, 0, 0, start_of(packet), wire.UDP_OFFSET), frame)
    assert right(done)
    assert wire.frames(header(0, 0, 0, 0, 0), done) == [done]


@given(st.binary(min_size=1, max_size=4000), st.integers(1, 1500), st.sampled_from([*KINDS]))
def test_a_large_segment_is_cut(load: bytes, size: int, kind: int) -> None:
    packet = KINDS[kind]
    frame = partial(packet / Raw(load), 16)
    found = wire.frames(header(1, kind | wire.GSO_ECN, size, start_of(packet), 16), frame)
    seen = [Ether(one) for one in found]
    assert all(right(one) for one in found)
    assert len(found) == -(-len(load) // size)
    assert b"".join(bytes(one[TCP].payload)[: len(one[Raw].load)] for one in seen) == load
    at = 0
    for one in seen:
        assert one[TCP].seq == (packet[TCP].seq + at) % (1 << 32)
        at += len(one[Raw].load)
    assert ["F" in str(one[TCP].flags) for one in seen[:-1]] == [False] * (len(seen) - 1)
    assert seen[-1][TCP].flags.P
    assert not any(one[TCP].flags.C for one in seen[1:])
    assert "P" not in {letter for one in seen[:-1] for letter in str(one[TCP].flags)}


@pytest.mark.parametrize("packet", UDPS)
def test_a_large_datagram_is_cut(packet: Packet) -> None:
    frame = partial(packet / Raw(bytes(range(256)) * 10), wire.UDP_OFFSET)
    told = header(1, wire.GSO_UDP_L4, 1000, start_of(packet), wire.UDP_OFFSET)
    found = wire.frames(told, frame, b"\x81\x00\x00\x07")
    assert [len(Ether(one)[Raw].load) for one in found] == [1000, 1000, 560]
    assert all(Ether(one)[Dot1Q].vlan == 7 for one in found)
    assert all(right(one[:12] + one[16:]) for one in found)


@given(st.binary(max_size=80), st.binary(min_size=10, max_size=10))
def test_a_header_that_lies_breaks_nothing(frame: bytes, told: bytes) -> None:
    found = wire.frames(told, frame)
    assert found
    assert all(isinstance(one, bytes) for one in found)
