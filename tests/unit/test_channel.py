"""A channel is a bounded queue: hypothesis plays it against a deque, in both modes."""

import contextlib
import os
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cext.channel import Channel, Mode, Shape, Umem, make_channel, make_region

RING = 8
FRAMES = 32


class AgainstDeque(RuleBasedStateMachine):
    """The queue between the two ends holds what the deque holds."""

    mode: Mode = "isolated"

    def __init__(self) -> None:
        super().__init__()
        shape = Shape(self.mode, ring=RING, data=1 << 17, max_len=2048)
        with contextlib.ExitStack() as fds:
            channel = make_channel(shape)
            fds.callback(os.close, channel)
            region = None
            if self.mode == "shared":
                region = make_region(FRAMES * 2048)
                fds.callback(os.close, region)
            self.sender = Umem(FRAMES, fd=region)
            self.receiver = Umem(FRAMES, fd=region, count=0 if self.mode == "shared" else FRAMES)
            self.tx = Channel(channel, shape, self.sender, sender=True)
            self.rx = Channel(channel, shape, self.receiver, sender=False)
        self.model: deque[bytes] = deque()

    @rule(packets=st.lists(st.binary(min_size=1, max_size=2048), max_size=2 * RING))
    def send(self, packets: list[bytes]) -> None:
        room = RING - len(self.model)
        taken = self.tx.send(packets)
        assert taken == min(room, len(packets))
        self.model.extend(packets[:taken])

    @precondition(lambda self: self.model)
    @rule(most=st.integers(1, 2 * RING))
    def receive(self, most: int) -> None:
        got = self.rx.recv(most)
        assert got == [self.model.popleft() for _ in range(min(most, len(self.model)))]

    @precondition(lambda self: not self.model)
    @rule(most=st.integers(1, 2 * RING))
    def receive_nothing(self, most: int) -> None:
        assert self.rx.recv(most) == []

    @invariant()
    def nothing_is_refused(self) -> None:
        for counters in (self.tx.counters(), self.rx.counters()):
            assert not any(n for name, n in counters.items() if name != "full")

    def teardown(self) -> None:
        for closable in (self.tx, self.rx, self.tx, self.sender, self.receiver, self.sender):
            closable.close()


class SharedAgainstDeque(AgainstDeque):
    mode: Mode = "shared"


AgainstDeque.TestCase.settings = settings(max_examples=60, deadline=None)
SharedAgainstDeque.TestCase.settings = settings(max_examples=60, deadline=None)
TestIsolated = AgainstDeque.TestCase
TestShared = SharedAgainstDeque.TestCase


@pytest.mark.parametrize("size", [4096, 4096 + 2048 * FRAMES])
def test_a_region_of_another_size_is_refused(size: int) -> None:
    region = make_region(size)
    try:
        with pytest.raises(OSError, match="packet memory"):
            Umem(FRAMES, fd=region)
    finally:
        os.close(region)


def test_an_unsealed_memfd_is_refused() -> None:
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, FRAMES * 2048)
        with pytest.raises(PermissionError):
            Umem(FRAMES, fd=fd)
    finally:
        os.close(fd)


def test_the_two_ends_must_agree_on_the_shape() -> None:
    fd = make_channel(Shape(ring=64, max_len=1500))
    umem = Umem(16)
    try:
        with pytest.raises(OSError, match="channel"):
            Channel(fd, Shape(ring=64, max_len=1400), umem, sender=True)
        with pytest.raises(OSError, match="channel"):
            make_channel(Shape(ring=63))
    finally:
        umem.close()
        os.close(fd)
