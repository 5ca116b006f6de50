# SPDX-License-Identifier: Apache-2.0
"""A checksum that a sender leaves to be finished is written behind the classifier, and where the
sender says: over nothing that the packet was judged by. The receiver has `offload = false`, so that
its port finishes them. Every place in a frame is tried.
"""

import contextlib
import struct
from collections.abc import Iterator

import pytest

from help.frames import GRE, ICMP, MF, SCTP, TCP, UDP, Ends, checksum, ipv4, ipv6
from help.net import Net, endpoint, made
from help.receiver import Ear, Wire
from help.waiting import until

pytestmark = pytest.mark.root

HOST = (
    endpoint("client", "198.18.0.10/24", "fd00:18::10/64")
    + endpoint("server", "198.18.0.20/24", "fd00:18::20/64", more="offload = false")
    + """
[[filter]]
match = { proto = "udp", dport = 9 }
"""
)
SOL_PACKET, PACKET_VNET_HDR = 263, 15
NEEDS_CSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM (linux/virtio_net.h)
FIRST = 20
"""No earlier place is taken by the kernel."""
BODY = b"unfinished" + bytes(6)
ARP = b"\x08\x06"
TAG = b"\x81\0\0\7"


def ports(*more: int) -> bytes:
    return struct.pack("!HH", 4000, 7) + bytes(more) + BODY


QUOTE = struct.pack("!HHHH", 7, 4000, 24, 0) + BODY
QUOTED = ipv4(bytes((198, 18, 0, 20)), bytes((198, 18, 0, 10)), UDP, QUOTE)
CASES: dict[str, tuple[int, bytes, bytes, int, dict[str, int], set[int]]] = {
    # protocol, tag, contents, where they begin, lies; where a checksum may be written before BODY
    "UDP": (UDP, b"", ports(0, 24, 0, 0), 34, {}, {40}),
    "TCP": (TCP, b"", ports(0, 0, 0, 1, 0, 0, 0, 1, 80, 16, 9, 9, 0, 0, 0, 0), 34, {}, {50}),
    "SCTP": (SCTP, b"", ports(*bytes(8)), 34, {}, {42}),
    "ICMP": (ICMP, b"", bytes((8, 0, 0, 0, 1, 1, 0, 1)) + BODY, 34, {}, {36}),
    "GRE": (GRE, b"", bytes(8) + BODY, 34, {}, set(range(34, 42))),
    "options": (UDP, b"", ports(0, 24, 0, 0), 42, {"options": 2}, {48}),
    "IPv6 UDP": (UDP, b"", ports(0, 24, 0, 0), 54, {}, {60}),
    "first fragment": (UDP, b"", ports(0, 24, 0, 0), 34, {"frag": MF, "ident": 5}, {40}),
    "later fragment": (UDP, b"", BODY + BODY, 0, {"frag": 1, "ident": 5}, set()),
    "error": (ICMP, b"", bytes((3, 3, 0, 0, 0, 0, 0, 0)) + QUOTED, 0, {}, set()),
    "VLAN": (UDP, TAG, ports(0, 24, 0, 0), 38, {}, set(range(38, 46))),
}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with made("unfinished", HOST, tmp_path_factory.mktemp("unfinished")) as net:
        yield net


def frame(ends: Ends, name: str) -> bytes:
    proto, tag, payload, _, lies, _ = CASES[name]
    if name.startswith("IPv6"):
        packet = b"\x86\xdd" + ipv6(ends.src6, ends.dst6[0], proto, payload)
    else:
        packet = b"\x08\0" + ipv4(ends.src4, ends.dst4[0], proto, payload, **lies)
    return ends.mac + ends.here + tag + packet


def became(sent: bytes, start: int, at: int) -> bytes:
    """The frame, once its checksum is finished."""
    total = checksum(sent[start:] + bytes(len(sent[start:]) % 2)) or 0xFFFF
    return sent[:at] + struct.pack("!H", total) + sent[at + 2 :]


@pytest.mark.parametrize("name", CASES)
def test_no_checksum_is_written_over_what_was_judged(net: Net, name: str) -> None:
    with contextlib.closing(Wire(net)) as wire, contextlib.closing(Ear(net, "server")) as ear:
        sent = frame(wire.ends, name)
        if name in ("error", "first fragment", "later fragment"):  # its flow, its first one
            known = frame(wire.ends, "UDP" if name == "error" else "first fragment")
            wire.send([known])
        _, tag, _, l4, _, allowed = CASES[name]
        behind = sent.find(BODY) if l4 else len(sent)
        count = net.dataplane.report.counters
        wire.sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        for at in range(FIRST, len(sent) - 1):
            before, came = count()["malformed"], ear.all()
            came.clear()
            header = struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, FIRST, at - FIRST)
            wire.sender.send(header + sent)

            def told() -> bool:
                here = (one for one in ear.all() if one[:12] == sent[:12])
                came.extend(one for one in here if one[12:14] != ARP)  # noqa: B023
                return bool(came) or count()["malformed"] > before  # noqa: B023

            until(told)
            if at in allowed or at >= behind:
                finished = became(sent, FIRST, at)
                wanted = finished if not tag else finished[:12] + finished[16:]
                assert came == [wanted], (at, came)
            else:
                assert came == [], (at, came)
