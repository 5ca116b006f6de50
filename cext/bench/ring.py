# SPDX-License-Identifier: Apache-2.0
"""The measured loops of `hostsim bench ring`, to be called in processes of their own. Wraps
bench/ring.h.
"""

import errno
import mmap
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.ring.channel import Channel


class Page:
    """What the two ends and their parent share; made before the ends are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.native = ffi.from_buffer("struct hs_bench *", self._memory)
        self._words = memoryview(self._memory).cast("Q")

    def stop(self) -> None:
        """Both ends return soon."""
        self._words[0] = 1

    @property
    def count(self) -> int:
        """Packets received so far."""
        return self._words[16]

    @property
    def wrong(self) -> int:
        """Packets that were not the ones that were due; known when the sink has returned."""
        return self._words[32]


def source(channel: Channel, page: Page, length: int) -> None:
    """Send packets of `length` bytes until stopped."""
    lib.hs_bench_source(channel.native, page.native, length)


def sink(channel: Channel, page: Page) -> None:
    """Receive until stopped."""
    lib.hs_bench_sink(channel.native, page.native)


class Limit:
    """The memory of the bare limit: `slots` places for packets of `length` bytes."""

    def __init__(self, slots: int, length: int) -> None:
        stride = (length + 63) & ~63
        self._slots, self._length = slots, length
        self._data = mmap.mmap(-1, slots * stride)
        self._data.madvise(mmap.MADV_HUGEPAGE)
        self._ring = mmap.mmap(-1, mmap.PAGESIZE)

    def _arguments(self, page: Page) -> tuple[Any, ...]:
        ring = ffi.from_buffer("struct hs_ring_shared *", self._ring)
        data = ffi.from_buffer("uint8_t *", self._data)
        return ring, data, self._slots, self._length, page.native

    def source(self, page: Page) -> None:
        """Copy in until stopped."""
        lib.hs_bench_limit_source(*self._arguments(page))

    def sink(self, page: Page) -> None:
        """Copy out until stopped."""
        lib.hs_bench_limit_sink(*self._arguments(page))


def round_trips(
    out: Channel, into: Channel, bells: tuple[int, int], length: int, spin: float, count: int
) -> list[float]:
    """`count` round trips, in seconds, of packets of `length` bytes sent by this side. bells: the
    end to read and the peer's to write. spin: seconds to poll before sleeping; inf: never sleep.
    """
    times = ffi.new("uint64_t[]", count)
    check(_rtt(out, into, bells, length, spin, count, times), "round trip")
    return [times[i] / 1e9 for i in range(count)]


def answer(
    out: Channel, into: Channel, bells: tuple[int, int], length: int, spin: float, count: int
) -> None:
    """The other side of `round_trips`."""
    check(_rtt(out, into, bells, length, spin, count, ffi.NULL), "round trip")


def _rtt(
    out: Channel,
    into: Channel,
    bells: tuple[int, int],
    length: int,
    spin: float,
    count: int,
    times: Any,
) -> int:
    nanoseconds = 2**64 - 1 if spin == float("inf") else int(spin * 1e9)
    result: int = lib.hs_bench_rtt(
        out.native, into.native, bells[0], bells[1], length, count, nanoseconds, times
    )
    return result


def eventfd_round_trips(into: int, out: int, count: int) -> list[float]:
    """The peer of the sleeping round trip, in seconds."""
    times = ffi.new("uint64_t[]", count)
    check(lib.hs_bench_eventfd(into, out, count, times), "eventfd")
    return [times[i] / 1e9 for i in range(count)]


def eventfd_answer(into: int, out: int, count: int) -> None:
    """The other side of `eventfd_round_trips`."""
    check(lib.hs_bench_eventfd(into, out, count, ffi.NULL), "eventfd")


def idle(into: Channel, bell: int, spin: float, seconds: float) -> None:
    """Wait for a packet that does not come."""
    result = lib.hs_bench_idle(into.native, bell, int(spin * 1e9), int(seconds * 1e9))
    assert result == -errno.ETIMEDOUT, result
