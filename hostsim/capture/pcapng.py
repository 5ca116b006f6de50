# SPDX-License-Identifier: Apache-2.0
"""The blocks of a pcapng file (IETF draft-ietf-opsawg-pcapng), little-endian. Pure.

A file is a section header, and then interfaces, packets and statistics in any order: whoever is
killed between two blocks leaves a file that is whole. Times are nanoseconds since 1970.
"""

import struct
from collections.abc import Iterable

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
LEAST = 12
"""Bytes of a block."""
ETHERNET = 1
COMMENT = 1
PACKET_ID = 5
CUSTOM_TEXT = 2988  # UTF-8; may be copied to another file
ENTERPRISE = 32473
"""A private enterprise number that nobody has: RFC 5612 keeps it for examples."""

Option = tuple[int, bytes]


def custom(text: str) -> Option:
    """A custom option."""
    return CUSTOM_TEXT, struct.pack("<I", ENTERPRISE) + text.encode()


def comment(text: str) -> Option:
    return COMMENT, text.encode()


def padded(options: Iterable[Option]) -> bytes:
    """The options of a block, with their end; nothing if there are none."""
    parts = [
        struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
        for code, value in options
    ]
    return b"".join(parts) + bytes(4) if parts else b""


def block(kind: int, body: bytes) -> bytes:
    """A whole block of these contents."""
    length = 12 + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def section(application: str) -> bytes:
    body = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    return block(SECTION, body + padded([(4, application.encode())]))


def interface(name: str, description: str, snap: int) -> bytes:
    """snap: bytes of a packet at most."""
    options = [(2, name.encode()), (3, description.encode()), (9, b"\x09")]
    return block(INTERFACE, struct.pack("<HHI", ETHERNET, 0, snap) + padded(options))


def statistics(number: int, time: int, received: int, dropped: int) -> bytes:
    """What an interface has seen since the start, and what of it is not in the file."""
    body = struct.pack("<III", number, time >> 32, time & 0xFFFFFFFF)
    counts = [(4, struct.pack("<Q", received)), (5, struct.pack("<Q", dropped))]
    return block(STATISTICS, body + padded(counts))
