# SPDX-License-Identifier: Apache-2.0
"""What is known of a connection is never lost to somebody who changes it at the same time: the
kernel on any CPU, and the daemon, which tells what contents said.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from cext.switch import maps, records
from cext.switch.records import Tuple
from help.classifier import (
    ACK,
    CLIENT,
    FORGER,
    FW,
    SERVER,
    SYN,
    C,
    S,
    Switch,
    frame,
)
from hostsim.model import MatchSpec, RouteSpec

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

ROUNDS = 2000
NAME = 7


@pytest.fixture
def switch(ports: None) -> Iterator[Switch]:
    """Whatever is named NAME goes by the firewall."""
    with contextlib.closing(Switch()) as made:
        made.apply([RouteSpec(0, MatchSpec(proto=6, sni=("www.example.com",)), ("fw",))])
        row = made.epoch % records.REGIONS * records.ROWS_MAX
        made.object.map("names").set(maps.pack_u32(NAME) + maps.pack_u32(row), b"\1")
        yield made


def nth(port: int) -> Tuple:
    return Tuple(4, 6, C, port, S, 443)


def at_once(one: Callable[[int], None], other: Callable[[int], None]) -> None:
    """Both, ROUNDS times, side by side."""
    meet = threading.Barrier(2)
    failed: list[BaseException] = []

    def run(what: Callable[[int], None]) -> None:
        try:
            for at in range(ROUNDS):
                meet.wait()
                what(at)
        except BaseException as error:
            failed.append(error)
            meet.abort()

    threads = [threading.Thread(target=run, args=(what,)) for what in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_name_and_a_reply_at_once(switch: Switch) -> None:
    """Neither the name is lost, nor the port of the reply; and what the reply's flow was judged
    without the name is not remembered."""
    tell, forget = switch.object.program("tell"), switch.object.program("forget")
    for at in range(ROUNDS):
        switch.run("classify", records.IFINDEX + CLIENT, frame(nth(10000 + at), SYN))

    def reply(at: int) -> None:
        data = frame(nth(10000 + at).reversed(), SYN | ACK)
        switch.run("classify", records.IFINDEX + SERVER, data)

    def name(at: int) -> None:
        flow = nth(10000 + at)
        assert maps.tell(tell, flow, NAME)
        conn = maps.read_conn(switch.object.map("conns"), flow)
        assert conn is not None
        for port in {conn.origin, conn.back} - {0}:
            maps.forget(forget, port, flow)
            maps.forget(forget, port, flow.reversed())

    at_once(reply, name)
    for at in range(ROUNDS):
        flow = nth(10000 + at)
        conn = maps.read_conn(switch.object.map("conns"), flow)
        assert conn is not None
        assert conn.content == NAME, at
    flows = {(one.vm, one.tuple): one for one in maps.read_flows(switch.object.map("flows"))}
    for at in range(ROUNDS):
        flow = nth(10000 + at)
        verdict = flows[SERVER, flow.reversed()].verdict
        assert verdict.epoch == 0 or verdict.to == FW, at
        switch.run("classify", records.IFINDEX + SERVER, frame(flow.reversed(), ACK))
        switch.run("classify", records.IFINDEX + CLIENT, frame(flow, ACK))
    for at in range(ROUNDS):
        conn = maps.read_conn(switch.object.map("conns"), nth(10000 + at))
        assert conn is not None
        assert (conn.content, conn.back) == (NAME, SERVER), at
    for one in maps.read_flows(switch.object.map("flows")):
        assert one.verdict.to == FW, one


def test_a_name_is_told_while_others_change_the_connection(switch: Switch) -> None:
    """Replies come by this port and by that, and each changes what is known."""
    tell, conns = switch.object.program("tell"), switch.object.map("conns")
    theirs = Tuple(4, 6, bytes((198, 18, 9, 9)), 4000, bytes((198, 18, 9, 8)), 443)
    switch.run("classify", records.IFINDEX + CLIENT, frame(theirs, SYN))
    data = frame(theirs.reversed(), SYN)  # it is looked at, whatever is known
    changed, over = [0], threading.Event()

    def change() -> None:
        while not over.is_set():
            for port in (SERVER, FORGER):
                switch.run("classify", records.IFINDEX + port, data)
                changed[0] += 1

    other = threading.Thread(target=change)
    other.start()
    lost = []
    try:
        for number in range(1, ROUNDS + 1):
            conn = maps.read_conn(conns, theirs)
            assert conn is not None
            if conn.content != number - 1:
                lost.append(number)
            assert maps.tell(tell, theirs, number)
    finally:
        over.set()
        other.join()
    assert not lost
    assert changed[0] > 0


def test_nobody_is_told_of_what_is_forgotten(switch: Switch) -> None:
    flow = nth(9999)
    assert not maps.tell(switch.object.program("tell"), flow, NAME)
    switch.run("classify", records.IFINDEX + CLIENT, frame(flow, SYN))
    assert maps.tell(switch.object.program("tell"), flow, NAME)
    switch.forget()
    assert not maps.tell(switch.object.program("tell"), flow, NAME)
