# SPDX-License-Identifier: Apache-2.0
"""Packet memory and channels between VMs, from Python. Wraps ring/umem.h and ring/channel.h.

For setting channels up (the daemon makes them and hands the descriptors over) and for tests; a
network function uses `cext.port.port`, which moves batches without a Python object for each packet.
"""

from dataclasses import dataclass
from typing import Any, Literal

from cext import check
from cext._native import ffi, lib

Mode = Literal["isolated", "shared"]
MODES: dict[Mode, int] = {"isolated": lib.HS_ISOLATED, "shared": lib.HS_SHARED}
COUNTERS = (
    "bad_index",
    "bad_address",
    "bad_length",
    "bad_options",
    "bad_state",
    "no_frame",
    "full",
)
"""Names of enum hs_bad, in its order."""
assert len(COUNTERS) == lib.HS_COUNTERS


@dataclass(frozen=True)
class Shape:
    """What both ends must agree on. `ring` and `data` (bytes, isolated only) are powers of two."""

    mode: Mode = "isolated"
    ring: int = 2048
    data: int = 1 << 21
    max_len: int = 2048

    def native(self) -> Any:
        data = self.data if self.mode == "isolated" else 0
        return ffi.new(
            "struct hs_channel_shape *", (MODES[self.mode], self.ring, data, self.max_len)
        )


def make_region(size: int) -> int:
    """A sealed memfd of `size` bytes; the caller owns the descriptor. Raises OSError."""
    return check(lib.hs_region_make(b"hostsim-umem", size), "packet memory")


def make_channel(shape: Shape) -> int:
    """A sealed memfd that holds a channel; the caller owns the descriptor. Raises OSError."""
    return check(lib.hs_channel_make(shape.native()), "channel")


class Umem:
    """Frames, mapped. `fd` None: private memory; else a region of frames * frame_size bytes (the
    descriptor stays the caller's). This process starts with frames first .. first + count - 1.
    """

    def __init__(
        self,
        frames: int,
        frame_size: int = 2048,
        fd: int | None = None,
        first: int = 0,
        count: int | None = None,
    ) -> None:
        self.native = ffi.new("struct hs_umem *")
        owned = frames - first if count is None else count
        given = -1 if fd is None else fd
        check(
            lib.hs_umem_open(self.native, given, frames, frame_size, first, owned),
            "packet memory",
        )

    @property
    def free(self) -> int:
        """Own frames that nobody uses."""
        count: int = self.native.free_count
        return count

    def spread(self, max_len: int) -> None:
        """Packets of at most `max_len` bytes begin on different cache lines of their frames."""
        lib.hs_umem_spread(self.native, max_len)

    def close(self) -> None:
        """Unmap; every channel on it is closed before. Twice is harmless."""
        lib.hs_umem_close(self.native)


class Channel:
    """One end of a channel, over `umem`, which outlives it. `number` (1..63): unique in a umem."""

    def __init__(self, fd: int, shape: Shape, umem: Umem, *, sender: bool, number: int = 1) -> None:
        self.native = ffi.new("struct hs_channel *")
        self.umem = umem
        self.isolated = shape.mode == "isolated"
        check(
            lib.hs_channel_open(self.native, fd, shape.native(), umem.native, number, sender),
            "channel",
        )

    def send(self, packets: list[bytes]) -> int:
        """Send copies of `packets`, in order; how many were taken (room, and free frames)."""
        umem = self.umem.native
        lib.hs_channel_reclaim(self.native)
        count = min(len(packets), umem.free_count)
        batch = ffi.new("struct xdp_desc[]", max(count, 1))
        for i in range(count):
            assert len(packets[i]) <= umem.frame_size, len(packets[i])
            batch[i].addr = lib.hs_umem_take(umem)
            batch[i].len = len(packets[i])
            ffi.memmove(umem.base + batch[i].addr, packets[i], len(packets[i]))
        taken: int = lib.hs_channel_send(self.native, batch, count)
        for i in range(0 if self.isolated else taken, count):
            lib.hs_umem_give(umem, batch[i].addr)
        return taken

    def recv(self, most: int) -> list[bytes]:
        """Up to `most` packets, copied out; their frames have gone back."""
        umem = self.umem.native
        batch = ffi.new("struct xdp_desc[]", most)
        count = lib.hs_channel_recv(self.native, batch, most)
        packets = [bytes(ffi.buffer(umem.base + batch[i].addr, batch[i].len)) for i in range(count)]
        if self.isolated:
            for i in range(count):
                lib.hs_umem_give(umem, batch[i].addr)
        else:
            addresses = ffi.new("uint64_t[]", [batch[i].addr for i in range(count)])
            returned = lib.hs_channel_return(self.native, addresses, count)
            assert returned == count, "a peer that never reclaims: use cext.port.port"
        return packets

    def counters(self) -> dict[str, int]:
        """Losses and refusals by name, see enum hs_bad."""
        return dict(zip(COUNTERS, self.native.counters, strict=True))

    def close(self) -> None:
        """Unmap. Twice is harmless."""
        lib.hs_channel_close(self.native)
