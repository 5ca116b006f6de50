# SPDX-License-Identifier: Apache-2.0
"""A channel is a bounded queue: hypothesis plays it against a deque, in both modes."""

import contextlib
import fcntl
import os
from collections import deque
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cext.ring.channel import Channel, Mode, Shape, Umem, make_channel, make_region

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


SEALS = (fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL)


@pytest.mark.parametrize("missing", [None, *SEALS])
@pytest.mark.parametrize("what", ["umem", "channel"])
def test_a_memfd_without_its_seals_is_refused(missing: int | None, what: str) -> None:
    """Whoever could still shrink it could take pages away from under us."""
    shape = Shape(ring=64)
    given = make_channel(shape) if what == "channel" else make_region(FRAMES * 2048)
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    umem = Umem(16, frame_size=4096)
    try:
        os.ftruncate(fd, os.fstat(given).st_size)
        if missing is not None:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sum(seal for seal in SEALS if seal != missing))
        with pytest.raises(PermissionError):
            Channel(fd, shape, umem, sender=True) if what == "channel" else Umem(FRAMES, fd=fd)
    finally:
        umem.close()
        os.close(given)
        os.close(fd)


def test_what_is_no_memfd_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb+") as file:
        file.truncate(FRAMES * 2048)
        with pytest.raises(OSError, match="packet memory"):
            Umem(FRAMES, fd=file.fileno())


@pytest.mark.parametrize("size", [-4096, 4096])
def test_a_channel_of_another_size_is_refused(size: int) -> None:
    shape = Shape(ring=64)
    made = make_channel(shape)
    other = make_region(os.fstat(made).st_size + size)
    umem = Umem(16, frame_size=4096)
    try:
        with pytest.raises(OSError, match="channel"):
            Channel(other, shape, umem, sender=True)
    finally:
        umem.close()
        os.close(made)
        os.close(other)


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
