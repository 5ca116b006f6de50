"""The packets of a running host, wherever they are; wraps sight.h and take.h.

The programs are attached to tracepoints of the kernel, and go with this object or with the process.
Only root can do that; the daemon takes no part, and no packet waits.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.bpf import objects as bpf
from cext.sight.records import ARRIVES, LEAVES, LOST, SNAP, STRAIGHT, Sight
from cext.switch.maps import pack_key, pack_u32, unpack_tuple

PLACES = (LEAVES, STRAIGHT, ARRIVES, LOST)
assert PLACES == (lib.HS_LEAVES, lib.HS_STRAIGHT, lib.HS_ARRIVES, lib.HS_LOST)
assert SNAP == lib.HS_SIGHT_SNAP

PROGRAMS = ("leaves", "arrives", "loses")
PAGES = 2048
"""Of each CPU's buffer: 8 MB, some 50,000 packets of 64 bytes."""
ROOM = 32 << 20
"""Bytes that are taken at once."""

_HEAD: int = ffi.sizeof("struct hs_sight")


class Sights:
    """See the module.

    flows: a descriptor of the classifier's map
    homes: the host's network namespaces, by inode
    vms: the numbers of those whose packets are looked at
    snap: bytes of a frame at most

    Raises OSError.
    """

    def __init__(
        self, flows: int, homes: Iterable[int], vms: Iterable[int], snap: int = SNAP
    ) -> None:
        self._taker: Any = ffi.NULL
        self._object = bpf.Object("sight", shared={"flows": flows})
        try:
            for inode in homes:
                self._object.map("homes").set(pack_u32(inode), pack_u32(1))
            for vm in vms:
                self._object.map("chosen").set(pack_u32(vm), pack_u32(snap))
            self._taker = lib.hs_taker_open(self._object.map("sights").fd, PAGES, ROOM)
            if self._taker == ffi.NULL:
                raise OSError(ffi.errno, f"capture: {os.strerror(ffi.errno)}")
            for name in PROGRAMS:
                self._object.attach(name)
        except OSError:
            self.close()
            raise

    def take(self, ms: int) -> Iterator[Sight]:
        """Wait so many milliseconds for packets; those that came. Raises OSError."""
        size = lib.hs_taker_take(self._taker, ms)
        if size < 0 and size != -errno.EINTR:
            check(int(size), "capture")
        data = memoryview(ffi.buffer(lib.hs_taker_bytes(self._taker), max(0, size)))
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 4], "little")
            yield _sight(data[at + 4 : at + 4 + length])
            at += 4 + (length + 3 & ~3)

    def decided(self, sight: Sight) -> Sight:
        """With what the classifier has decided of its flow by now, if it had yet to decide it when
        it was seen, as for a flow's first packet."""
        if sight.verdict or sight.flow is None:
            return sight
        value = self._object.map("flows").get(pack_key(sight.vm, sight.flow))
        if value is None:
            return sight
        flow = ffi.from_buffer("struct hs_flow *", value)
        if not flow.verdict:
            return sight
        return sight._replace(verdict=flow.verdict, route=flow.route, reply=bool(flow.reply))

    def lost(self) -> int:
        """Packets that could not be kept up with, since the start."""
        unseen = self._object.map("unseen").get(pack_u32(0)) or b""
        return int(lib.hs_taker_lost(self._taker)) + int.from_bytes(unseen, "little")

    def detach(self) -> None:
        """Look at no more packets; what was seen can still be taken. Twice is harmless."""
        self._object.detach()

    def close(self) -> None:
        """Twice is harmless."""
        self._object.close()
        if self._taker != ffi.NULL:
            lib.hs_taker_close(self._taker)
            self._taker = ffi.NULL


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
