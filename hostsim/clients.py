# SPDX-License-Identifier: Apache-2.0
"""The clients of the control socket: how many there may be, and what one may send.

Whoever connects and says nothing, says half of something, or does not read what it asked for, costs
some memory, a descriptor and a place in the queues of questions (asides.py). So each process has so
many connections, all together have so many, and who has most gives way: its oldest connection ends,
if it has had time to ask something and nothing that it asked is unanswered. If there is none such,
the new one is refused, and asks again (cli/client.py). Half a request waits for its end for so
long, and few long ones come at a time, since they cost memory while they come.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

EACH = 16
"""Connections of one process."""
MOST = 128
"""Connections of all."""
SHORT = 64 << 10
"""Bytes of a request's line that everybody may send at any time."""
LONG = 4
"""Longer ones at a time."""
GRACE = 1.0
"""Seconds that a connection has to ask something before it ends for another one."""
WHOLE = 10.0
"""Seconds from a request's first byte, or from a long one's turn, to its end."""
CHUNK = 64 << 10
_CREDENTIALS = struct.Struct("iII")


@dataclass
class _Client:
    """A connection. end: ends it; since: when it came, or had its last answer; busy: something that
    it asked is not answered yet."""

    owner: int
    end: Callable[[], object]
    since: float
    busy: bool = False
    ending: bool = False


@dataclass
class Clients:
    """Who is connected, the oldest first. A number names each."""

    most: int = MOST
    each: int = EACH
    clock: Callable[[], float] = time.monotonic
    _all: dict[int, _Client] = field(default_factory=dict)
    _last: int = 0

    def __len__(self) -> int:
        return sum(not one.ending for one in self._all.values())

    def enter(self, owner: int, end: Callable[[], object]) -> int | None:
        """One more connection of a process; its number. None: there is no room for it."""
        if self._count(owner) >= self.each and not self._push_out(owner):
            return None
        if len(self) >= self.most:
            owners = {one.owner for one in self._all.values()}
            if not any(map(self._push_out, sorted(owners, key=self._count, reverse=True))):
                return None
        self._last += 1
        self._all[self._last] = _Client(owner, end, self.clock())
        return self._last

    def leave(self, number: int) -> None:
        """A connection has ended. One that is not known is no error."""
        self._all.pop(number, None)

    @contextlib.contextmanager
    def answering(self, number: int) -> Iterator[None]:
        """Meanwhile, something that a connection asked is not answered yet."""
        self.busy(number, True)
        try:
            yield
        finally:
            self.busy(number, False)

    def end_idle(self) -> None:
        """End all that wait for no answer."""
        for one in self._all.values():
            if not one.busy:
                one.end()

    def busy(self, number: int, busy: bool) -> None:
        """Whether something that it asked is not answered yet."""
        self._all[number].busy = busy
        self._all[number].since = self.clock()

    def _count(self, owner: int) -> int:
        return sum(one.owner == owner and not one.ending for one in self._all.values())

    def _push_out(self, owner: int) -> bool:
        """End the oldest of a process that may be ended. Whether there was one."""
        latest = self.clock() - GRACE
        for one in self._all.values():
            if one.owner == owner and not one.busy and not one.ending and one.since <= latest:
                one.ending = True
                one.end()
                return True
        return False


class TooLong(ValueError):
    """A request that is longer than any may be."""


class Requests:
    """One connection's requests. reader: with a limit of CHUNK; turns: of all connections, LONG of
    them; most: bytes of a request."""

    def __init__(self, reader: asyncio.StreamReader, turns: asyncio.Semaphore, most: int) -> None:
        self._reader = reader
        self._turns = turns
        self._most = most
        self._data = bytearray()

    async def next(self) -> bytes:
        """The next line; what is left at the end of the connection is one. Empty: it has ended.
        Raises TooLong, and TimeoutError if the rest does not come."""
        if not self._data and not await self._more():
            return b""
        async with asyncio.timeout(WHOLE):
            end = await self._end(SHORT)
        if end is None:
            async with self._turns, asyncio.timeout(WHOLE):
                end = await self._end(self._most)
        if end is None:
            raise TooLong
        line = bytes(self._data[:end])
        del self._data[:end]
        return line

    def close(self) -> None:
        """Let go of what has come."""
        self._data.clear()

    async def _end(self, most: int) -> int | None:
        """Where the line ends; None if not within so many bytes."""
        seen = 0
        while (found := self._data.find(b"\n", seen)) < 0:
            seen = len(self._data)
            if seen > most:
                return None
            if not await self._more():
                return seen
        return found + 1

    async def _more(self) -> bool:
        """Wait for more. Whether there is."""
        chunk = await self._reader.read(CHUNK)
        self._data += chunk
        return bool(chunk)


def process_of(writer: asyncio.StreamWriter) -> int:
    """The process that connected (SO_PEERCRED, unix(7))."""
    own = writer.get_extra_info("socket")
    raw = own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[0])
