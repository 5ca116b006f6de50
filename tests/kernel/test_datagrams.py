# SPDX-License-Identifier: Apache-2.0
"""Every VM has its share of the memory of datagrams: a flood of first fragments costs only the VM
or endpoint that it came from, also behind a chain's VM. The classifier's programs themselves.
"""

import contextlib
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from cext._native import ffi, lib

from cext.switch import maps, records
from cext.switch.records import DROPPED_BY
from help.classifier import CLIENT, FORGER, FW, IDS, C, S, Switch
from hostsim.model import MatchSpec, RouteSpec

pytestmark = [pytest.mark.root, pytest.mark.stock, pytest.mark.timeout(300)]

OK, SHOT, REDIRECT = 0, 2, 7  # linux/pkt_cls.h
MF = 0x2000
EACH = lib.HS_DATAGRAMS_EACH
FREE = 100  # places, in tests where others have the rest
MANY = 300
F = bytes([198, 18, 0, 30])


@pytest.fixture
def switch(ports: None) -> Iterator[Switch]:
    """Port 80 goes by a chain, the others by the bridge."""
    with contextlib.closing(Switch()) as made:
        made.apply([RouteSpec(0, MatchSpec(dport=((80, 80),)), ("fw", "ids"))])
        yield made


def fragment(number: int, first: bool, src: bytes, dport: int = 80) -> bytes:
    """Of the UDP datagram of that number: its front, or its end, which names no port."""
    part = struct.pack("!HHHH", 4000, dport, 32, 0) + bytes(8) if first else bytes(16)
    frag = MF if first else 2
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), number & 0xFFFF, frag, 64, 17, 0)
    return bytes([2] * 12) + b"\x08\x00" + ip + src + S + part


def first(switch: Switch, vm: int, number: int, src: bytes = C, dport: int = 80) -> int:
    return switch.run("classify", records.IFINDEX + vm, fragment(number, True, src, dport))


def later(switch: Switch, vm: int, number: int, src: bytes = C) -> int:
    return switch.run("classify", records.IFINDEX + vm, fragment(number, False, src))


def held(switch: Switch, vm: int) -> int:
    """The datagrams that a VM is charged for; 0: all of them."""
    raw = switch.object.map("shares").get(maps.pack_u32(vm)) or b""
    return int(ffi.from_buffer("struct hs_entries *", raw).datagrams)


def sweep(switch: Switch, at: float) -> None:
    """As if it were that time."""
    maps.sweep(switch.object.program, switch.object.map, int(at * 1e9), 1 << 62)


def nearly_full(switch: Switch, free: int = FREE) -> None:
    """As if others had all places but so many."""
    raw = ffi.new("struct hs_entries *", {"datagrams": lib.HS_DATAGRAMS_MAX - free})
    switch.object.map("shares").set(maps.pack_u32(0), bytes(ffi.buffer(raw)))


def test_a_flood_costs_only_whom_it_comes_from(switch: Switch) -> None:
    nearly_full(switch)
    assert first(switch, CLIENT, 1) == REDIRECT
    assert later(switch, CLIENT, 1) == REDIRECT
    for number in range(MANY):
        assert first(switch, FORGER, number, F) == REDIRECT
    assert later(switch, CLIENT, 1) == REDIRECT
    assert later(switch, FORGER, MANY - 1, F) == REDIRECT
    assert later(switch, FORGER, 0, F) == SHOT
    assert maps.read_counters(switch.object.map("counters"))["orphan-fragment"] == 1
    assert FREE // 2 < held(switch, FORGER) < FREE


def test_a_flood_behind_a_vm_costs_only_whom_it_comes_from(switch: Switch) -> None:
    """A VM of the chain sends on what came to it, the flood's and others'."""
    nearly_full(switch)
    for vm in (CLIENT, FW, IDS):
        assert first(switch, vm, 1) == (OK if vm == IDS else REDIRECT)
    for number in range(MANY):
        for vm in (FORGER, FW, IDS):
            first(switch, vm, number, F)
    for vm in (CLIENT, FW, IDS):
        assert later(switch, vm, 1) == (OK if vm == IDS else REDIRECT)
    assert held(switch, FW) == held(switch, IDS) == 0
    assert held(switch, CLIENT) == 3
    assert FREE // 2 < held(switch, FORGER) < FREE


def test_a_flood_by_direct_links_costs_only_whom_it_comes_from(ports: None) -> None:
    with contextlib.closing(Switch(direct=True)) as switch:
        switch.apply([RouteSpec(0, MatchSpec(dport=((80, 80),)), ("fw", "ids"))])
        beside = 0
        for number in range(1, 20):
            data = fragment(number, True, C)
            first(switch, CLIENT, number)
            if switch.sent_beside(FW, data):
                beside += switch.taken(FW, IDS, data)
            else:
                first(switch, FW, number)
            first(switch, IDS, number)
        assert beside > 10
        assert held(switch, FW) == held(switch, IDS) == 0
        assert held(switch, CLIENT) == 19 * 3


def test_what_a_vm_makes_up_itself_it_is_charged_for(switch: Switch) -> None:
    for number in range(10):
        first(switch, FW, number, C)
    assert (held(switch, FW), held(switch, CLIENT)) == (20, 0)


def test_fragments_before_their_first_are_charged_to_whom_they_come_from(switch: Switch) -> None:
    switch.apply([RouteSpec(0, MatchSpec(dst=(ip_network(S),)), ("fw", "ids"))])
    for number in range(10):
        for vm in (FORGER, FW):
            assert later(switch, vm, number, F) == REDIRECT
    assert (held(switch, FORGER), held(switch, FW)) == (20, 0)
    assert [first(switch, vm, 0, F) for vm in (FORGER, FW)] == [REDIRECT, REDIRECT]


def test_one_whose_next_vm_would_be_charged_for_it_does_not_pass(switch: Switch) -> None:
    """Its sender has had its share when the chain comes; what is known of the datagram stays."""
    switch.apply([])
    for number in range(MANY):
        assert first(switch, CLIENT, number) == OK
    flow = records.Tuple(4, 17, C, 4000, S, 80)
    maps.drop_flow(switch.object.program("drop"), CLIENT, flow)  # as if they were all flows' first
    nearly_full(switch, 0)
    switch.apply([RouteSpec(0, MatchSpec(dport=((80, 80),)), ("fw", "ids"))])
    before = held(switch, CLIENT)
    assert first(switch, CLIENT, MANY - 1) == SHOT
    assert maps.read_counters(switch.object.map("counters"))["no-share"] == 1
    assert (held(switch, FW), before > held(switch, CLIENT) > 0) == (0, True)
    known = switch.known(CLIENT, flow)
    assert (known.packets, known.dropped[DROPPED_BY.index("no-share")]) == (1, 1)


def test_one_that_a_direct_link_has_no_room_for_goes_by_the_switch(ports: None) -> None:
    """Which drops it by name. The hop has its rule already."""
    with contextlib.closing(Switch(direct=True)) as switch:
        switch.apply([RouteSpec(0, MatchSpec(dport=((80, 80),)), ("fw", "ids"))])
        for number in range(MANY):
            first(switch, CLIENT, number)
            if not switch.sent_beside(FW, fragment(number, True, C)):
                first(switch, FW, number)
        assert switch.sent_beside(FW, fragment(MANY - 1, True, C))
        last = fragment(MANY, True, C)
        assert first(switch, CLIENT, MANY) == REDIRECT
        nearly_full(switch, 0)
        assert not switch.sent_beside(FW, last)
        assert first(switch, FW, MANY) == SHOT
        assert maps.read_counters(switch.object.map("counters"))["no-share"] == 1
        assert held(switch, IDS) == 0


def test_without_any_room_they_do_not_pass(switch: Switch) -> None:
    nearly_full(switch, 0)
    assert first(switch, CLIENT, 1, dport=9) == SHOT
    assert maps.read_counters(switch.object.map("counters"))["no-share"] == 1


def test_one_alone_has_so_many_the_latest(switch: Switch) -> None:
    for number in range(EACH + MANY):
        assert first(switch, CLIENT, number, dport=9) == OK
    assert held(switch, CLIENT) == EACH
    assert later(switch, CLIENT, EACH + MANY - 1) == OK


def test_what_is_too_old_gives_its_place_back(switch: Switch) -> None:
    begun = time.clock_gettime(time.CLOCK_MONOTONIC)
    for number in range(FREE):
        first(switch, CLIENT, number)
    assert held(switch, 0) == held(switch, CLIENT) == 2 * FREE
    sweep(switch, begun + lib.HS_FRAGMENT_SECONDS - 1)
    assert held(switch, CLIENT) == 2 * FREE
    sweep(switch, time.clock_gettime(time.CLOCK_MONOTONIC) + lib.HS_FRAGMENT_SECONDS + 1)
    assert held(switch, 0) == held(switch, CLIENT) == 0
    assert not list(switch.object.map("places").keys())
    nearly_full(switch)
    for number in range(MANY):
        first(switch, CLIENT, number, dport=9)
    assert later(switch, CLIENT, MANY - 1) == OK
