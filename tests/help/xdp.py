# SPDX-License-Identifier: Apache-2.0
"""Frames sent by an AF_XDP socket (Documentation/networking/af_xdp.rst): by copy, and so past every
queueing discipline and tc program of the interface. Nothing is loaded for it."""

import contextlib
import ctypes
import mmap
import socket
import struct
from collections.abc import Iterable

from cext.ns.netns import socket_at
from help.waiting import until

AF_XDP, SOL_XDP = 44, 283
XDP_TX_RING, XDP_UMEM_REG, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING = 3, 4, 5, 6
XDP_MMAP_OFFSETS = 1
XDP_COPY = 1 << 1
PGOFF_TX, PGOFF_COMPLETION = 0x80000000, 0x180000000
CHUNK, ENTRIES = 2048, 256


class Sender:
    """Of up to ENTRIES frames, out of a namespace's interface number `index`."""

    def __init__(self, netns_fd: int, index: int) -> None:
        self._socket = one = socket_at(netns_fd, AF_XDP, socket.SOCK_RAW)
        self._sent = 0
        self._memory = mmap.mmap(-1, CHUNK * ENTRIES)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        umem = struct.pack("=QQIIII", start, len(self._memory), CHUNK, 0, 0, 0)
        one.setsockopt(SOL_XDP, XDP_UMEM_REG, umem)
        for ring in (XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_TX_RING):
            one.setsockopt(SOL_XDP, ring, struct.pack("=I", ENTRIES))
        rings = struct.unpack("=16Q", one.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, 128))
        self._producer, _, self._descriptors, _ = rings[4:8]  # rx, tx, fill, completion
        self._made, _, addresses, _ = rings[12:16]
        self._tx = mmap.mmap(one.fileno(), self._descriptors + 16 * ENTRIES, offset=PGOFF_TX)
        self._done = mmap.mmap(one.fileno(), addresses + 8 * ENTRIES, offset=PGOFF_COMPLETION)
        bind(one, index)

    def send(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            at, self._sent = self._sent, self._sent + 1
            assert at < ENTRIES
            self._memory[at * CHUNK : at * CHUNK + len(frame)] = frame
            where = self._descriptors + 16 * at
            struct.pack_into("=QII", self._tx, where, at * CHUNK, len(frame), 0)
        struct.pack_into("=I", self._tx, self._producer, self._sent)
        until(self._all_sent, 10)

    def _all_sent(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self._socket.send(b"", socket.MSG_DONTWAIT)
        count: int = struct.unpack_from("=I", self._done, self._made)[0]
        return count == self._sent

    def close(self) -> None:
        self._tx.close()
        self._done.close()
        self._socket.close()


def bind(one: socket.socket, index: int) -> None:
    """Python knows no address of this family (struct sockaddr_xdp)."""
    address = struct.pack("=HHIII", AF_XDP, XDP_COPY, index, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.bind(one.fileno(), address, len(address)) != 0:
        raise OSError(ctypes.get_errno(), "bind of an AF_XDP socket")
