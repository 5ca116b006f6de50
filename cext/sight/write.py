# SPDX-License-Identifier: Apache-2.0
"""Writes packets of a capture as blocks of a pcapng file; wraps write.h.

What there is to say of a packet is asked for once for each kind of packet.
"""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cext import check
from cext._native import ffi, lib

TURN, KEPT = lib.HS_KIND_TURN, lib.HS_KIND_KEPT
ALL = 2**63
_SEED = ffi.new("uint64_t[2]", [int.from_bytes(os.urandom(8), "little") for _ in range(2)])


class Told(NamedTuple):
    """Of a kind of packets. interface: its number in the file; None: they are left out. options: of
    pcapng. how: TURN (for now), or KEPT. before: a block that the file
    has to have first."""

    interface: int | None
    options: bytes = b""
    how: int = KEPT
    before: bytes = b""


def packet_id(frame: bytes) -> int:
    """The same number for the same packet, wherever it is seen: what routers change (addresses of
    the frame, TTL, the IPv4 header's sum) does not count. 64 bits; for this process alone."""
    return int(lib.hs_packet_id(frame, len(frame), _SEED))


class Writer:
    """See the module. offset: ns from CLOCK_MONOTONIC to the file's times. Raises OSError."""

    def __init__(self, offset: int) -> None:
        self._native = lib.hs_writer_open(_SEED)
        if self._native == ffi.NULL:
            raise OSError(ffi.errno, f"capture: {os.strerror(ffi.errno)}")
        self._at = ffi.new("struct hs_writing *")
        self._at.offset = offset

    def write(
        self, records: object, size: int, most: int | None, tell: Callable[[int], Told]
    ) -> Iterator[memoryview | bytes]:
        """The blocks of `size` bytes of records (take.h), `most` packets of them at most; a piece
        is good until the next. tell: called for the record at an offset, if its kind is not known.
        Raises OSError."""
        at = self._at
        lib.hs_writer_turn(self._native)
        at.done, at.most = 0, ALL if most is None else most
        while True:
            why = check(lib.hs_writer_write(self._native, records, size, at), "capture")
            if at.used:
                yield memoryview(ffi.buffer(lib.hs_writer_bytes(self._native), at.used))
            if why == lib.HS_WRITER_DONE:
                return
            if why in (lib.HS_WRITER_UNKNOWN, lib.HS_WRITER_ALONE):
                told = tell(at.done)
                if told.before:
                    yield told.before
                number = -1 if told.interface is None else told.interface
                how = lib.HS_KIND_ONCE if why == lib.HS_WRITER_ALONE else told.how
                options = (number, told.options, len(told.options), how)
                check(lib.hs_writer_know(self._native, records, size, at.done, *options), "capture")

    def count(self, interface: int) -> int:
        """Packets of an interface so far."""
        return int(lib.hs_writer_count(self._native, interface))

    def close(self) -> None:
        """Twice is harmless."""
        if self._native != ffi.NULL:
            lib.hs_writer_close(self._native)
            self._native = ffi.NULL
