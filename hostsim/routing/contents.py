# SPDX-License-Identifier: Apache-2.0
"""Names in the first bytes of a connection: TLS SNI, HTTP Host, DNS question. Pure.

Each parser takes what the initiator sent so far and returns the name in lower case, MORE if the
bytes so far could still become one, or NONE if they cannot. Nothing in the bytes is believed:
lengths are checked against what is there, and a name is a host name or it is NONE.
"""

import re
from typing import Final

MORE: Final = "?"
NONE: Final = ""
LIMIT = 16384
"""Bytes after which a parser gives up."""

_NAME = re.compile(
    rb"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_METHODS = tuple(b"GET HEAD POST PUT DELETE OPTIONS PATCH TRACE CONNECT".split())


class _Short(Exception):
    """More bytes are needed."""


class _Reader:
    """Takes bytes off the front; raises _Short if they are not there yet."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise _Short
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    @property
    def left(self) -> int:
        return len(self._data) - self._at


def sni(data: bytes) -> str:
    """The server name of a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3), over record borders."""
    if len(data) > LIMIT:
        return NONE
    handshake = b""
    reader = _Reader(data)
    try:
        while True:
            kind, major = reader.number(1), reader.number(1)
            if kind != 22 or major != 3:
                return NONE
            reader.take(1)
            length = reader.number(2)
            if not 0 < length <= 16384:
                return NONE
            whole = reader.left >= length
            handshake += reader.take(min(length, reader.left))
            found = _client_hello(handshake)
            if found != MORE or not whole:
                return found
    except _Short:
        return MORE


def _client_hello(data: bytes) -> str:
    reader = _Reader(data)
    try:
        if reader.number(1) != 1:
            return NONE
        hello = _Reader(reader.take(reader.number(3)))
    except _Short:
        return MORE
    try:
        hello.take(2 + 32)
        hello.take(hello.number(1))  # session
        hello.take(hello.number(2))  # cipher suites
        hello.take(hello.number(1))  # compression
        extensions = _Reader(hello.take(hello.number(2)))
        while extensions.left:
            kind = extensions.number(2)
            body = _Reader(extensions.take(extensions.number(2)))
            if kind != 0:
                continue
            names = _Reader(body.take(body.number(2)))
            while names.left:
                name_kind = names.number(1)
                name = names.take(names.number(2))
                if name_kind == 0:
                    return _checked(name)
    except _Short:  # the hello is whole, so its own lengths lie
        return NONE
    return NONE


def http_host(data: bytes) -> str:
    """The Host of an HTTP/1 request (RFC 9112 3.2); its port does not count."""
    if len(data) > LIMIT:
        return NONE
    line, end, rest = data.partition(b"\n")
    method, space, _ = line.partition(b" ")
    if not space:
        return MORE if any(known.startswith(method) for known in _METHODS) and not end else NONE
    if method not in _METHODS:
        return NONE
    if not end:
        return MORE
    if not line.rstrip(b"\r").endswith((b"HTTP/1.1", b"HTTP/1.0")):
        return NONE
    while True:
        line, end, rest = rest.partition(b"\n")
        if not end:
            return MORE
        line = line.rstrip(b"\r")
        if not line:
            return NONE
        key, _, value = line.partition(b":")
        if key.lower() == b"host":
            value = value.strip()
            return _checked(value if value.startswith(b"[") else value.partition(b":")[0])


def dns_name(data: bytes, tcp: bool = False) -> str:
    """The first question of a DNS query (RFC 1035 4.1); over TCP with its length in front."""
    reader = _Reader(data)
    try:
        if tcp:
            reader = _Reader(reader.take(reader.number(2)))
        reader.take(2)
        flags = reader.number(2)
        questions = reader.number(2)
        reader.take(6)
        if flags & 0xF800 or questions < 1:  # an answer, or not a standard query
            return NONE
        labels: list[bytes] = []
        while length := reader.number(1):
            if length > 63 or len(labels) > 127:  # a question's name is not compressed
                return NONE
            labels.append(reader.take(length))
        reader.take(4)
    except _Short:
        return MORE if tcp and len(data) < 2 + 512 else NONE
    return _checked(b".".join(labels))


def _checked(name: bytes) -> str:
    name = name.lower().removesuffix(b".")
    return name.decode("ascii") if len(name) <= 253 and _NAME.fullmatch(name) else NONE
