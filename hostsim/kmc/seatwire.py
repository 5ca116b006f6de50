# SPDX-License-Identifier: Apache-2.0
"""The bytes of seatd's protocol, versions 0.7 to 0.9 (seatd, include/protocol.h). Pure.

A message is a header of two numbers, what it is and how many bytes follow, and these bytes; all in
the machine's own byte order, on a stream socket. An opened device's descriptor goes along with its
message (SCM_RIGHTS).

    Reader().feed(data) -> the whole messages so far     raises WireError: this is not the protocol
    seat_opened() ... error(number)                      what the server says, as bytes
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

SEAT = b"seat0\0"
"""The only seat there is, as libinput's default has it."""

PATH_MAX = 256
"""Bytes of a device's path with its last NUL (MAX_PATH_LEN)."""

DEVICES_MAX = 128
"""Devices that a client may have open (MAX_SEAT_DEVICES)."""

_HEADER = struct.Struct("=HH")
_NUMBER = struct.Struct("=i")
_LENGTH = struct.Struct("=H")

BODY_MAX = _LENGTH.size + PATH_MAX
"""No message of a client is longer, header apart."""


class Ask(IntEnum):
    """What a client sends."""

    OPEN_SEAT = 1
    CLOSE_SEAT = 2
    OPEN_DEVICE = 3
    CLOSE_DEVICE = 4
    DISABLE_SEAT = 5
    SWITCH_SESSION = 6
    PING = 7


class Say(IntEnum):
    """What the server sends. The clients of 0.7 know nothing of the two last but ERROR."""

    SEAT_OPENED = 0x8001
    SEAT_CLOSED = 0x8002
    DEVICE_OPENED = 0x8003
    DEVICE_CLOSED = 0x8004
    DISABLE_SEAT = 0x8005
    ENABLE_SEAT = 0x8006
    PONG = 0x8007
    SESSION_SWITCHED = 0x8008
    SEAT_DISABLED = 0x8009
    ERROR = 0xFFFF


class WireError(Exception):
    """What came is not the protocol; the text says why."""


@dataclass(frozen=True)
class Request:
    """One message of a client. path: of OPEN_DEVICE. number: of the device or the session."""

    ask: Ask
    path: str = ""
    number: int = 0


class Reader:
    """Puts one client's messages together. It holds less than one message between two calls."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[Request]:
        """The messages that are whole now, in order. Raises WireError; the client is then cut
        off."""
        self._data += data
        found: list[Request] = []
        while len(self._data) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._data)
            if size > BODY_MAX:
                raise WireError(f"a message of {size} bytes")
            end = _HEADER.size + size
            if len(self._data) < end:
                break
            found.append(_request(kind, self._data[_HEADER.size : end]))
            self._data = self._data[end:]
        return found


def _request(kind: int, body: bytes) -> Request:
    try:
        ask = Ask(kind)
    except ValueError:
        raise WireError(f"there is no message {kind}") from None
    if ask is Ask.OPEN_DEVICE:
        return Request(ask, _path(body))
    if ask in (Ask.CLOSE_DEVICE, Ask.SWITCH_SESSION):
        if len(body) != _NUMBER.size:
            raise WireError(f"{ask.name} of {len(body)} bytes")
        return Request(ask, number=_NUMBER.unpack(body)[0])
    if body:
        raise WireError(f"{ask.name} of {len(body)} bytes")
    return Request(ask)


def _path(body: bytes) -> str:
    if len(body) < _LENGTH.size + 2 or _LENGTH.unpack_from(body)[0] != len(body) - _LENGTH.size:
        raise WireError("OPEN_DEVICE of another length than its path")
    raw = body[_LENGTH.size :]
    if raw.find(b"\0") != len(raw) - 1:
        raise WireError("OPEN_DEVICE with a path that does not end where it says")
    return raw[:-1].decode("utf-8", "backslashreplace")


def seat_opened() -> bytes:
    """The client has the seat."""
    return _say(Say.SEAT_OPENED, _LENGTH.pack(len(SEAT)) + SEAT)


def device_opened(number: int) -> bytes:
    """The descriptor goes along."""
    return _say(Say.DEVICE_OPENED, _NUMBER.pack(number))


def error(number: int) -> bytes:
    """The request failed with this errno."""
    return _say(Say.ERROR, _NUMBER.pack(number))


def plain(say: Say) -> bytes:
    """Every other message: a header alone."""
    return _say(say)


def _say(say: Say, body: bytes = b"") -> bytes:
    return _HEADER.pack(say, len(body)) + body
