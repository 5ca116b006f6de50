# SPDX-License-Identifier: Apache-2.0
"""The packets of a running host, wherever they are; wraps sight.h and take.h.

The programs are attached to tracepoints of the kernel, and go with this object or with the process.
Only root can do that; the daemon takes no part, and no packet waits.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.bpf import objects as bpf
from cext.sight.records import (
    ARRIVES,
    LEAVES,
    LOST,
    RING,
    SNAP,
    STRAIGHT,
    UNSENT,
    UNSENT_REASONS,
    Sight,
)
from cext.sight.tap import Tap
from cext.sight.write import Told, Writer
from cext.switch.drops import SWITCH
from cext.switch.maps import pack_key, pack_u32, unpack_tuple

assert (LEAVES, STRAIGHT, ARRIVES) == (lib.HS_LEAVES, lib.HS_STRAIGHT, lib.HS_ARRIVES)
assert (LOST, RING, UNSENT) == (lib.HS_LOST, lib.HS_RING, lib.HS_UNSENT)
assert [*UNSENT_REASONS] == [lib.HS_TAP_FULL_RING, lib.HS_TAP_TOO_LONG, lib.HS_TAP_FULL_ETH0]
assert SNAP == lib.HS_SIGHT_SNAP

PROGRAMS = ("leaves", "arrives", "loses")
PAGES, LEAST = 1 << 14, 1 << 11
"""Of all CPUs' buffers together, and of each at least, a power of two: 64 MB and 8 MB. A packet of
64 bytes takes 280 bytes there: on two CPUs there is room for what comes in a tenth of a second."""
ROOM = 32 << 20
"""Bytes that are taken at once."""
ICMP = (lib.HS_IP_ICMP, lib.HS_IP_ICMPV6)
LOOKS = 10
"""Milliseconds between two looks at what there is: neither the kernel nor a port wakes anybody for
a packet."""

_HEAD: int = ffi.sizeof("struct hs_sight")


class Sights:
    """See the module.

    flows: a descriptor of the classifier's map
    homes: the host's network namespaces, by inode, the switch's first
    vms: the numbers of those whose packets are looked at
    snap: bytes of a frame at most
    taps: of the packet functions among them (cext/sight/tap.py), the caller's until `close`

    Raises OSError.
    """

    def __init__(
        self,
        flows: int,
        homes: Iterable[int],
        vms: Iterable[int],
        snap: int = SNAP,
        taps: Sequence[Tap] = (),
    ) -> None:
        self.gathered = 0  # bytes of records, by the last `take` or `write`
        self._taps = taps
        self._snap = snap
        self._taker: Any = ffi.NULL
        self._object = bpf.Object("sight", shared={"flows": flows})
        try:
            for nth, inode in enumerate(homes):
                self._object.map("homes").set(pack_u32(inode), pack_u32(SWITCH + nth))
            for vm in vms:
                self._object.map("chosen").set(pack_u32(vm), pack_u32(snap))
            self._taker = lib.hs_taker_open(self._object.map("sights").fd, _pages(), ROOM)
            if self._taker == ffi.NULL:
                raise OSError(ffi.errno, f"capture: {os.strerror(ffi.errno)}")
            for name in PROGRAMS:
                self._object.attach(name)
        except OSError:
            self.close()
            raise

    def take(self, ms: int) -> Iterator[Sight]:
        """Wait so many milliseconds for packets, or less; those that came. Raises OSError."""
        data = memoryview(ffi.buffer(lib.hs_taker_bytes(self._taker), self._gather(ms)))
        at = 0
        while at < len(data):
            length, sight = self._record(data, at)
            yield sight
            at += length

    def write(
        self, ms: int, most: int | None, writer: Writer, tell: Callable[[Sight], Told]
    ) -> Iterator[memoryview | bytes]:
        """The same packets, `most` of them at most, as blocks of a file; tell: what there is to say
        of packets like this one. Each piece is good until the next. Raises OSError."""
        size = self._gather(ms)
        records = lib.hs_taker_bytes(self._taker)
        data = memoryview(ffi.buffer(records, size))
        return writer.write(records, size, most, lambda at: tell(self._record(data, at)[1]))

    def _gather(self, ms: int) -> int:
        """Wait so many milliseconds for records, or less; bytes of those that came."""
        size = lib.hs_taker_take(self._taker, min(ms, LOOKS))
        if size < 0 and size != -errno.EINTR:
            check(int(size), "capture")
        for tap in self._taps:
            tap.look()
            size = lib.hs_taker_tap(self._taker, tap.native, tap.reader, tap.vm, self._snap)
        self.gathered = max(0, int(size))
        return self.gathered

    def _record(self, data: memoryview, at: int) -> tuple[int, Sight]:
        """The record at an offset, and how long it is with what stands before and behind it."""
        length = int.from_bytes(data[at : at + 4], "little")
        return 4 + (length + 3 & ~3), self._followed(_sight(data[at + 4 : at + 4 + length]))

    def _followed(self, sight: Sight) -> Sight:
        """An ICMP error belongs to the flow that it is about, if the classifier knows that."""
        if sight.flow is not None and (sight.flow.proto not in ICMP or sight.flow.sport):
            return sight
        about = ffi.new("struct hs_tuple *")
        if not lib.hs_sight_about(sight.frame, len(sight.frame), about):
            return sight
        flow = unpack_tuple(about)
        if self._object.map("flows").get(pack_key(sight.vm, flow)) is None:
            return sight
        return sight._replace(flow=flow, verdict=0)

    def decided(self, sight: Sight) -> Sight:
        """With what the classifier has decided of its flow by now, if it had yet to decide it when
        it was seen, as for a flow's first packet."""
        in_port = sight.place in (RING, UNSENT)  # knows the epoch alone
        if sight.flow is None or (sight.verdict and not in_port):
            return sight
        value = self._object.map("flows").get(pack_key(sight.vm, sight.flow))
        if value is None:
            return sight
        flow = ffi.from_buffer("struct hs_flow *", value)
        if not flow.verdict or (in_port and flow.verdict >> 32 != sight.verdict >> 32):
            return sight
        verdict = sight.verdict or flow.verdict
        return sight._replace(verdict=verdict, route=flow.route, reply=bool(flow.reply))

    def lost(self) -> int:
        """Packets that could not be kept up with, since the start."""
        unseen = self._object.map("unseen").get(pack_u32(0)) or b""
        lost = int(lib.hs_taker_lost(self._taker)) + int.from_bytes(unseen, "little")
        return lost + sum(tap.lost() for tap in self._taps)

    def detach(self) -> None:
        """Look at no more packets; what was seen can still be taken: `gathered` is 0 after the
        last. Twice is harmless."""
        self._object.detach()
        for tap in self._taps:
            tap.stop()

    def close(self) -> None:
        """Twice is harmless."""
        self._object.close()
        if self._taker != ffi.NULL:
            lib.hs_taker_close(self._taker)
            self._taker = ffi.NULL


def _pages() -> int:
    """Of one CPU's buffer."""
    share = max(LEAST, PAGES // (os.cpu_count() or 1))
    return 1 << share.bit_length() - 1


def _sight(record: memoryview) -> Sight:
    head = ffi.from_buffer("struct hs_sight *", record)
    flow = unpack_tuple(head.key.tuple) if head.key.tuple.family else None
    return Sight(
        head.time,
        head.verdict,
        head.key.vm,
        flow,
        head.length,
        head.reason,
        head.to,
        head.route,
        head.place,
        bool(head.reply),
        bytes(ffi.buffer(head.head, head.before)) + bytes(record[_HEAD : _HEAD + head.taken]),
    )
