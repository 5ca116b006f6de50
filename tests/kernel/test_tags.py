# SPDX-License-Identifier: Apache-2.0
"""VLAN tags and packet functions: a function sees the tag of a tagged frame, its rules with `vlan`
hold, and the frame leaves with its tag."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext.ns.netns import socket_at
from help.chain import Chain, chained
from help.frames import UDP, ipv4
from help.net import ENDS_V4
from help.waiting import until

pytestmark = pytest.mark.root

HOST = (
    ENDS_V4
    + """
[[vm]]
name = "fw"
nf = "firewall"
[[vm.rule]]
match = { proto = "udp", dport = 7, vlan = 7 }
do = "drop"
[[vm.rule]]
match = { proto = "udp", dport = 8 }
do = "drop"
[[vm.rule]]
match = { vlan = 7 }
do = "accept"
[[vm.rule]]
match = { dst = "198.18.0.0/24" }
do = "accept"
[[vm]]
name = "pass"
nf = "forward"
[[route]]
match = { vlan = 7, proto = "udp" }
through = ["fw", "pass"]
[[route]]
match = { proto = "udp" }
through = ["fw", "pass"]
"""
)
TAGS = {
    "none": b"",
    "802.1Q": b"\x81\0\0\x07",
    "802.1ad": b"\x88\xa8\0\x07",
    "priority": b"\x81\0\x20\0",
    "priority, then VLAN": b"\x81\0\x20\0\x81\0\0\x07",
}
PACKET_AUXDATA, ETH_P_ALL = 8, 3


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with chained(HOST, tmp_path) as made:
        yield made


def tagged(data: bytes, control: list[tuple[int, int, bytes]]) -> bytes:
    """A received frame with its outermost tag, which the kernel has taken out (packet(7))."""
    for level, kind, value in control:
        if (level, kind) == (263, PACKET_AUXDATA):  # SOL_PACKET; struct tpacket_auxdata
            status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", value[:20])
            if status & 0x10:  # TP_STATUS_VLAN_VALID
                return data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
    return data


@pytest.mark.parametrize("kind", TAGS)
def test_a_function_sees_the_tag_and_keeps_it(chain: Chain, kind: str) -> None:
    client, server = (chain.net.vms[name] for name in ("client", "server"))
    macs = b"".join(bytes.fromhex(vm.mac.replace(":", "")) for vm in (server, client))

    def frame(port: int, body: bytes) -> bytes:
        datagram = struct.pack("!HHHH", 4000, port, 8 + len(body), 0) + body
        packet = ipv4(bytes([198, 18, 0, 10]), bytes([198, 18, 0, 20]), UDP, datagram)
        return macs + TAGS[kind] + b"\x08\0" + packet

    in_vlan = TAGS[kind].endswith(b"\x07")
    raw = (socket.AF_PACKET, socket.SOCK_RAW)
    with (
        socket_at(client.netns_fd, *raw) as sender,
        socket_at(server.netns_fd, *raw, socket.htons(ETH_P_ALL)) as ear,
    ):
        sender.bind(("eth0", 0))
        ear.bind(("eth0", ETH_P_ALL))
        ear.setsockopt(263, PACKET_AUXDATA, 1)
        ear.setblocking(False)
        found: list[bytes] = []

        def heard() -> bool:
            while True:
                try:
                    data, control, _, _ = ear.recvmsg(2048, 256)
                except BlockingIOError:
                    break
                if data[:12] == macs and data[-4:] in (b"seen", b"last"):
                    found.append(tagged(data, control))
            return any(one.endswith(b"last") for one in found)

        for port in (7, 8, 9):
            sender.send(frame(port, b"seen"))
        sender.send(frame(9, b"last"))
        until(heard, 10)
    wanted = [frame(port, b"seen") for port in ((8, 9) if in_vlan else (7, 9))]
    assert found == [*wanted, frame(9, b"last")]
    assert chain.counter("pass", "eth0_in") >= len(found)
