# SPDX-License-Identifier: Apache-2.0
"""A listening socket in an OS's /run, and how fast it is gone through.

Each connection costs the daemon some of its time, whatever is said on it, and one that begins anew
has broken no rule yet. So an OS has so many new ones a second; more wait in the kernel, where
connect(2) waits too once there is no more room. The others of the loop do not.
"""

import asyncio
import socket
import time
from collections.abc import Callable

from netns.rights import Closer

RATE, BURST = 20.0, 60.0
"""New connections a second of one OS, and how many at once."""

PAUSE = 0.1
"""Seconds without new connections while there were too many, or much is to be closed."""


class Bucket:
    """So many tokens a second, and at most a burst of them (token bucket)."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = burst
        self._seen = 0.0

    def take(self, now: float, count: int = 1) -> bool:
        """So many tokens at the time `now` (seconds, never backwards); False, and none is taken, if
        there are not so many."""
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate)
        self._seen = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True


class Door:
    """Gives each new connection, which does not block, to `enter`, in the loop that it is made in.
    Owns the listener until `close`."""

    def __init__(
        self, listener: socket.socket, closer: Closer, enter: Callable[[socket.socket], None]
    ) -> None:
        self._listener = listener
        self._closer = closer
        self._enter = enter
        self._bucket = Bucket(RATE, BURST)
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Who waits at the door is refused. Twice is harmless."""
        if self._listener.fileno() < 0:
            return
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listener)
        self._closer.close(self._listener)

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        if self._closer.busy or not self._bucket.take(time.monotonic()):
            self._loop.remove_reader(self._listener)
            self._again = self._loop.call_later(PAUSE, self._listen)
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        self._enter(sock)
