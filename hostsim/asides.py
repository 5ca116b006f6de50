# SPDX-License-Identifier: Apache-2.0
"""Questions that take long: a child of the daemon answers them, beside its loop.

    asides = Asides()
    ended = await asides.answer(messages, connection)

A table of 100,000 flows takes seconds to read and to put into words; meanwhile the daemon has flips
to make. So it forks (fork(2)): the child has everything as it was at that instant, which is also
the one way to see many things as of one time, and writes its messages to the connection by itself,
as fast as whoever asked reads them. It has the priority of any program, is told nothing, changes
nothing, and is killed at the deadline or when the host goes down.

The child lives with one thread of the several that there were: what it runs takes no lock.
"""

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterable
from typing import Any

from hostsim import protocol
from hostsim.errors import HostsimError, reason
from hostsim.stalls import Stalls

MOST = 2
"""Children at a time that give long answers; the next question waits."""
QUICK = 4
"""Children at a time that give quick ones: they wait for no long one."""
DEADLINE = 80.0
"""Seconds for one answer; the client waits for 90."""
QUICK_DEADLINE = 20.0
"""Seconds for a quick one, with the reading of it."""
PATIENCE = 10.0
"""Seconds in which one message of an answer has to be read: who does not keeps a place."""
AGAIN = 3
"""Exit status: nothing was written, ask again."""
GONE = 4
"""Exit status: whoever asked reads no more."""

Messages = Callable[[], Iterable[dict[str, Any]]]
"""What the child says, one after the other. It may raise HostsimError, and Again as the first
thing."""


class Again(Exception):
    """Not settled yet; the question is put again."""


class _Gone(Exception):
    """Whoever asked reads no more."""


class Asides:
    """The children of one daemon. All methods run in its loop, whose selector `stalls` is."""

    def __init__(self, stalls: Stalls) -> None:
        self._stalls = stalls
        self._free = asyncio.Semaphore(MOST)
        self._quick = asyncio.Semaphore(QUICK)
        self._running: dict[int, int] = {}  # pid by pidfd

    async def answer(self, messages: Messages, connection: int, quick: bool = False) -> int:
        """Have a child write these messages to a connected socket, which stays the caller's and is
        nobody else's meanwhile. quick: it reads no table of flows. The child's exit status: 0,
        AGAIN, GONE, or -N if signal N ended it in the middle of its answer."""
        async with self._quick if quick else self._free:
            with self._stalls.doing("fork"):
                handle = self._begin(messages, connection)
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(handle, ended.set)
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), QUICK_DEADLINE if quick else DEADLINE)
            finally:
                loop.remove_reader(handle)
                status = self._reap(handle)
            return status

    def _begin(self, messages: Messages, connection: int) -> int:
        pid = os.fork()
        if pid == 0:
            _child(messages, connection)
        handle = os.pidfd_open(pid)
        self._running[handle] = pid
        return handle

    def kill(self) -> None:
        """End all of them: who waits for one hears of it."""
        for handle in self._running:
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    def _reap(self, handle: int) -> int:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)  # one that has ended does not mind
        _, status = os.waitpid(self._running.pop(handle), 0)
        os.close(handle)
        return os.waitstatus_to_exitcode(status)


def _child(messages: Messages, connection: int) -> None:
    """Does not return."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        gc.disable()
        _let_go_of_devices()
        try:
            status = _say(messages, connection)
        except _Gone:
            status = GONE
    finally:
        os._exit(status)


def _say(messages: Messages, connection: int) -> int:
    """The exit status. Raises _Gone."""
    try:
        for message in messages():
            _send(connection, protocol.encode(message))
    except Again:
        return AGAIN
    except _Gone:
        raise
    except HostsimError as error:
        _send(connection, protocol.encode(protocol.failure(error)))
    except Exception as error:
        told = HostsimError("the daemon", reason(error), "this is a fault of hostsim")
        _send(connection, protocol.encode(protocol.failure(told)))
    return 0


def _let_go_of_devices() -> None:
    """A device that the daemon closes is closed, whatever the child still does."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(int(name)).st_mode) and int(name) > 2:
                os.close(int(name))


def _send(connection: int, data: bytes) -> None:
    """All of it, to a socket that does not block. Raises _Gone if it is not read in time."""
    end = time.monotonic() + PATIENCE
    with socket.socket(fileno=os.dup(connection)) as out:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[out.send(rest) :]
            except BlockingIOError:
                if not select.select([], [out], [], max(0.0, end - time.monotonic()))[1]:
                    raise _Gone from None
            except ConnectionError:
                raise _Gone from None
