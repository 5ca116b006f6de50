# SPDX-License-Identifier: Apache-2.0
"""Links, addresses, routes, bridge ports and tc filters: netlink in batches (rtnetlink(7)).

The messages travel over a plain socket that lives in the namespace concerned, many to one send, and
every message is acknowledged. One `Rtnl` owns one socket. What is said of every VM or port is
packed (messages.py, tc.py), and sent by `pack`; the rest is compiled by pyroute2, and sent by
`batch`.

The only module that imports pyroute2's link API. It runs an event loop of its own inside every
call, which asyncio forbids in a thread that has one; so the messages are compiled in a thread kept
for that, one batch at a time. Its import is 40 % of all that a daemon imports (70 ms), and most
hosts come up without it: it is imported when first used, or by `load`, beside other work.
"""

import atexit
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from cext.ns.netns import socket_at
from netns import netlink, priority

if TYPE_CHECKING:
    from pyroute2 import IPBatch

_compiler = ThreadPoolExecutor(1, "netlink-compiler", initializer=priority.keep_up)
_batch: "_Compiled | None" = None
CHUNK_BYTES = 64 * 1024
"""Of one send: it must fit the socket's send buffer."""
CHUNK_MESSAGES = 192
"""Of one send: the acknowledgements of all wait in the socket before the first is read, and each
takes up to 1 KiB of its receive buffer, whose least on a stock kernel is 212,992 bytes."""


POUR_MESSAGES = 1000
"""Of one send by `pour`, each of up to 64 bytes."""


class Packs(Protocol):
    """Messages that need no compiling, in order."""

    def packed(self, message: bytes) -> None:
        """Adds one, packed and padded."""


class Batch(Packs, Protocol):
    """Messages of one batch, in order. Each method adds one, with the arguments that pyroute2's
    IPRoute has for it; command: `add`, `set`, `del` and so on."""

    def link(self, command: str, **what: Any) -> None: ...
    def addr(self, command: str, **what: Any) -> None: ...
    def route(self, command: str, **what: Any) -> None: ...
    def neigh(self, command: str, **what: Any) -> None: ...
    def fdb(self, command: str, **what: Any) -> None: ...
    def brport(self, command: str, **what: Any) -> None: ...
    def tc(self, command: str, kind: str | None = None, **what: Any) -> None: ...


Fill = Callable[[Batch], object]
"""Puts messages into the batch it is given."""
Pack = Callable[[Packs], object]
"""The same, if none needs compiling."""


class Rtnl:
    """rtnetlink in the namespace behind `netns_fd` (not kept; the caller still owns it)."""

    def __init__(self, netns_fd: int) -> None:
        self._socket = socket_at(netns_fd, socket.AF_NETLINK, socket.SOCK_RAW, 0)
        netlink.room(self._socket, 4 << 20)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Twice is harmless."""
        self._socket.close()

    def batch(self, fill: Fill, ignore: tuple[int, ...] = ()) -> None:
        """Send everything `fill` puts into the batch it is given, in order.

        Raises OSError with the first error whose number is not in `ignore`; later messages have
        been carried out all the same.
        """
        self.send(_compiler.submit(_compile, fill).result(), ignore)

    def pack(self, fill: Pack, ignore: tuple[int, ...] = ()) -> None:
        """`batch` of messages that need no compiling."""
        made = _Packed()
        fill(made)
        self.send(bytes(made.all), ignore)

    def send(self, raw: bytes, ignore: tuple[int, ...] = ()) -> None:
        """Send compiled messages, as `batch` does."""
        first: OSError | None = None
        for chunk, numbers in self._chunks(raw):
            self._socket.send(chunk)
            for error in self._acks(numbers):
                if error and error not in ignore and first is None:
                    first = OSError(error, f"netlink: {os.strerror(error)}")
        if first is not None:
            raise first

    def pour(self, messages: Sequence[bytes]) -> None:
        """Send many messages, each packed and padded, with number 0 and no wish for an answer: the
        kernel answers to the last of each chunk, and tells of what fails. Raises OSError with the
        first error; later messages have been carried out all the same."""
        first: OSError | None = None
        for at in range(0, len(messages), POUR_MESSAGES):
            self._sequence += 1
            *some, last = messages[at : at + POUR_MESSAGES]
            self._socket.send(b"".join(some) + netlink.acknowledged(last, self._sequence))
            ended = False
            while not ended:
                for kind, message in netlink.messages(self._socket.recv(1 << 20)):
                    number = netlink.sequence(message)
                    if kind != netlink.NLMSG_ERROR or number not in (0, self._sequence):
                        continue
                    error = netlink.error(message)
                    if error and first is None:
                        first = OSError(error, f"netlink: {os.strerror(error)}")
                    ended |= number == self._sequence
        if first is not None:
            raise first

    def links(self) -> list[Any]:
        """Every link of the namespace, as pyroute2 `ifinfmsg` messages."""
        from pyroute2.netlink.rtnl import RTM_GETLINK
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        message = ifinfmsg()
        self._sequence += 1
        message["header"]["type"] = RTM_GETLINK
        message["header"]["flags"] = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
        message["header"]["sequence_number"] = self._sequence
        message.encode()
        self._socket.send(bytes(message.data))
        marshal = MarshalRtnl()
        found: list[Any] = []
        while True:
            data = self._socket.recv(1 << 20)
            for part in marshal.parse(data, self._sequence):
                kind = part["header"]["type"]
                if kind == netlink.NLMSG_DONE:
                    return found
                if kind == netlink.NLMSG_ERROR:
                    raise OSError(errno.EIO, "netlink: the list of links was refused")
                found.append(part)

    def dump(self, kind: int) -> list[bytes]:
        """Every address (kind RTM_GETADDR) or route (RTM_GETROUTE) of the namespace, each as the
        kernel's message, header and all. Raises OSError."""
        self._sequence += 1
        any_family = bytes(16)  # ifaddrmsg or rtmsg
        return netlink.dump(self._socket, kind, any_family, self._sequence)

    def indices(self) -> dict[str, int]:
        """Interface index by name."""
        return {link.get_attr("IFLA_IFNAME"): link["index"] for link in self.links()}

    def _chunks(self, raw: bytes) -> list[tuple[bytes, range]]:
        """Split at message boundaries, number the messages and ask for their acknowledgement; each
        chunk's bytes and numbers."""
        chunks: list[tuple[bytes, range]] = []
        current, first = bytearray(), self._sequence + 1
        for _, message in netlink.messages(raw):
            full = len(current) + netlink.padded(len(message)) > CHUNK_BYTES
            if current and (full or self._sequence + 1 - first == CHUNK_MESSAGES):
                chunks.append((bytes(current), range(first, self._sequence + 1)))
                current, first = bytearray(), self._sequence + 1
            self._sequence += 1
            current += netlink.acknowledged(message, self._sequence)
        if current:
            chunks.append((bytes(current), range(first, self._sequence + 1)))
        return chunks

    def _acks(self, numbers: range) -> list[int]:
        """The errno of each acknowledgement, 0 for success, in order. One of an older batch, whose
        reading was broken off, is passed over."""
        errors: list[int] = []
        while len(errors) < len(numbers):
            errors += [
                netlink.error(message)
                for kind, message in netlink.messages(self._socket.recv(1 << 20))
                if kind == netlink.NLMSG_ERROR and netlink.sequence(message) in numbers
            ]
        return errors


def batch_in(netns_fd: int, fill: Fill, ignore: tuple[int, ...] = ()) -> None:
    """`Rtnl.batch` by a socket that is there for this one batch."""
    with contextlib.closing(Rtnl(netns_fd)) as rtnl:
        rtnl.batch(fill, ignore)


def pack_in(netns_fd: int, fill: Pack, ignore: tuple[int, ...] = ()) -> None:
    """`Rtnl.pack` by a socket that is there for this one batch."""
    with contextlib.closing(Rtnl(netns_fd)) as rtnl:
        rtnl.pack(fill, ignore)


def load() -> None:
    """Import pyroute2 now, so that the first batch need not wait for it."""
    import pyroute2  # noqa: F401


def _compile(fill: Fill) -> bytes:
    """In the compiler's thread. One IPBatch serves all: making one costs more than a message."""
    global _batch
    if _batch is None:
        from pyroute2 import IPBatch

        _batch = _Compiled(IPBatch())
        atexit.register(_batch.own.close)
    try:
        fill(_batch)
        return _batch.all()
    finally:
        _batch.own.reset()
        _batch.done.clear()


class _Packed:
    """A Packs."""

    def __init__(self) -> None:
        self.all = bytearray()

    def packed(self, message: bytes) -> None:
        self.all += message


class _Compiled:
    """A Batch: pyroute2's, and before what is in it now all that was there when something that
    needs no compiling came."""

    def __init__(self, own: "IPBatch") -> None:
        self.own = own
        self.done = bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def packed(self, message: bytes) -> None:
        if self.own.batch:
            self.done += self.own.batch
            self.own.reset()
        self.done += message

    def all(self) -> bytes:
        """In order."""
        return bytes(self.done + self.own.batch)
