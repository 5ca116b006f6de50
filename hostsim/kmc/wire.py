# SPDX-License-Identifier: Apache-2.0
"""The messages between an OS's agent and the KMC: encode and decode, pure. Their numbers are those
of cext/input/wire.h, which the C ends include.

A SOCK_SEQPACKET socket at /run/hostsim/agent.sock, of which each OS has its own: whom a message
comes from is known by the socket it came through, never by what it says. One datagram is one
message: a header of 8 bytes (magic, version, type, sequence number; native byte order, for both
ends are on one machine), then a body of at most BODY_MAX bytes of UTF-8. An answer carries the
sequence number of what it answers; an event carries 0.

    agent -> KMC   HELLO     this is the OS's resident agent
                   FLIP      body: the OS that is to be foreground
                   NEXT      the same for the next OS in order
                   STATUS    who is foreground?
                   WATCH     send EVENTs from now on
                   RELEASED  answers RELEASE: the OS is ready to lose the equipment
                   BEAT      answers PING
    KMC -> agent   RELEASE   be ready to lose the equipment; body: the deadline in milliseconds
                   STATE     body: the OS's state now
                   PING      are you there?
                   OK        body: a JSON document
                   ERROR     body: what, why and hint, between NULs
                   EVENT     body: a JSON document

The KMC's side answers a message it cannot decode, or that is not for it, by closing the connection.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

PATH = "/run/hostsim/agent.sock"
NAME = "agent.sock"
MAGIC = b"hA"
VERSION = 1
HEADER = struct.Struct("=2sBBI")
BODY_MAX = 4096
SIZE_MAX = HEADER.size + BODY_MAX


class Type(IntEnum):
    """What a message is."""

    HELLO = 1
    FLIP = 2
    NEXT = 3
    STATUS = 4
    WATCH = 5
    RELEASED = 6
    BEAT = 7
    RELEASE = 16
    STATE = 17
    PING = 18
    OK = 19
    ERROR = 20
    EVENT = 21


@dataclass(frozen=True)
class Message:
    """One message. sequence: 0 to 2^32 - 1."""

    type: Type
    sequence: int = 0
    body: str = ""


class WireError(ValueError):
    """A datagram that is no message; the text says why."""


def encode(message: Message) -> bytes:
    """Raises ValueError if the body is too long."""
    body = message.body.encode()
    if len(body) > BODY_MAX:
        raise ValueError(f"a body of {len(body)} bytes; {BODY_MAX} are allowed")
    return HEADER.pack(MAGIC, VERSION, message.type, message.sequence) + body


def decode(data: bytes) -> Message:
    """Raises WireError, whatever the bytes are."""
    if len(data) > SIZE_MAX:
        raise WireError("too long")
    if len(data) < HEADER.size:
        raise WireError("too short")
    magic, version, kind, sequence = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise WireError("not a message of this version")
    try:
        return Message(Type(kind), sequence, data[HEADER.size :].decode())
    except ValueError as error:  # no such type, or no UTF-8
        raise WireError(str(error)) from None


def error(sequence: int, what: str, why: str, hint: str = "") -> Message:
    """An ERROR, cut to size."""
    parts = (part.replace("\0", " ")[:600] for part in (what, why, hint))
    return Message(Type.ERROR, sequence, "\0".join(parts))


def error_parts(message: Message) -> tuple[str, str, str]:
    """What, why and hint of an ERROR."""
    what, why, hint, *_ = (*message.body.split("\0"), "", "", "")
    return what, why, hint
