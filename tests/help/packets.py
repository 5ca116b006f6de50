# SPDX-License-Identifier: Apache-2.0
"""A packet's block in a pcapng file, as the standard has it: what the writer in C is held against
(cext/sight/write.c)."""

import struct
from collections.abc import Iterable

from hostsim.capture import pcapng


def packet(
    number: int,
    time: int,
    frame: bytes,
    length: int,
    packet_id: int,
    options: Iterable[pcapng.Option],
) -> bytes:
    """number: of its interface, in the order of the file, from 0. length: of the whole frame."""
    head = struct.pack("<IIIII", number, time >> 32, time & 0xFFFFFFFF, len(frame), length)
    known = [(pcapng.PACKET_ID, struct.pack("<Q", packet_id)), *options]
    return pcapng.block(pcapng.PACKET, head + frame + bytes(-len(frame) % 4) + pcapng.padded(known))
