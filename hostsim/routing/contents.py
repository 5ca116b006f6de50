# SPDX-License-Identifier: Apache-2.0
"""Names in the first bytes of a connection: TLS SNI, HTTP Host, DNS question. Pure.

Each parser takes what the initiator sent so far and returns the name in lower case, MORE if the
bytes so far could still become one, NONE if no server finds one in them, or UNSURE if some server
may find one and another not, or another one. Nothing in the bytes is believed: lengths are checked
against what is there, and what is in a name's place but is no host name is UNSURE: a server with
names of its own for all of a domain takes it.
"""

import re
from typing import Final

MORE: Final = "?"
NONE: Final = ""
UNSURE: Final = "!"
LIMIT = 16384
"""Bytes after which a parser gives up."""

_NAME = re.compile(
    rb"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CLASSES = (1, 3, 4, 254, 255)  # of questions that servers answer (RFC 6895 3.2)
_HANDSHAKE = 22
_PASSED_OVER = (20, 21)  # records before a hello (ChangeCipherSpec, Alert), by some servers


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
            if kind != _HANDSHAKE or major != 3:
                return UNSURE if kind in _PASSED_OVER and major == 3 else NONE
            reader.take(1)
            length = reader.number(2)
            if not 0 < length <= 16384:
                return NONE if length else UNSURE
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
    """The host of a connection's first HTTP/1 request (RFC 9112 3.2): that of its target, if it
    has one, else its Host; a port does not count. As servers do, it passes over empty lines before
    the request, and takes any word for a method."""
    if len(data) > LIMIT:
        return NONE
    line, end, rest = data.lstrip(b"\r\n").partition(b"\n")
    words = line.split()
    method = _METHOD.match(line)
    if not method or not words:
        return NONE if line else MORE
    if method.end() < len(words[0]) or (end and len(words) < 3):
        return NONE
    if not end:
        return MORE
    version = words[-1].upper()
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        return UNSURE if version.startswith(b"HTTP/") else NONE
    asked, told = _target(words[0], words[1]), False
    while True:
        line, end, rest = rest.partition(b"\n")
        if not end:
            return asked if told else MORE
        if not line.rstrip(b"\r"):
            return asked
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"host":
            if key[:1].isspace() or rest[:1] in (b" ", b"\t"):  # parts of one line
                return UNSURE
            if not rest and not value.strip():
                return MORE  # the next line may be a part of it
            host = _host(value.strip())
            if asked != host and (told or asked != NONE):
                return UNSURE
            asked, told = host, True


def _target(method: bytes, target: bytes) -> str:
    """The host in a request's target, NONE if it is in none."""
    _, scheme, behind = target.partition(b"://")
    if scheme and not target.startswith(b"/"):
        return _host(re.split(rb"[/?#\\]", behind)[0].rpartition(b"@")[2])
    return _host(target) if method == b"CONNECT" else NONE


def _host(value: bytes) -> str:
    """Of a host and perhaps a port; an IPv6 address is no name."""
    return NONE if value.startswith(b"[") else _checked(value.partition(b":")[0])


def dns_name(data: bytes, tcp: bool = False) -> str:
    """The first question of a DNS query (RFC 1035 4.1); over TCP with its length in front, and as
    soon as the question is there."""
    reader = _Reader(data)
    size = 0
    try:
        if tcp:
            size = reader.number(2)
            reader = _Reader(reader.take(min(size, reader.left)))
        reader.take(2)
        flags = reader.number(2)
        questions = reader.number(2)
        reader.take(6)
        if flags & 0xF800 or questions < 1:  # an answer, or not a standard query
            return NONE
        labels: list[bytes] = []
        elsewhere = False
        while not elsewhere and (length := reader.number(1)):
            elsewhere = length >= 0xC0  # some servers look there
            if (length > 63 and not elsewhere) or len(labels) > 127:
                return NONE
            labels.append(reader.take(1 if elsewhere else length))
        reader.take(2)
        known = questions == 1 and reader.number(2) in _CLASSES
    except _Short:
        return MORE if tcp and len(data) < 2 + size else NONE
    text = b".".join(labels)
    name = NONE if len(text) > 253 else UNSURE if elsewhere else _checked(text)
    return NONE if name == UNSURE and not known else name  # other bytes look like this by chance


def _checked(name: bytes) -> str:
    """What is in a name's place: a host name, NONE if nothing is, else UNSURE."""
    name = name.lower().removesuffix(b".")
    if len(name) <= 253 and _NAME.fullmatch(name):
        return name.decode("ascii")
    return UNSURE if name else NONE
