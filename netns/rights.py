# SPDX-License-Identifier: Apache-2.0
"""Descriptors that come along with a message though nobody asked for any (unix(7), SCM_RIGHTS).

The last close of some files takes the kernel its time: a packet socket waits until no CPU is in the
middle of a packet, 17 ms each seen, and one message may bring 253 of them. Whoever receives such a
message, or closes a socket in which it waits, has them closed before the call returns. So nobody
who must not wait does either of the two if others send what they like:

    refuse(socket)         the kernel takes no descriptors on their way to it (SO_PASSRIGHTS, Linux
                           6.16; a connection has it from its listener); True: then all below is as
                           quick as recv(2) and close(2)
    closer = Closer(quick) quick: what `refuse` said
    closer.receive(...)    a message, and whether descriptors came along
    closer.close(socket)
    closer.busy            there is so much to close that no more connections should be taken
"""

import array
import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial

SO_PASSRIGHTS = 83  # asm-generic/socket.h
SCM_MAX = 253
"""Descriptors of one message: the kernel's limit."""
BUSY = 8
"""Things that wait to be closed."""


def refuse(sock: socket.socket) -> bool:
    """See above. Whether this kernel can."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def taken(rights: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that recvmsg(2) told of."""
    found = array.array("i")
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


class Closer:
    """See above. Its thread begins with the first thing to close, and keeps no process alive."""

    def __init__(self, quick: bool) -> None:
        self._quick = quick
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._left = 0  # to close, with the one in hand
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        return self._left >= BUSY

    @property
    def idle(self) -> bool:
        """Whether all is closed."""
        return self._left == 0

    def receive(self, sock: socket.socket, most: int) -> tuple[bytes, bool]:
        """Of at most so many bytes. Raises OSError."""
        room = socket.CMSG_SPACE(SCM_MAX * array.array("i").itemsize)
        data, rights, flags, _ = sock.recvmsg(most, room, socket.MSG_CMSG_CLOEXEC)
        fds = taken(rights)
        self.shed(fds)
        return data, bool(fds or flags & socket.MSG_CTRUNC)

    def shed(self, fds: Sequence[int]) -> None:
        if fds:
            self._do(partial(close, fds))

    def close(self, sock: socket.socket) -> None:
        """Twice is harmless."""
        if self._quick:
            sock.close()
        else:
            self._do(sock.close)

    def _do(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._left += 1
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="closer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            finally:
                with self._lock:
                    self._left -= 1
