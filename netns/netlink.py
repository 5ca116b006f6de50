# SPDX-License-Identifier: Apache-2.0
"""Netlink messages as bytes (netlink(7)): packed, walked, and their attributes.

For the few messages that pyroute2 need not compile; links.py has it parse the answers it compiled
the question for.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
NLMSG_ERROR = 2
NLMSG_DONE = 3
SO_RCVBUFFORCE = 33
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_TYPE = 0x3FFF  # NLA_TYPE_MASK


def pack(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message, without the padding that is due before a next one."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def pad(message: bytes) -> bytes:
    """The message with the padding that is due before a next one."""
    return message.ljust(padded(len(message)), b"\0")


def acknowledged(message: bytes, sequence: int) -> bytes:
    """A message with a number of its own that asks for its acknowledgement, padded."""
    _, kind, flags, _, _ = HEADER.unpack_from(message)
    return pad(pack(kind, flags | NLM_F_ACK, sequence, message[HEADER.size :]))


def padded(length: int) -> int:
    """Where the next message or attribute begins (NLMSG_ALIGN, NLA_ALIGN)."""
    return (length + 3) & ~3


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and whole bytes, header and all, of each message that the kernel sent."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, _, _, _ = HEADER.unpack_from(data, at)
        yield kind, data[at : at + length]
        at += padded(max(length, HEADER.size))


def sequence(message: bytes) -> int:
    """The number of the request that a message answers."""
    _, _, _, number, _ = HEADER.unpack_from(message)
    return int(number)


def room(sock: socket.socket, size: int) -> None:
    """Let so many bytes wait in the socket. Without CAP_NET_ADMIN in the socket's namespace it is
    net.core.rmem_max at most."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def error(message: bytes) -> int:
    """The errno of an NLMSG_ERROR, 0 for an acknowledgement."""
    (code,) = struct.unpack_from("=i", message, HEADER.size)
    return -int(code)


def dump(sock: socket.socket, kind: int, body: bytes, sequence: int = 1) -> list[bytes]:
    """Ask for a list (NLM_F_DUMP): every answer, header and all. Raises OSError."""
    sock.send(pack(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body))
    found: list[bytes] = []
    while True:
        for answer, message in messages(sock.recv(1 << 20)):
            if answer == NLMSG_DONE:
                return found
            if answer == NLMSG_ERROR:
                number = error(message) or errno.EIO
                raise OSError(number, f"netlink: {os.strerror(number)}")
            found.append(message)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, with the padding that is due before a next one."""
    length = _ATTRIBUTE.size + len(value)
    return (_ATTRIBUTE.pack(length, kind) + value).ljust(padded(length), b"\0")


def attributes(message: bytes, head: int) -> dict[int, bytes]:
    """A message's attributes by type; head: bytes of header and family header before them."""
    found: dict[int, bytes] = {}
    at = head
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE] = message[at + _ATTRIBUTE.size : at + length]
        at += padded(length)
    return found
