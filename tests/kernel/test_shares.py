# SPDX-License-Identifier: Apache-2.0
"""Every VM has its share of the tables, and a connection is remembered for as long as it may go on:
the classifier and the sweeper themselves.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cext._native import ffi, lib

from cext.switch import maps, records
from cext.switch.records import Tuple
from help.classifier import (
    ACK,
    CLIENT,
    FIN,
    FORGER,
    FW,
    IDS,
    RST,
    SERVER,
    SYN,
    Switch,
    frame,
    tcp,
    udp,
)
from help.waiting import until
from hostsim.model import MatchSpec, RouteSpec

pytestmark = [pytest.mark.root, pytest.mark.stock, pytest.mark.timeout(300)]

SHOT = 2  # linux/pkt_cls.h
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
SWEPT, AT_MOST = 3000, 512
"""Connections to be swept, and how many one run may look at."""
MANY = 300


@pytest.fixture
def switch(ports: None) -> Iterator[Switch]:
    """Ports 80 and 443 go by a chain, the others by the bridge."""
    with contextlib.closing(Switch()) as made:
        by_name = MatchSpec(proto=6, dport=((443, 443),), sni=("www.example.com",))
        made.apply([
            RouteSpec(0, MatchSpec(dport=((80, 80),)), ("fw", "ids")),
            RouteSpec(1, by_name, ("fw",)),
        ])  # fmt: skip
        yield made


def has(switch: Switch, vm: int, flows: int = 0, conns: int = 0) -> None:
    """The VM has so many entries, and nobody else has any."""
    raw = ffi.new("struct hs_entries *", (flows, conns))
    for number in (0, vm):
        switch.object.map("shares").set(maps.pack_u32(number), bytes(ffi.buffer(raw)))


def share(switch: Switch, vm: int) -> tuple[int, int]:
    return maps.read_share(switch.object.map("shares"), vm)


def counted(switch: Switch, name: str) -> int:
    return maps.read_counters(switch.object.map("counters"))[name]


def sends(switch: Switch, vm: int, flow: Tuple, flags: int = 0) -> int:
    return switch.run("classify", records.IFINDEX + vm, frame(flow, flags))


def known(switch: Switch, flow: Tuple) -> bool:
    return maps.read_conn(switch.object.map("conns"), flow) is not None


def sweep(switch: Switch, after: float) -> None:
    """As if nothing had come for so many seconds. A flow's entry goes later than its connection."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    maps.sweep(switch.object.program, switch.object.map, now + int(after * 1e9), 1 << 62)


FULL = records.CONNS_MAX * records.SHARE // (records.SHARE + 1)


def test_a_flood_costs_only_the_vm_that_sends_it(switch: Switch) -> None:
    has(switch, CLIENT, conns=FULL)
    assert sends(switch, CLIENT, tcp(5000), SYN) == SHOT
    assert sends(switch, CLIENT, udp(5000)) == SHOT
    assert counted(switch, "no-share") == 2
    assert not known(switch, tcp(5000))
    assert switch.path(FORGER, udp(5001)) == [FW, IDS]
    assert switch.path(SERVER, udp(5001).reversed()) == [IDS, FW]
    assert known(switch, udp(5001))
    assert counted(switch, "no-share") == 2


def test_a_connection_that_is_known_goes_on(switch: Switch) -> None:
    assert switch.path(CLIENT, tcp(5000), SYN) == [FW, IDS]
    has(switch, CLIENT, conns=FULL, flows=records.FLOWS_MAX)
    assert switch.path(CLIENT, tcp(5000), ACK) == [FW, IDS]
    assert sends(switch, SERVER, tcp(5000).reversed(), SYN | ACK) != SHOT
    assert counted(switch, "no-share") == 0


def test_what_no_route_concerns_leaves_room_for_the_rest(switch: Switch) -> None:
    """A scan of ports that have no route; then a connection of the same VM that has one."""
    has(switch, CLIENT, conns=records.CONNS_MAX // 2)
    assert sends(switch, CLIENT, udp(5000, 9999)) != SHOT
    assert not known(switch, udp(5000, 9999))
    assert switch.path(CLIENT, udp(5000)) == [FW, IDS]
    assert switch.path(SERVER, udp(5000).reversed()) == [IDS, FW]
    assert known(switch, udp(5000))


def test_contents_that_nobody_could_ask_for_do_not_pass(switch: Switch) -> None:
    has(switch, CLIENT, conns=FULL)
    assert sends(switch, CLIENT, tcp(5000, 443), SYN) == SHOT
    has(switch, CLIENT, flows=records.FLOWS_MAX)
    assert sends(switch, CLIENT, tcp(5001, 443), SYN) == SHOT
    has(switch, CLIENT)
    assert sends(switch, CLIENT, tcp(5001, 443), SYN) != SHOT


def ask(switch: Switch, vm: int, port: int) -> bool:
    """A question for a name comes in by the VM's port. Whether it went up to the daemon."""
    before = counted(switch, "asked")
    flow = udp(port, 53)._replace(src=bytes([198, 18, 0, 100 + vm]))  # an address of nobody's
    switch.run("classify", records.IFINDEX + vm, frame(flow, 0, bytes(40)))
    return counted(switch, "asked") > before


def test_a_flood_of_contents_leaves_room_for_others(switch: Switch) -> None:
    """Nobody takes what goes up. The daemon takes what one has sent: that one may go on."""
    match = MatchSpec(proto=17, dport=((53, 53),), dns_name=("www.example.com",))
    switch.apply([RouteSpec(0, match, ("fw",))])
    size = ffi.sizeof("struct hs_content")
    most = lib.HS_EVENTS_MAX // size
    sent = sum(ask(switch, FORGER, 10_000 + at) for at in range(most))
    assert most * 6 // 8 < sent < most * 7 // 8 + 2
    assert counted(switch, "events-lost") == most - sent
    assert all(ask(switch, CLIENT, 30_000 + at) for at in range((most - sent) * 3 // 4))
    assert not ask(switch, FORGER, 20_000)
    assert maps.read_asked(switch.object.map("shares"), FORGER) == sent * size
    maps.note_taken(switch.object.map("taken"), FORGER, sent)
    assert ask(switch, FORGER, 20_001)


def test_every_entry_is_charged_once_and_given_back(switch: Switch) -> None:
    """What goes through a chain is charged to whom it came from."""
    for port in range(MANY):
        switch.path(CLIENT, udp(7000 + port)) if port < 10 else sends(
            switch, CLIENT, udp(7000 + port)
        )
    switch.path(SERVER, udp(7000).reversed())
    assert share(switch, 0) == share(switch, CLIENT) == (MANY + 2 * 10 + 3, MANY)
    assert share(switch, SERVER) == share(switch, FW) == (0, 0)
    drop = switch.object.program("drop")
    maps.drop_flow(drop, CLIENT, udp(7000))
    maps.drop_flow(drop, CLIENT, udp(7000))
    assert share(switch, CLIENT) == (MANY + 2 * 10 + 2, MANY)
    switch.forget()
    assert [share(switch, vm) for vm in (0, CLIENT, SERVER, FW)] == [(0, 0)] * 4


def lives(switch: Switch, flow: Tuple, seconds: int) -> None:
    """The flow's connection is remembered for so long, and no longer."""
    for port in (CLIENT, SERVER, FW, IDS):
        for way in (flow, flow.reversed()):
            maps.drop_flow(switch.object.program("drop"), port, way)
    sweep(switch, seconds - 1)
    assert known(switch, flow)
    sweep(switch, seconds + 1)
    assert not known(switch, flow)


def goes_on(switch: Switch, flow: Tuple, packets: int = 3) -> None:
    """It is answered, and goes on; the sweeper has seen that."""
    sends(switch, CLIENT, flow, SYN)
    sends(switch, SERVER, flow.reversed(), SYN | ACK)
    for _ in range(packets - 1):
        sends(switch, CLIENT, flow, ACK)
    sweep(switch, 0)


def test_udp_lives_longer_once_it_is_answered(switch: Switch) -> None:
    sends(switch, CLIENT, udp(5000))
    lives(switch, udp(5000), lib.HS_LIFE_UNANSWERED)
    sends(switch, CLIENT, udp(5000))
    sends(switch, SERVER, udp(5000).reversed())
    lives(switch, udp(5000), lib.HS_LIFE_ANSWERED)


def test_tcp_lives_by_its_state(switch: Switch) -> None:
    flow = tcp(5000)
    sends(switch, CLIENT, flow, SYN)
    lives(switch, flow, lib.HS_LIFE_OPENING)
    goes_on(switch, flow, packets=2)
    lives(switch, flow, lib.HS_LIFE_OPENING)
    goes_on(switch, flow)
    lives(switch, flow, lib.HS_LIFE_OPEN)
    goes_on(switch, flow)
    sends(switch, CLIENT, flow, FIN | ACK)
    lives(switch, flow, lib.HS_LIFE_OPEN)
    goes_on(switch, flow)
    sends(switch, CLIENT, flow, FIN | ACK)
    sends(switch, SERVER, flow.reversed(), FIN | ACK)
    lives(switch, flow, lib.HS_LIFE_CLOSED)
    goes_on(switch, flow)
    sends(switch, SERVER, flow.reversed(), RST)
    lives(switch, flow, lib.HS_LIFE_RESET)


@pytest.mark.parametrize("flags", [RST, FIN | ACK])
def test_a_forger_closes_nothing(switch: Switch, flags: int) -> None:
    flow = tcp(5000)
    goes_on(switch, flow)
    for way in (flow, flow.reversed()):
        sends(switch, FORGER, way, flags)
    lives(switch, flow, lib.HS_LIFE_OPEN)


def runs(switch: Switch) -> int:
    """How often the program `sweep` has run while the kernel counts it."""
    said = Path(f"/proc/self/fdinfo/{switch.object.program('sweep')}").read_text()
    return int(said.partition("run_cnt:")[2].split()[0])


@contextlib.contextmanager
def counted_runs() -> Iterator[None]:
    """The kernel counts how often each BPF program runs."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def test_a_sweep_of_many_flows_keeps_no_processor(switch: Switch) -> None:
    """A run of a BPF program has its processor for itself: each looks at some flows only, and
    all of them together at every flow."""
    ports = range(5000, 5000 + SWEPT)
    for port in ports:
        sends(switch, CLIENT, udp(port))
    with counted_runs():
        sweep(switch, 0)
        turns = runs(switch)
    assert turns >= 2 * SWEPT // AT_MOST
    assert all(known(switch, udp(port)) for port in ports)
    sweep(switch, lib.HS_LIFE_OPEN)
    assert not any(known(switch, udp(port)) for port in ports)
    assert share(switch, CLIENT)[1] == 0


def test_a_sweep_has_the_priority_of_any_program(switch: Switch) -> None:
    """The loop's is for what the loop waits for, and comes back. Seen from outside of the thread,
    which has to be amid a sweep then."""
    ended, began = threading.Event(), threading.Event()
    number, after = [0], [0]

    def sweeps() -> None:
        number[0] = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, 0, -5)
        began.set()
        while not ended.is_set():
            sweep(switch, 0)
            after[0] = os.getpriority(os.PRIO_PROCESS, 0)

    thread = threading.Thread(target=sweeps)
    thread.start()
    try:
        began.wait()
        until(lambda: os.getpriority(os.PRIO_PROCESS, number[0]) == 0, 30, "a sweep of no priority")
    finally:
        ended.set()
        thread.join()
    assert after[0] == -5


def test_without_an_answer_is_forgotten_first_if_there_is_little_room(switch: Switch) -> None:
    for flow in (udp(5000), udp(5001)):
        sends(switch, CLIENT, flow)
    goes_on(switch, tcp(5000))
    sends(switch, SERVER, udp(5001).reversed())
    has(switch, CLIENT, conns=FULL * 3 // 4)
    for flow in (udp(5000), udp(5001), tcp(5000)):
        for port in (CLIENT, SERVER):
            for way in (flow, flow.reversed()):
                maps.drop_flow(switch.object.program("drop"), port, way)
    sweep(switch, lib.HS_LIFE_UNANSWERED - 1)
    assert [known(switch, one) for one in (udp(5000), udp(5001), tcp(5000))] == [False, True, True]
    sweep(switch, lib.HS_LIFE_OPEN_PRESSED + 1)
    assert not known(switch, tcp(5000))


def test_the_next_connection_of_the_same_ends_is_asked_for_its_own_name(switch: Switch) -> None:
    """The name of the one before does not count for it, once both sides have closed that."""
    flow, tell = tcp(5000, 443), switch.object.program("tell")
    row = switch.epoch % records.REGIONS * records.ROWS_MAX + 1
    switch.object.map("names").set(maps.pack_u32(7) + maps.pack_u32(row), b"\1")
    goes_on(switch, flow)
    assert maps.tell(tell, flow, 7)
    maps.forget(switch.object.program("forget"), CLIENT, flow)
    assert switch.path(CLIENT, flow, ACK) == [FW]
    assert switch.path(CLIENT, flow, FIN | ACK) == [FW]
    assert switch.path(CLIENT, flow, SYN) == [FW]
    conn = maps.read_conn(switch.object.map("conns"), flow)
    assert conn is not None
    assert conn.content == 7  # the server has not closed it: it may go on
    sends(switch, SERVER, flow.reversed(), FIN | ACK)
    assert switch.path(CLIENT, flow, SYN) == []
    conn = maps.read_conn(switch.object.map("conns"), flow)
    assert conn is not None
    assert (conn.content, conn.undecided) == (0, True)
