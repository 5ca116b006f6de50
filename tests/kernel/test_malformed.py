# SPDX-License-Identifier: Apache-2.0
"""Packets that lie, through the classifier: nothing crashes, nothing gets stuck, all is counted.

The frames are made by hand, so that no library mends them, and sent from the client's eth0.
"""

import json
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.frames import checksum
from help.net import ADDRESSES, Net, made
from help.programs import program
from help.waiting import until

pytestmark = pytest.mark.root

ROUTES = """
[[route]]
match = { sni = "a.test" }
through = ["ids"]
[[route]]
match = { dns_name = "a.test" }
through = ["ids"]
[[route]]
match = { proto = "udp" }
through = ["fw", "ids"]
[[route]]
match = { proto = "tcp" }
through = ["fw", "ids"]
[[route]]
match = { proto = "icmp" }
through = ["fw", "ids"]
[[route]]
match = { proto = "icmpv6", dst = "fd00:18::20/128" }
through = ["fw", "ids"]
"""
A4, B4 = bytes([198, 18, 0, 10]), bytes([198, 18, 0, 20])
A6, B6 = (bytes.fromhex("fd000018") + bytes(11) + bytes([end]) for end in (0x10, 0x20))


def ipv4(
    payload: bytes, proto: int, total: int | None = None, ihl: int = 5, frag: int = 0
) -> bytes:
    length = 20 + len(payload) if total is None else total
    head = struct.pack("!BBHHHBBH", 0x40 | ihl, 0, length, 77, frag, 64, proto, 0) + A4 + B4
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(payload: bytes, following: int, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack("!IHBB", 6 << 28, size, following, 64) + A6 + B6 + payload


def udp(data: bytes = b"12345678", length: int | None = None, port: int = 9) -> bytes:
    return struct.pack("!HHHH", 777, port, 8 + len(data) if length is None else length, 0) + data


def tcp(data: bytes = b"", offset: int = 5, flags: int = 2, port: int = 80) -> bytes:
    return struct.pack("!HHIIBBHHH", 778, port, 1, 1, offset << 4, flags, 999, 0, 0) + data


def chain(length: int, last: int, body: bytes) -> bytes:
    """So many hop-by-hop and destination options, each of 8 bytes."""
    kinds = [60] * (length - 1) + [last]
    return b"".join(bytes([kind, 0, 1, 4, 0, 0, 0, 0]) for kind in kinds) + body


DROPPED = {  # by the name of its counter, what the classifier drops whole
    "malformed": {
        "header length below 20": ipv4(udp(), 17, ihl=3),
        "total length beyond the frame": ipv4(udp(), 17, total=1400),
        "total length below the header": ipv4(udp(), 17, total=12),
        "header cut short": ipv4(udp(), 17)[:12],
        "version 5": b"\x55" + ipv4(udp(), 17)[1:],
        "UDP header cut short": ipv4(b"\x03\x09\x00", 17),
        "TCP header cut short": ipv4(tcp()[:12], 6),
        "ICMP header cut short": ipv4(b"\x08\x00\x00", 1),
        "IPv6 cut short": ipv6(b"", 17)[:30],
        "IPv6 length beyond the frame": ipv6(udp(), 17, length=900),
        "IPv6 chain without end": ipv6(chain(9, 60, b""), 60),
        "IPv6 option beyond the frame": ipv6(bytes([17, 200, 0, 0, 0, 0, 0, 0]), 60),
        "IPv6 authentication beyond the frame": ipv6(bytes([17, 255]) + bytes(6), 51),
        "IPv6 UDP header cut short": ipv6(chain(1, 17, b"\x03"), 60),
    },
    "orphan-fragment": {
        "a later fragment alone": ipv4(bytes(32), 17, frag=8),
        "an IPv6 one": ipv6(bytes([17, 0, 0, 64, 0, 0, 0, 5]) + bytes(32), 44),
    },
}
PASSED = {  # what it lets go on, to whoever judges it
    "an ICMP error about garbage": ipv4(struct.pack("!BBHI", 3, 3, 0, 0) + bytes(range(40)), 1),
    "an ICMP error about nothing": ipv4(struct.pack("!BBHI", 11, 0, 0, 0), 1),
    "UDP length beyond the packet": ipv4(udp(length=900), 17),
    "UDP length 0": ipv4(udp(length=0), 17),
    "TCP offset 0": ipv4(tcp(offset=0), 6),
    "TCP offset beyond the packet": ipv4(tcp(b"x", offset=15, flags=24, port=443), 6),
    "all TCP flags": ipv4(tcp(flags=255), 6),
    "TLS garbage": ipv4(tcp(b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(50), 5, 24, 443), 6),
    "DNS garbage": ipv4(udp(b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c" * 3, port=53), 17),
    "a first fragment": ipv4(udp(bytes(24)), 17, frag=0x2000),
    "one that overlaps it": ipv4(bytes(32), 17, frag=0x2000 | 1),
    "one that overlaps that": ipv4(bytes(16), 17, frag=2),
    "an IPv6 chain": ipv6(chain(7, 17, udp()), 0),
    "an unknown protocol": ipv4(bytes(20), 253),
}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with made("mal", ADDRESSES + ROUTES, tmp_path) as net:
        yield net


def framed(net: Net, packet: bytes) -> bytes:
    kind = b"\x86\xdd" if packet[:1] == b"\x60" else b"\x08\x00"
    macs = (net.vms[name].mac.replace(":", "") for name in ("server", "client"))
    return b"".join(map(bytes.fromhex, macs)) + kind + packet


def send(net: Net, frames: list[bytes]) -> None:
    with tempfile.TemporaryFile() as given:
        given.write(json.dumps([frame.hex() for frame in frames]).encode())
        given.seek(0)
        done = net.vms["client"].run(
            program("raw", "frames", "eth0"), stdin=given.fileno(), timeout=60
        )
    assert done.returncode == 0, done.stderr
    net.pump()


def healthy(net: Net) -> None:
    """Traffic of the very flows that the lies were about passes; nothing has vanished."""
    net.ping(5)
    net.ping(5, "fd00:18::20")
    before = {port: net.port(port)["tx_packets"] for port in ("fw", "ids", "server")}
    send(net, [framed(net, ipv4(udp(), 17))] * 20)
    for port, count in before.items():
        wanted = 0 if port == "ids" else 20  # to ids they go by the direct link
        until(lambda: net.port(port)["tx_packets"] - count >= wanted)  # noqa: B023
    net.settled()


@pytest.mark.parametrize("reason", DROPPED)
def test_what_lies_is_dropped_by_name(net: Net, reason: str) -> None:
    for n, (what, packet) in enumerate(DROPPED[reason].items(), start=1):
        send(net, [framed(net, packet)])
        until(lambda: net.dataplane.report.counters()[reason] >= n, 20, what)  # noqa: B023
        counters = net.dataplane.report.counters()
        assert counters[reason] == n, (what, counters)
    healthy(net)


def test_what_is_odd_passes_and_leaves_no_flow_stuck(net: Net) -> None:
    dropped = ("malformed", "orphan-fragment", "filter", "stale", "forged")
    send(net, [framed(net, packet) for packet in PASSED.values()] * 5)
    counters = net.dataplane.report.counters()
    assert [counters[name] for name in dropped] == [0] * len(dropped), counters
    healthy(net)


def test_wrong_bytes_anywhere(net: Net) -> None:
    """Every packet above with bytes changed and ends cut off, by a fixed seed."""
    rng = random.Random(9)
    sane = [packet for group in DROPPED.values() for packet in group.values()]
    sane += list(PASSED.values())
    frames = []
    for _ in range(3000):
        packet = bytearray(framed(net, rng.choice(sane)))
        for _ in range(rng.randint(1, 4)):
            packet[rng.randrange(12, len(packet))] = rng.randrange(256)
        frames.append(bytes(packet[: rng.randint(14, len(packet))]))
    send(net, frames)
    counters = net.dataplane.report.counters()
    assert counters["malformed"] > 100
    assert counters["forged"] == 0
    healthy(net)
