# SPDX-License-Identifier: Apache-2.0
"""How large the frames of packet functions are, and how many each has. No I/O.

    shape(mtus) -> Frames    of a host whose functions have these MTUs

All functions of a host have the same, since any two may share theirs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cext.ring.channel import Shape
from hostsim.model import BESIDE, MTU

RING = 1024
"""Descriptors of a channel."""


@dataclass(frozen=True, order=True)
class Frames:
    """size: bytes of a frame, a power of two; count: of one process; data: bytes of an isolated
    channel."""

    size: int
    count: int
    data: int

    def isolated(self, mtu: int) -> Shape:
        """A channel that is copied through, for packets of at most so many bytes."""
        return Shape("isolated", ring=RING, data=self.data, max_len=mtu + BESIDE)

    def shared(self, mtu: int) -> Shape:
        """A channel over one umem, likewise."""
        return Shape("shared", ring=RING, max_len=mtu + BESIDE)


USUAL = Frames(2048, 4096, 1 << 19)
JUMBO = Frames(16384, 2048, 1 << 21)
"""For an MTU of up to 9000: a frame holds what the kernel puts before a packet, and the packet."""


def shape(mtus: Iterable[int]) -> Frames:
    """See above."""
    return USUAL if all(mtu <= MTU for mtu in mtus) else JUMBO
