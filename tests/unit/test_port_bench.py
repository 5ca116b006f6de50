# SPDX-License-Identifier: Apache-2.0
"""The ends of `hostsim bench chain`: what they make is right, and what is wrong is seen.
Two ports in one process, whose loops sleep and wake each other."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext.bench import port as port_bench
from cext.port.port import Port
from cext.port.rules import Rules, flow_of
from cext.ring.channel import Shape, make_channel, make_region
from hostsim.bench.chain import SIZE, host_file, packet
from hostsim.hostfile.file import parse

FRAMES = 256


@pytest.fixture(params=["isolated", "shared"])
def joined(request: pytest.FixtureRequest) -> Iterator[tuple[Port, Port]]:
    """VM 1, which has a rule for the flow of `packet`, and VM 2."""
    shape = Shape(request.param, ring=64, data=1 << 17, max_len=1600)
    region = make_region(2 * FRAMES * 2048)
    one, two = (Port(2 * FRAMES, 2048, region, at * FRAMES, FRAMES) for at in (0, 1))
    channels = [make_channel(shape), make_channel(shape)]
    bells = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(2)]
    one.neighbour(2, shape, channels[0], channels[1], (bells[0][0], bells[1][1]))
    two.neighbour(1, shape, channels[1], channels[0], (bells[1][0], bells[0][1]))
    for fd in (region, *channels):
        os.close(fd)
    rules = Rules(64)
    rules.set_epoch(1)
    flow = flow_of(packet())
    assert flow is not None
    rules.put(flow, 2, 1, wait=True)
    one.rules(rules.fd, rules.entries)
    yield one, two
    one.close()
    two.close()
    rules.close()


def test_every_datagram_arrives_and_is_good(joined: tuple[Port, Port]) -> None:
    one, two = joined
    (until_one, end_one), (until_two, end_two) = os.pipe(), os.pipe()
    one.control, two.control = until_one, until_two
    receiving = threading.Thread(target=port_bench.verify, args=(two,))
    sending = threading.Thread(target=port_bench.send, args=(one, packet(SIZE)))
    receiving.start()
    sending.start()
    deadline = threading.Event()
    while two.counters().get("good", 0) < 20000 and not deadline.wait(0.01):
        pass
    os.close(end_one)
    sending.join(20)
    sent = one.counters()
    while two.counters()["good"] + two.counters()["bad"] < sent["ring_out"]:
        assert not deadline.wait(0.01)
    os.close(end_two)
    receiving.join(20)
    assert not sending.is_alive()
    assert not receiving.is_alive()
    got = two.counters()
    assert got["good"] == sent["ring_out"] == sent["made"] - sent["full_ring"]
    assert got["bad"] == 0
    for fd in (until_one, until_two):
        os.close(fd)


@pytest.mark.parametrize("at", [22, 26, 36, 45, SIZE - 1])
def test_a_changed_byte_is_seen(joined: tuple[Port, Port], at: int) -> None:
    """In the IP header, in UDP's, and in the payload."""
    one, two = joined
    until, end = os.pipe()
    os.close(end)  # readable: the loops end when they have done what there is
    good = bytearray(packet(SIZE))
    total = sum(int.from_bytes(good[i : i + 2]) for i in range(26, SIZE, 2)) + 17 + SIZE - 34
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    good[40:42] = (~total & 0xFFFF).to_bytes(2)
    wrong = bytearray(good)
    wrong[at] ^= 0x10
    two.control = until
    one.send(one.make(bytes(good), bytes(wrong)))
    port_bench.verify(two)
    counted = two.counters()
    # A flow with another address or port has no rule and goes to the switch, which is not here.
    expected = (1, 0) if at in (26, 36) else (1, 1)
    assert (counted["good"], counted["bad"]) == expected
    os.close(until)


def test_both_modes_of_the_chain(tmp_path: Path) -> None:
    for path, mode in (("ring", "shared"), ("ring-isolated", "isolated")):
        spec = parse(host_file(3, path), tmp_path / "chain.toml")
        assert [route.ring for route in spec.routes] == [mode]
        assert spec.routes[0].through == ("source", "nf1", "nf2", "nf3", "sink")
