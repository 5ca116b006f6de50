# SPDX-License-Identifier: Apache-2.0
"""Packets that are seldom sent, and ways out of a VM that its user 0 makes itself: none of it gets
past a filter or a route, and none of it is missing in `verify`.

IGMP and MLD with any contents, IPv4 options that name a way, class E; a macvlan, a bridge and an
AF_XDP socket on eth0.
"""

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cext.ns.netns import socket_at
from help import xdp
from help.frames import ICMPV6, IGMP, UDP, Ends, checksum, ipv4, ipv6, pseudo, with_options
from help.net import ENDS, Net, made
from help.receiver import FENCE, Given, Wire, of_neighbours, swallows
from help.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

TTL = 64
OWN, LATE = bytes([198, 18, 0, 30]), bytes([240, 0, 0, 9])
E_SOURCE = bytes([250, 1, 2, 3])
OTHER = bytes([198, 18, 0, 21])
"""Another address of the server's, to which the filter lets nothing."""
POLICY = """
[[vm]]
name = "hole"
[[vm]]
name = "fw"
address = "198.18.0.1/24"
[[vm]]
name = "ids"
[[vm]]
name = "own"
address = "198.18.0.30/24"
[[filter]]
match = { proto = "udp", dport = 53 }
[[filter]]
match = { proto = 2 }
[[filter]]
match = { proto = "icmpv6", dst = "fd00:18::20/128" }
[[filter]]
match = { dst = ["240.0.0.9/32", "198.18.0.21/32"] }
[[route]]
match = { proto = "udp", dport = 5000 }
through = ["hole"]
[[route]]
match = { src = "250.0.0.0/8" }
through = ["hole"]
[[route]]
match = { proto = "udp", dport = 6000 }
through = ["fw", "ids"]
"""
EVERYWAY = (7, 53, 5000, 6000)
GROUP = b"\x01\x00\x5e\x00\x00\xfb"
GROUP6 = b"\x33\x33\x00\x00\x00\xfb"


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with made("odd", ENDS + POLICY, tmp_path) as net:
        swallows(net, "hole")
        for address in (LATE, OTHER):
            net.run("server", "ip", "addr", "add", f"{socket.inet_ntoa(address)}/32", "dev", "eth0")
        yield net


def datagram(src: bytes, dst: bytes, dport: int, body: bytes = b"odd") -> bytes:
    data = struct.pack("!HHHH", 4000, dport, 8 + len(body), 0) + body
    return pseudo(src, dst, UDP, data, 6)


def ours(given: list[Given]) -> list[tuple[int, int]]:
    """Protocol and destination port of what came, but what neighbours ask."""
    return [
        (one.flow.proto, one.flow.dport)
        for one in given
        if not of_neighbours(one) and one.flow.proto != FENCE
    ]


def summed(message: bytes) -> bytes:
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def igmp(ends: Ends) -> Iterator[bytes]:
    """Of every type, to one host and to a group, with and without Router Alert."""
    for kind in (0x11, 0x12, 0x13, 0x16, 0x17, 0x22, 0x30, 0xFF):
        for more in (b"", bytes(4), b"\xff" * 600):
            message = summed(bytes([kind, 0, 0, 0, 224, 0, 0, 251]) + more)
            for alert in (b"", b"\x94\x04\x00\x00"):
                for mac, dst in ((ends.mac, ends.dst4[0]), (GROUP, bytes([224, 0, 0, 251]))):
                    for to in (mac, GROUP):
                        packet = with_options(ipv4(ends.src4, dst, IGMP, message), alert)
                        yield to + ends.here + b"\x08\0" + packet


def mld(ends: Ends, hops: int, kinds: tuple[int, ...]) -> Iterator[bytes]:
    """To one host, in a frame to it and in one to a group."""
    for kind in kinds:
        for more in (bytes(20), b"\xff" * 600):
            message = struct.pack("!BBHI", kind, 0, 0, 0) + more
            message = pseudo(ends.src6, ends.dst6[0], ICMPV6, message, 2)
            packet = ipv6(ends.src6, ends.dst6[0], ICMPV6, message, hops=hops)
            for alert in (False, True):
                if alert:
                    options = bytes([ICMPV6, 0, 5, 2, 0, 0, 1, 0])
                    packet = ipv6(ends.src6, ends.dst6[0], 0, options + message, hops=hops)
                for to in (ends.mac, GROUP6):
                    yield to + ends.here + b"\x86\xdd" + packet


def test_igmp_is_a_protocol_like_any_other(net: Net) -> None:
    with contextlib.closing(Wire(net)) as wire:
        assert ours(wire.send(list(igmp(wire.ends)))) == []


def test_what_only_looks_like_discovery_is_no_way_past_a_filter(net: Net) -> None:
    """Whoever may take it for discovery asks for its hop limit (RFC 3810, RFC 4861)."""
    listeners, neighbours = (130, 131, 132, 143), (133, 134, 135, 136, 137)
    with contextlib.closing(Wire(net)) as wire:
        several = [*mld(wire.ends, TTL, listeners + neighbours), *mld(wire.ends, 1, neighbours)]
        several += [*mld(wire.ends, 255, listeners)]
        several += [one for one in mld(wire.ends, 1, listeners) if one[:6] == wire.ends.mac]
        several += [one for one in mld(wire.ends, 1, listeners) if one[:6] == GROUP6]
        assert ours(wire.send(several)) == []


def test_what_listeners_say_to_their_group_is_bridged(net: Net) -> None:
    with contextlib.closing(Wire(net)) as wire:
        ends = wire.ends
        report = pseudo(ends.src6, ends.dst6[1], ICMPV6, struct.pack("!BBHI", 143, 0, 0, 0), 2)
        packet = ipv6(ends.src6, ends.dst6[1], ICMPV6, report, hops=1)
        given = wire.send([GROUP6 + ends.here + b"\x86\xdd" + packet])
        assert (ICMPV6, 0) in ours(given)


def ways(ends: Ends) -> dict[str, bytes]:
    """IPv4 options (RFC 791, RFC 2113, RFC 1108)."""
    return {
        "none": b"",
        "loose, to come": b"\x83\x07\x04" + OTHER + b"\0",
        "strict, to come": b"\x89\x07\x04" + OTHER + b"\0",
        "loose, gone": b"\x83\x07\x08" + ends.src4 + b"\0",
        "strict, gone": b"\x89\x07\x08" + ends.src4 + b"\0",
        "record": b"\x07\x0b\x04" + bytes(8) + b"\0",
        "time": b"\x44\x0c\x05\0" + bytes(8),
        "alert": b"\x94\x04\0\0",
        "security": b"\x82\x0b" + bytes(9) + b"\0",
        "length that lies": b"\x83\xff\x04" + OTHER + b"\0",
        "nothing after": b"\1\1\1\x83",
    }


@pytest.mark.parametrize("accepts", [False, True])
def test_options_are_no_way_past_a_filter_or_a_route(net: Net, accepts: bool) -> None:
    """accepts: the server takes packets that name a way (accept_source_route)."""
    for name in ("all", "eth0"):
        net.vms["server"].sysctl({f"net.ipv4.conf.{name}.accept_source_route": str(int(accepts))})
    with contextlib.closing(Wire(net)) as wire:
        ends, given = wire.ends, {}
        for name, said in ways(ends).items():
            several = []
            for to in (53, 5000, 7):
                packet = ipv4(ends.src4, ends.dst4[0], UDP, datagram(ends.src4, ends.dst4[0], to))
                several.append(ends.mac + ends.here + b"\x08\0" + with_options(packet, said))
            given[name] = [one.flow.dport for one in wire.send(several) if one.flow.proto == UDP]
    plain = ("none", "record", "time", "alert")
    assert {one for came in given.values() for one in came} == {7}, given
    assert {name for name in plain if given[name] == [7]} == set(plain), given
    for name in ("loose, gone", "strict, gone"):
        assert given[name] == ([7] if accepts else []), name


@pytest.mark.parametrize("to_group", [False, True])
def test_class_e_is_no_way_past_a_filter_or_a_route(net: Net, to_group: bool) -> None:
    with contextlib.closing(Wire(net)) as wire:
        ends = wire.ends
        mac = GROUP if to_group else ends.mac
        pairs = ((ends.src4, LATE), (E_SOURCE, ends.dst4[0]), (LATE, LATE), (E_SOURCE, LATE))
        several = [
            mac + ends.here + b"\x08\0" + ipv4(src, dst, UDP, datagram(src, dst, 7))
            for src, dst in pairs
        ]
        assert ours(wire.send(several)) == []


class Link:
    """A packet socket at a link of a VM."""

    def __init__(self, net: Net, vm: str, name: str) -> None:
        self._socket = socket_at(net.vms[vm].netns_fd, socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((name, 0))

    def send(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()


MACVLAN = ("link", "eth0", "name", "m0", "type", "macvlan", "mode")
WAYS_OUT = {
    "eth0": (),
    "macvlan": (*MACVLAN, "bridge"),
    "macvlan, passthru": (*MACVLAN, "passthru"),
    "bridge": ("name", "m0", "type", "bridge"),
    "AF_XDP": (),
}
"""What the VM's user 0 makes, for `ip link add`."""


def way_out(net: Net, vm: str, way: str) -> Link | xdp.Sender:
    if way == "AF_XDP":
        return xdp.Sender(net.vms[vm].netns_fd, net.vms[vm].eth0)
    if way == "eth0":
        return Link(net, vm, "eth0")
    net.run(vm, "ip", "link", "add", *WAYS_OUT[way])
    if way == "bridge":
        net.run(vm, "ip", "link", "set", "eth0", "master", "m0")
    net.run(vm, "ip", "link", "set", "m0", "up")
    return Link(net, vm, "m0")


@pytest.mark.parametrize("vm", ["own", "fw"])
@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_way_out_of_a_vm_leads_past_the_switch(net: Net, way: str, vm: str) -> None:
    """own: in no chain. fw: the first in one, which goes on to ids all the same."""
    with (
        contextlib.closing(Wire(net, vm)) as wire,
        contextlib.closing(way_out(net, vm, way)) as out,
    ):
        ends = wire.ends
        mine = OWN if vm == "own" else bytes([198, 18, 0, 1])
        found: list[Given] = []
        for turn in range(5):
            for src in (mine, ends.src4):
                body = f"{way} {turn} {src.hex()}".encode()
                out.send([
                    ends.mac + ends.here + b"\x08\0"
                    + ipv4(src, ends.dst4[0], UDP, datagram(src, ends.dst4[0], to, body))
                    for to in (53, 5000, 6000, 7)
                ])  # fmt: skip

                def come(body: bytes = body) -> bool:
                    net.pump()
                    found.extend(wire.receiver.all())
                    return sum(one.body[8:] == body for one in found) == 2

                until(come, 20)
        came = {(one.flow.dport, one.hops) for one in found if one.flow.proto == UDP}
        through = TTL - 2 if vm == "own" else TTL - 1
        assert came == {(7, TTL), (6000, through)}
        assert until(lambda: not any(row["missing"] for row in net.dataplane.report.verify()))
