# SPDX-License-Identifier: Apache-2.0
"""Nobody says that he has an address which the host file gives to another, nor that he is a router
if the host file does not say so: the classifier itself, and what a neighbour hears.
"""

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from cext.ns.netns import socket_at
from cext.switch import maps, records
from help.classifier import CLIENT, FORGER, FW, SERVER, C, S, Switch
from help.frames import ICMPV6, ipv6, pseudo
from help.net import ENDS, Net, endpoint, made
from help.waiting import until
from hostsim.model import MatchSpec, RouteSpec

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

OK, SHOT = 0, 2  # linux/pkt_cls.h
C6, S6, N6 = (ip_address(f"fd00:18::{end}").packed for end in (10, 20, 99))
NOBODYS, NONE = bytes([198, 18, 0, 99]), bytes(4)
LINK = ip_address("fe80::5").packed
ASKS, ANSWERS = 1, 2  # ARP
ASKS_ROUTERS, ROUTER, SOLICIT, ADVERT, REDIRECT = range(133, 138)
SOL_PACKET, PACKET_VNET_HDR, NEEDS_CSUM = 263, 15, 1


@pytest.fixture(params=["routes", "no-routes"])
def switch(ports: None, request: pytest.FixtureRequest) -> Iterator[Switch]:
    with contextlib.closing(Switch()) as made:
        if request.param == "routes":
            made.apply([RouteSpec(0, MatchSpec(dport=((80, 80),)), ("fw", "ids"))])
        for address, number in ((C6, CLIENT), (S6, SERVER)):
            made.object.map("owners").set(maps.pack_owner(address), maps.pack_u32(number))
        yield made


def arp(kind: int, sender: bytes, target: bytes, tags: bytes = b"") -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, kind) + bytes([2] * 6) + sender
    return bytes([255] * 6) + bytes([2] * 6) + tags + b"\x08\x06" + body + bytes(6) + target


def icmp6(kind: int, src: bytes, dst: bytes, body: bytes, tags: bytes = b"") -> bytes:
    """With the sum that makes it true."""
    message = pseudo(src, dst, ICMPV6, struct.pack("!BBH", kind, 0, 0) + body, 2)
    packet = ipv6(src, dst, ICMPV6, message, hops=255)
    return b"\x33\x33\0\0\0\1" + bytes([2] * 6) + tags + b"\x86\xdd" + packet


ALL = ip_address("ff02::1").packed
PRIORITY, VLAN = b"\x81\x00\x00\x00", b"\x81\x00\x00\x05"


def neighbour(kind: int, src: bytes, about: bytes, tags: bytes = b"") -> bytes:
    return icmp6(kind, src, ALL, bytes(4) + about, tags)


def in_parts(frame: bytes) -> bytes:
    """The first fragment: it ends before the address that it is about."""
    cut = struct.pack("!BBHI", 58, 0, 1, 7) + frame[54:62]
    return frame[:18] + struct.pack("!HB", len(cut), 44) + frame[21:54] + cut


def behind(frame: bytes, headers: int) -> bytes:
    """An ICMPv6 frame behind so many empty headers of destination options."""
    options = b"".join(
        bytes([60 if n + 1 < headers else 58, 0, 1, 4, 0, 0, 0, 0]) for n in range(headers)
    )
    length = struct.pack("!HB", len(frame) - 54 + len(options), 60)
    return frame[:18] + length + frame[21:54] + options + frame[54:]


LIES = {
    "it answers for another": arp(ANSWERS, S, C),
    "it asks as another": arp(ASKS, S, C),
    "it says so to all": arp(ASKS, S, S),
    "it says so behind a priority tag": arp(ANSWERS, S, C, PRIORITY),
    "it says so behind eight": arp(ANSWERS, S, C, PRIORITY * 8),
    "it is there as another": neighbour(ADVERT, LINK, S6),
    "it is there as another, in its name": neighbour(ADVERT, S6, S6),
    "it solicits as another": neighbour(SOLICIT, S6, C6),
    "it wants another's address": neighbour(SOLICIT, bytes(16), S6),
    "likewise, behind a priority tag": neighbour(ADVERT, LINK, S6, PRIORITY),
    "it says that it is a router": icmp6(ROUTER, LINK, ALL, bytes(12)),
    "it redirects": icmp6(REDIRECT, LINK, C6, bytes(4) + N6 + N6),
    "it asks for routers as another": icmp6(ASKS_ROUTERS, S6, ALL, bytes(4) + b"\1\1" + bytes(6)),
    "it is there as another, in parts": in_parts(neighbour(ADVERT, LINK, S6)),
}
TRUE = {
    "it asks for another": arp(ASKS, NOBODYS, S),
    "it asks whether another is there": arp(ASKS, NONE, S),
    "it takes an address of nobody's": arp(ASKS, NOBODYS, NOBODYS),
    "it answers for one of nobody's": arp(ANSWERS, NOBODYS, C),
    "it solicits another": neighbour(SOLICIT, N6, S6),
    "it solicits by its link-local address": neighbour(SOLICIT, LINK, S6),
    "it wants an address of nobody's": neighbour(SOLICIT, bytes(16), N6),
    "it is there as nobody": neighbour(ADVERT, LINK, N6),
    "it asks for routers": icmp6(ASKS_ROUTERS, LINK, ALL, bytes(4)),
    "it tells of its groups": icmp6(143, LINK, ALL, bytes(4)),
    "another network's ARP": arp(ANSWERS, S, C, VLAN),
}


def sends(switch: Switch, vm: int, frame: bytes) -> tuple[int, int]:
    """What comes of a frame, and how many were dropped for what they say."""
    before = maps.read_counters(switch.object.map("counters"))["spoofed"]
    said = switch.run("classify", records.IFINDEX + vm, frame)
    return said, maps.read_counters(switch.object.map("counters"))["spoofed"] - before


@pytest.mark.stock
@pytest.mark.parametrize("what", LIES)
def test_a_lie_is_dropped(switch: Switch, what: str) -> None:
    assert sends(switch, FORGER, LIES[what]) == (SHOT, 1)


@pytest.mark.stock
@pytest.mark.parametrize("what", TRUE)
def test_what_may_be_true_passes(switch: Switch, what: str) -> None:
    assert sends(switch, FORGER, TRUE[what]) == (OK, 0)


@pytest.mark.stock
def test_behind_more_tags_than_are_looked_behind_nothing_is_said(switch: Switch) -> None:
    assert sends(switch, FORGER, arp(ANSWERS, S, C, PRIORITY * 9)) == (SHOT, 0)


@pytest.mark.stock
def test_behind_more_headers_than_are_looked_behind_nothing_is_said(switch: Switch) -> None:
    lie = neighbour(ADVERT, LINK, S6)
    said = [sends(switch, FORGER, behind(lie, headers)) for headers in range(1, 12)]
    assert {one for one, _ in said} == {SHOT}
    assert [spoofed for _, spoofed in said] == [1] * 7 + [0] * 4


@pytest.mark.stock
def test_everybody_speaks_for_himself(switch: Switch) -> None:
    for frame in (arp(ANSWERS, S, C), neighbour(ADVERT, S6, S6), neighbour(SOLICIT, S6, C6)):
        assert sends(switch, SERVER, frame) == (OK, 0)


@pytest.mark.stock
def test_while_an_address_moves_it_is_both_vms(switch: Switch) -> None:
    """An older one has it, and a new one; nobody else."""
    for address in (S, S6):
        both = maps.pack_u32(maps.both_own(FW, SERVER))
        switch.object.map("owners").set(maps.pack_owner(address), both)
    for frame in (arp(ANSWERS, S, C), neighbour(ADVERT, S6, S6), neighbour(SOLICIT, S6, C6)):
        assert [sends(switch, vm, frame) for vm in (FW, SERVER)] == [(OK, 0)] * 2
        assert sends(switch, FORGER, frame) == (SHOT, 1)


@pytest.mark.stock
def test_a_router_advertises(switch: Switch) -> None:
    flags = records.VM_ALIVE | records.VM_ENDPOINT | records.VM_ROUTER
    value = maps.pack_vm("02:02:02:02:02:02", flags)
    switch.object.map("vms").set(maps.pack_u32(FORGER), value)
    for what in ("it says that it is a router", "it redirects"):
        assert sends(switch, FORGER, LIES[what]) == (OK, 0)
    assert sends(switch, FORGER, LIES["it is there as another"]) == (SHOT, 1)


def default_routers(net: Net, name: str) -> list[str]:
    found = json.loads(net.ip(name, "-6", "-j", "route", "show", "default"))
    return [str(one.get("gateway")) for one in found]


def link_local(net: Net, name: str) -> list[str]:
    rows = json.loads(net.ip(name, "-6", "-j", "addr", "show", "dev", "eth0"))
    found = [str(one.get("local", "")) for row in rows for one in row.get("addr_info", [])]
    return [address for address in found if address.startswith("fe80:")]


def advertises(net: Net, name: str) -> str:
    """Have a VM say that it is a router. By which address."""
    until(lambda: link_local(net, name), 20)
    own = IPv6Address(link_local(net, name)[0])
    mac = bytes.fromhex(net.vms[name].mac.replace(":", ""))
    body = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + b"\1\1" + mac
    frame = icmp6(ROUTER, own.packed, ALL, body)
    with socket_at(net.vms[name].netns_fd, socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", 0))
        sender.send(frame[:6] + mac + frame[12:])
    return str(own)


def test_only_who_is_a_router_by_the_host_file_gives_others_a_route(tmp_path: Path) -> None:
    router = endpoint("router", "198.18.0.30/24", "fd00:18::30/64", more="router = true")
    liar = endpoint("liar", "198.18.0.40/24", "fd00:18::40/64")

    def spoofed() -> int:
        return net.dataplane.report.counters()["spoofed"]

    with made("hsspoof", ENDS + router + liar, tmp_path) as net:
        before = spoofed()
        advertises(net, "liar")
        until(lambda: spoofed() == before + 1, 20)
        assert default_routers(net, "client") == []
        until(lambda: default_routers(net, "client") == [advertises(net, "router")], 20)
        assert spoofed() == before + 1


def test_what_was_looked_at_is_not_written_over(tmp_path: Path) -> None:
    """By a checksum that is still to be finished: the advertisement speaks of its sender's own
    address, until it is."""
    with made("hsspoof", ENDS, tmp_path) as net:
        frame = neighbour(ADVERT, C6, C6)
        over = 14 + 40 + 8 + 14  # the end of the address that it speaks of
        header = struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, 54, over - 54)
        counted = net.dataplane.report.counters
        before = counted()["spoofed"]
        with socket_at(net.vms["client"].netns_fd, socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("eth0", 0))
            sender.send(frame)
            sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sender.send(header + frame)
        until(lambda: counted()["spoofed"] == before + 1, 20)
