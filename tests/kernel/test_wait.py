# SPDX-License-Identifier: Apache-2.0
"""A fragment that comes before its first one waits for it a moment, if some match asks for ports:
the datagram arrives whole, by its chain, on every path and in any order. A VM that sends fragments
without end waits at its own cost."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from cext.ns.netns import socket_at
from help.chain import Chain, chained, route, vm
from help.frames import MF, UDP, ipv4, ipv6, pseudo
from help.functions import put
from help.net import ENDS, endpoint
from help.receiver import Ear
from help.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.stock]

CHAINS = {
    "never": ('[[vm]]\nname = "fw"\n[[vm]]\nname = "ids"\n', "fw ids", 'bypass = "never"'),
    "veth": ('[[vm]]\nname = "fw"\n[[vm]]\nname = "ids"\n', "fw ids", ""),
    "ring": (vm("one", "marking:marks") + vm("two", "marking:marks"), "one two", ""),
}
PORT, PIECE = 5000, 64
FLOOD = 2000
IP_RECVTTL, IPV6_RECVHOPLIMIT = 12, 51
"""linux/in.h, linux/in6.h."""


@pytest.fixture(params=CHAINS)
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chain]:
    members, through, more = CHAINS[request.param]
    put("marking", tmp_path)
    text = ENDS + members + route(f'proto = "udp", dport = {PORT}', through, more)
    with chained(text, tmp_path) as made:
        yield made


def pieces(chain: Chain, six: bool, ident: int, size: int = 600, piece: int = PIECE) -> list[bytes]:
    """The frames of a datagram."""
    net = chain.net
    ends = {name: net.vms[name] for name in ("client", "server")}
    body = struct.pack("!I", ident) * (size // 4)
    datagram = struct.pack("!HHHH", 4000, PORT, 8 + size, 0) + body
    src, dst = (
        next(a.ip for a in ends[name].spec.addresses if a.version == (6 if six else 4))
        for name in ("client", "server")
    )
    if six:  # UDP over IPv6 has a checksum
        datagram = pseudo(src.packed, dst.packed, UDP, datagram, 6)
    head = b"".join(bytes.fromhex(ends[n].mac.replace(":", "")) for n in ("server", "client"))
    head += b"\x86\xdd" if six else b"\x08\0"
    found = []
    for at in range(0, len(datagram), piece):
        part, more = datagram[at : at + piece], at + piece < len(datagram)
        if six:
            front = struct.pack("!BBHI", UDP, 0, at | more, ident)
            found.append(head + ipv6(src.packed, dst.packed, 44, front + part))
        else:
            frag = at // 8 | (MF if more else 0)
            found.append(head + ipv4(src.packed, dst.packed, UDP, part, ident=ident, frag=frag))
    return found


@contextlib.contextmanager
def raw(chain: Chain, name: str) -> Iterator[socket.socket]:
    """What sends frames as a VM's or endpoint's own."""
    netns_fd = chain.net.vms[name].netns_fd
    with socket_at(netns_fd, socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", 0))
        yield sender


@contextlib.contextmanager
def server(chain: Chain, six: bool = False) -> Iterator[socket.socket]:
    """What receives datagrams, and the TTL of each."""
    family = socket.AF_INET6 if six else socket.AF_INET
    kinds = (socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT) if six else (socket.IPPROTO_IP, IP_RECVTTL)
    with socket_at(chain.net.vms["server"].netns_fd, family, socket.SOCK_DGRAM) as far:
        far.bind(("", PORT))
        far.setsockopt(*kinds, 1)
        far.setblocking(False)
        yield far


@pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
def test_a_datagram_in_any_order(chain: Chain, six: bool) -> None:
    net, rng = chain.net, Random(1)
    with raw(chain, "client") as near, server(chain, six) as far:
        for ident in range(1, 13):
            parts = pieces(chain, six, ident)
            if ident == 1:
                parts.reverse()
            elif ident > 2:  # the second one's are in order
                rng.shuffle(parts)
            for part in parts:
                near.send(part)
            found = until(lambda: received(chain, far), 20, f"datagram {ident}")
            assert found
            data, ttl = found
            assert data == struct.pack("!I", ident) * 150
            assert ttl == 62, (ident, ttl)
    assert net.dataplane.report.counters()["orphan-fragment"] == 0


def received(chain: Chain, far: socket.socket) -> tuple[bytes, int] | None:
    chain.net.pump()
    chain.sync()
    try:
        data, said, _, _ = far.recvmsg(1 << 16, 64)
    except BlockingIOError:
        return None
    (ttl,) = (struct.unpack("=i", value)[0] for _, _, value in said)
    return data, ttl


def test_what_a_vm_of_the_chain_puts_out_of_order_is_in_its_books(tmp_path: Path) -> None:
    """Its transfer component cannot tell which flow a fragment before its first one is of."""
    members, through, more = CHAINS["never"]
    text = ENDS + members + route(f'proto = "udp", dport = {PORT}', through, more)
    with (
        chained(text, tmp_path) as chain,
        raw(chain, "client") as near,
        raw(chain, "fw") as middle,
        server(chain) as far,
    ):
        for part in pieces(chain, False, 1):
            near.send(part)
        assert until(lambda: received(chain, far), 20, "it comes")
        for ident in (2, 3):
            for part in reversed(pieces(chain, False, ident)):
                middle.send(part)
            found = until(lambda: received(chain, far), 20, "it comes")
            assert found == (struct.pack("!I", ident) * 150, 63)
        (row,) = [row for row in chain.net.settled() if row["vm"] == "fw" and row["sent"]]
        assert (row["sent"], row["switch"], row["drops"]) == (30, 30, {})


def test_long_ones(tmp_path: Path) -> None:
    long = "mtu = 9000\n"
    ends = endpoint("client", "198.18.0.10/24", more=long)
    ends += endpoint("server", "198.18.0.20/24", more=long)
    text = f'{ends}[[vm]]\nname = "fw"\n{long}[[vm]]\nname = "ids"\n{long}'
    text += route(f'proto = "udp", dport = {PORT}', "fw ids")
    with (
        chained(text, tmp_path) as chain,
        raw(chain, "client") as near,
        server(chain) as far,
    ):
        for part in reversed(pieces(chain, False, 1, 40_000, 8960)):
            near.send(part)
        found = until(lambda: received(chain, far), 20, "it comes")
        assert found == (struct.pack("!I", 1) * 10_000, 62)


def test_a_flood_of_fragments_costs_its_sender_alone(tmp_path: Path) -> None:
    """All of them are lost by name, the more as no first one ever comes; and another's come."""
    members, through, _ = CHAINS["never"]
    text = ENDS + endpoint("forger", "198.18.0.30/24") + members
    with chained(text + route(f'proto = "udp", dport = {PORT}', through), tmp_path) as chain:
        net = chain.net
        with (
            raw(chain, "forger") as forger,
            raw(chain, "client") as near,
            server(chain) as far,
        ):
            here = bytes.fromhex(net.vms["forger"].mac.replace(":", ""))
            _, second, *_ = pieces(chain, False, 1)
            address = bytes([198, 18, 0, 30])
            for ident in range(FLOOD):
                packet = ipv4(address, second[30:34], UDP, second[34:], ident=ident, frag=8 | MF)
                forger.send(second[:6] + here + second[12:14] + packet)
                if ident % 250 == 50:
                    for part in reversed(pieces(chain, False, ident)):
                        near.send(part)
            for _ in range(FLOOD // 250):
                until(lambda: received(chain, far), 20, "another's datagram")

            def lost() -> int:
                return net.dataplane.report.counters()["orphan-fragment"]

            until(lambda: lost() == FLOOD, 20, "each has a name")


def test_by_addresses_nothing_waits(tmp_path: Path) -> None:
    """No match asks for ports: the fragments go on in the order in which they come."""
    members, through, _ = CHAINS["never"]
    with (
        chained(ENDS + members + route('dst = "198.18.0.20"', through), tmp_path) as chain,
        contextlib.closing(Ear(chain.net, "server")) as ear,
        raw(chain, "client") as near,
    ):
        parts = pieces(chain, False, 7)[::-1]
        for part in parts:
            near.send(part)
        heard: list[bytes] = []

        def all_of_them() -> bool:
            chain.net.pump()
            heard.extend(one[34:] for one in ear.all() if len(one) > 34 and one[23] == UDP)
            return len(heard) >= len(parts)

        until(all_of_them, 20, "the fragments")
        assert heard == [part[34:] for part in parts]
