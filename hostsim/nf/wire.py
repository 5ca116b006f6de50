# SPDX-License-Identifier: Apache-2.0
"""The messages between the daemon and a network function's process, and how they travel.

A SOCK_SEQPACKET socket, the process's descriptor 0. One datagram is one message: a JSON object
whose `do` is the message's name, with descriptors beside it (SCM_RIGHTS, unix(7)):

    daemon -> NF   open       what it is to be        [rules, tally, umem, tap, kept?, settings]
    NF -> daemon   loaded     it has its function and its memory
    daemon -> NF   begin      perhaps much later, in place of one that has died [AF_XDP socket]
    NF -> daemon   ready      it has opened eth0 with that
    daemon -> NF   neighbour  rings to another         [out, in, bell to read, bell to ring]
                   forget     no more rings to it
                   change     be this from now on      [kept?, settings]
                   ask        answered by
    NF -> daemon   counters   what its port and the function counted

`kept` is there if the settings say that the function keeps something.

The VM's user 0 may write to the function's end: the daemon believes nothing but what `decode`
checks, and closes descriptors that it did not ask for. The end of the socket is the end of the
function.
"""

import array
import contextlib
import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from cext.ring.channel import MODES, Shape
from netns import rights

MESSAGE_MAX = 64 * 1024
FDS_MAX = 8
COUNTERS_MAX = 256
"""Counters that one function may have."""
_COUNTER = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


class WireError(ValueError):
    """A datagram that is no message; the text says why."""


@dataclass(frozen=True)
class Open:
    """What the process is to be. rules, tally: entries of the two tables. frames: of the shared
    umem, of frame_size bytes each; the process begins with `own` of them from `first` on."""

    nf: str
    folder: str
    rules: int
    tally: int
    frames: int
    frame_size: int
    first: int
    own: int


@dataclass(frozen=True)
class Loaded:
    """The process has its function and its memory."""


@dataclass(frozen=True)
class Begin:
    """It is to open eth0, with the AF_XDP socket that comes along."""


@dataclass(frozen=True)
class Ready:
    """It has."""


@dataclass(frozen=True)
class Neighbour:
    """Rings to VM number `vm`, of this shape."""

    vm: int
    shape: Shape


@dataclass(frozen=True)
class Forget:
    """VM number `vm` has no rings to it any more."""

    vm: int


@dataclass(frozen=True)
class Change:
    """It is this shipped function from now on, with the settings that come along. Its port stays,
    with all that is in it."""

    nf: str


@dataclass(frozen=True)
class Ask:
    """It is to say what it counted."""


@dataclass(frozen=True)
class Counters:
    """What its port and its function counted, by name."""

    counters: Mapping[str, int]


Message = Open | Loaded | Begin | Ready | Neighbour | Forget | Change | Ask | Counters
KINDS: dict[str, type[Message]] = {
    "open": Open,
    "loaded": Loaded,
    "begin": Begin,
    "ready": Ready,
    "neighbour": Neighbour,
    "forget": Forget,
    "change": Change,
    "ask": Ask,
    "counters": Counters,
}
NAMES = {kind: name for name, kind in KINDS.items()}
M = TypeVar("M", Loaded, Ready, Counters)


def encode(message: Message) -> bytes:
    """Raises ValueError if the message is too long."""
    data = json.dumps({"do": NAMES[type(message)], **asdict(message)}).encode()
    if len(data) > MESSAGE_MAX:
        raise ValueError(f"a message of {len(data)} bytes; {MESSAGE_MAX} are allowed")
    return data


def decode(data: bytes) -> Message:
    """Raises WireError, whatever the bytes are."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("do"), str):
        raise WireError("not a message")
    kind = KINDS.get(found.pop("do"))
    if kind is None:
        raise WireError("no such message")
    known = {field.name: field.type for field in fields(kind)}
    if found.keys() != known.keys():
        raise WireError(f"a message of {sorted(found)}")
    return kind(**{name: _checked(name, value, known[name]) for name, value in found.items()})


def _checked(name: str, value: Any, wanted: Any) -> Any:
    """A field of a message. Raises WireError."""
    if wanted is int and type(value) is int and 0 <= value < 1 << 32:
        return value
    if wanted is str and isinstance(value, str):
        return value
    if wanted is Shape and isinstance(value, dict) and value.keys() == asdict(Shape()).keys():
        numbers = (value["ring"], value["data"], value["max_len"])
        if value["mode"] in MODES and all(type(one) is int for one in numbers):
            return Shape(value["mode"], *numbers)
    if name == "counters" and isinstance(value, dict) and len(value) <= COUNTERS_MAX:
        counts = all(type(count) is int and 0 <= count < 1 << 64 for count in value.values())
        if counts and all(map(_COUNTER.fullmatch, value)):
            return value
    raise WireError(f"{name} is not allowed")


def expect(message: Message | None, kind: type[M]) -> M:
    """The message, which must be of this kind. Raises WireError; `None` is the other end's end."""
    if not isinstance(message, kind):
        raise WireError(f"{NAMES[kind]} was due, and {message} came")
    return message


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """The descriptors stay the caller's. An end that is closed is no error: it is seen elsewhere.
    Raises BlockingIOError if the other end has let too much wait."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        # Not socket.send_fds, which leaves the flags out.
        sock.sendmsg([encode(message)], rights, socket.MSG_DONTWAIT)


def receive(
    sock: socket.socket, shed: Callable[[Sequence[int]], None] = rights.close
) -> tuple[Message | None, list[int]]:
    """A message and its descriptors, which are the caller's; None: the other end is closed. shed:
    closes those of what is no message. Raises WireError, with no descriptor left open."""
    try:
        # Not socket.recv_fds, which leaves the flags out.
        size = socket.CMSG_SPACE(rights.SCM_MAX * array.array("i").itemsize)
        data, beside, flags, _ = sock.recvmsg(MESSAGE_MAX, size, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # it has ended, with something unread
        return None, []
    fds = rights.taken(beside)
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) > FDS_MAX:
            raise WireError("too long")
        message = decode(data) if data else None
    except WireError:
        shed(fds)
        raise
    if message is None:
        shed(fds)
        return None, []
    return message, fds


close = rights.close
"""Descriptors that came and are not wanted."""
