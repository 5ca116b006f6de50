# SPDX-License-Identifier: Apache-2.0
"""Ports over one umem: frames go down a chain of three uncopied, and come home whatever happens."""

import os
import time
from collections.abc import Iterator

import pytest

from cext.port.port import Port
from cext.port.rules import Rules, flow_of
from cext.ring.channel import Shape, make_channel, make_region
from hostsim.bench.chain import packet

FRAMES = 64
SHAPE = Shape("shared", ring=32, max_len=1600)


def turned(frame: bytes) -> bytes:
    """The frame with addresses and ports of sender and receiver exchanged."""
    ends = frame[30:34] + frame[26:30] + frame[36:38] + frame[34:36]
    return frame[6:12] + frame[:6] + frame[12:26] + ends + frame[38:]


class Three:
    """Ports of VMs 1, 2 and 3; each sends the one flow to the next."""

    def __init__(self) -> None:
        self.region = make_region(3 * FRAMES * 2048)
        self.rules = [Rules(64) for _ in range(3)]
        self.ports = [self.port(vm) for vm in (1, 2, 3)]
        flow = flow_of(packet())
        assert flow is not None
        for vm, rules in enumerate(self.rules[:2], start=1):
            rules.set_epoch(1)
            rules.put(flow, vm + 1, 1)
        self.join(1, 2)
        self.join(2, 3)

    def port(self, vm: int) -> Port:
        port = Port(3 * FRAMES, 2048, self.region, (vm - 1) * FRAMES, FRAMES)
        port.rules(self.rules[vm - 1].fd, 64)
        return port

    def join(self, a: int, b: int) -> None:
        channels = [make_channel(SHAPE), make_channel(SHAPE)]
        bells = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(2)]
        one, two = self.ports[a - 1], self.ports[b - 1]
        one.neighbour(b, SHAPE, channels[0], channels[1], (bells[0][0], bells[1][1]))
        two.neighbour(a, SHAPE, channels[1], channels[0], (bells[1][0], bells[0][1]))
        for fd in channels:
            os.close(fd)

    def free(self) -> list[int]:
        """Frames that each has for itself, after everyone has had a look."""
        for port in reversed(self.ports):
            port.wait(0.0001)
            port.send(port.recv())
        return [port.native.umem.free_count for port in self.ports]

    def settle(self, seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while self.free() != [FRAMES] * 3:
            assert time.monotonic() < end, self.free()

    def close(self) -> None:
        for port in self.ports:
            port.close()
        for rules in self.rules:
            rules.close()
        os.close(self.region)


@pytest.fixture
def three() -> Iterator[Three]:
    made = Three()
    yield made
    made.close()


def test_a_packet_is_handed_on_in_the_same_frame(three: Three) -> None:
    one, two, three_ = three.ports
    batch = one.make(packet())
    where = batch.native[0].addr
    one.send(batch)
    passed = two.recv()
    assert passed.native[0].addr == where
    passed[0][-1] = 77
    two.send(passed)
    last = three_.recv()
    assert last.native[0].addr == where
    assert last[0][-1] == 77
    three_.send(last)
    three.settle()


def test_frames_come_home_round_after_round(three: Three) -> None:
    one, two, three_ = three.ports
    arrived = 0
    for _ in range(500):
        one.send(one.make(*[packet()] * 20))
        two.send(two.recv())
        batch = three_.recv()
        arrived += len(batch)
        three_.send(batch)
    lost = one.counters()["full_ring"] + two.counters()["full_ring"]
    assert arrived == one.counters()["ring_out"] - two.counters()["full_ring"]
    assert arrived + lost <= 500 * 20
    assert arrived > 5000
    for port in three.ports:
        assert not any(n for name, n in port.counters().items() if name.startswith("bad_"))
    three.settle()


def test_an_answer_in_the_frame_of_the_question_gets_home(three: Three) -> None:
    one, two, last = three.ports
    reply = turned(packet())
    flow = flow_of(reply)
    assert flow is not None
    three.rules[1].put(flow, 1, 1)
    three.rules[2].set_epoch(1)
    three.rules[2].put(flow, 2, 1)
    for _ in range(3 * FRAMES):  # as many as would use up all frames, if one were lost each time
        one.send(one.make(packet()))
        two.send(two.recv())
        asked = last.recv()
        asked[0][:] = reply
        last.send(asked)
        two.send(two.recv())
        got = one.recv()
        assert bytes(got[0]) == reply
        got.drop(0)
        one.send(got)
        assert one.native.umem.free_count == FRAMES
    for port in three.ports:
        assert not any(n for name, n in port.counters().items() if name.startswith("bad_"))
    three.settle()


@pytest.mark.parametrize("held", ["ring", "two", "three"])
def test_what_a_dead_one_had_comes_home(three: Three, held: str) -> None:
    """It dies while packets of the first one are in its ring, its hands, or those of the next."""
    one, two, last = three.ports
    one.send(one.make(*[packet()] * 20))
    kept = two.recv() if held != "ring" else None
    if held == "three":
        assert kept is not None
        two.send(kept)
        kept = last.recv()
        assert len(kept) == 20
    two.close()
    one.forget(2)
    last.forget(2)
    one.send(one.make(packet()))  # by the switch now, which is not there
    assert one.counters()["full_eth0"] == 1
    if held == "three":
        for _ in range(3):
            last.wait(0.3)
        assert last.native.neighbour[0].vm == 2  # not forgotten while frames of it are held
        assert kept is not None
        last.send(kept)
    three.ports[1] = three.port(2)  # the next process of VM 2, with frames that nobody holds
    three.join(1, 2)
    three.join(2, 3)
    three.settle()
    one.send(one.make(*[packet()] * 10))
    three.ports[1].send(three.ports[1].recv())
    batch = last.recv()
    assert len(batch) == 10
    last.send(batch)
    three.settle()
