# SPDX-License-Identifier: Apache-2.0
"""Impaired links, one by one, in the map of impair.bpf.c; wraps impair.h."""

from dataclasses import dataclass

from cext._native import ffi, lib
from cext.bpf.objects import Map
from cext.switch.maps import pack_u32

IN: int = lib.HS_LINK_IN
OUT: int = lib.HS_LINK_OUT
ALL = 1 << 32
"""A share of all packets (HS_LINK_ALL)."""


@dataclass(frozen=True)
class Impaired:
    """What is done to the packets of one direction. loss, duplicate, corrupt, reorder: shares, 0 to
    1; delay, jitter: ns; rate: bit/s, 0 for as many as go."""

    seed: int
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    delay: int = 0
    jitter: int = 0
    rate: int = 0
    down: bool = False

    @property
    def timed(self) -> bool:
        """Whether packets are held back."""
        return bool(self.delay or self.jitter or self.rate)


@dataclass(frozen=True)
class Befell:
    """Packets of one direction since it was impaired: all, and those that something befell. groups,
    groups_lost: those of `packets` and of `lost` whose frame was to a group."""

    packets: int
    lost: int
    duplicated: int
    corrupted: int
    reordered: int
    late: int
    groups: int
    groups_lost: int


def write(
    links: Map, vm: int, direction: int, wanted: Impaired | None, by_line: bool = False
) -> None:
    """Impair a link anew, its packets numbered from 0; None: no longer. by_line: the line holds
    back what has to wait (switch/line.h). Raises OSError."""
    key = pack_u32(vm << 1 | direction)
    if wanted is None:
        links.delete(key)
        return
    value = ffi.new("struct hs_link *")
    value.seed = wanted.seed
    for name in ("loss", "duplicate", "corrupt", "reorder"):
        setattr(value, name, round(getattr(wanted, name) * ALL))
    value.delay, value.jitter, value.rate = wanted.delay, wanted.jitter, wanted.rate // 8
    value.flags = lib.HS_LINK_DOWN if wanted.down else 0
    if wanted.timed:
        value.flags |= lib.HS_LINK_TIMED | (lib.HS_LINK_LINE if by_line else 0)
    links.set(key, bytes(ffi.buffer(value)))


def read(links: Map, vm: int, direction: int) -> Befell:
    """What befell its packets. Raises OSError."""
    raw = links.get(pack_u32(vm << 1 | direction))
    if raw is None:
        return Befell(0, 0, 0, 0, 0, 0, 0, 0)
    one = ffi.from_buffer("struct hs_link *", raw)
    packets = one.packets + one.groups
    return Befell(
        packets,
        one.lost,
        one.duplicated,
        one.corrupted,
        one.reordered,
        one.late,
        one.groups,
        one.groups_lost,
    )
