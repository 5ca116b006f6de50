# SPDX-License-Identifier: Apache-2.0
"""What a packet function's port puts into rings and loses, for those who capture. Wraps tap.h.

The daemon makes a region for each function (`make_tap`) and hands it to its processes. Whoever
captures, another process of root's, reads it (`Tap`); there may be several. The VM may write
anything there.
"""

import contextlib
import fcntl
import mmap
import os
import time
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.ring.channel import make_region

LEASE = 60_000_000_000
"""Nanoseconds that a port goes on for a reader that does not say anything: a reader may be held up
by a disk. One that ends says so."""


def make_tap() -> int:
    """A region, empty; the descriptor is the caller's. Raises OSError."""
    fd = make_region(lib.hs_tap_size())
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, fd)
        with mmap.mmap(fd, mmap.PAGESIZE) as memory:
            native = ffi.from_buffer("struct hs_tap *", memory, require_writable=True)
            lib.hs_tap_init(native)
            ffi.release(native)
        undo.pop_all()
    return fd


class Tap:
    """One reader: sees everything that is sent from when it is made. fd: of the region; it stays
    the caller's. vm: the number of the function's VM. Raises OSError."""

    def __init__(self, fd: int, vm: int) -> None:
        self.vm = vm
        self.reader = ffi.new("struct hs_tap_reader *")
        # An open file of our own: whoever holds its lock alone is the last reader.
        self._file = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        made = ffi.new("struct hs_tap **")
        try:
            self._locked = self._lock(fcntl.LOCK_SH)
            check(lib.hs_tap_open(self._file, made), "tap")
        except OSError:
            os.close(self._file)
            raise
        self.native: Any = made[0]
        lib.hs_tap_start(self.native, self.reader)
        self.look()

    def _lock(self, how: int) -> bool:
        """The VM may hold it, and must not hold us."""
        try:
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def look(self) -> None:
        """Say that somebody still looks; due long before LEASE is over."""
        lib.hs_tap_look(self.native, time.clock_gettime_ns(time.CLOCK_MONOTONIC) + LEASE)

    def stop(self) -> None:
        """Read no more than what has been written by now. The reader goes on looking until `close`,
        for others' sake."""
        lib.hs_tap_stop(self.native, self.reader)

    def lost(self) -> int:
        """Packets that were written over before they were read."""
        return int(lib.hs_tap_lost(self.native, self.reader))

    def close(self) -> None:
        """The last one frees the memory. Twice is harmless."""
        if self._file < 0:
            return
        if self._locked and self._lock(fcntl.LOCK_EX):
            lib.hs_tap_empty(self.native)
        lib.hs_tap_close(self.native)
        self.native = ffi.NULL
        os.close(self._file)
        self._file = -1
