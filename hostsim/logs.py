# SPDX-License-Identifier: Apache-2.0
"""What programs in VMs write: kept in a file for each VM, the newest bytes of it, and no more.

    logs = Logs(folder)
    fd = logs.writer("fw", 8 << 20)     a pipe: the program's stdout and stderr; the caller's
    logs.last_line("fw")
    logs.last_line("fw", number_of(fd))     of what came by that pipe

A program writes into a pipe. One thread reads all of them and appends to the VM's newest file; when
that has half of the VM's size, it takes the place of the former one (logfiles.py). So the two never
have more than that size, whatever a program writes and however fast: one that writes faster than
the thread reads waits in its own write(2), and costs the machine a bounded share of a core.
"""

import contextlib
import errno
import fcntl
import logging
import os
import select
import threading
from pathlib import Path

from hostsim import logfiles
from netns import priority

log = logging.getLogger("hostsim.logs")

CHUNK = 64 << 10
"""Bytes taken out of one pipe at a time: what it holds (pipe(7))."""
TURN = 16
"""Pipes that are looked at in one turn."""
PAUSE = 0.004
"""Seconds between two turns while some pipe is full: 16 MB/s for one program, 256 MB/s for all."""
PIPES = 8
"""Of one VM: what a program left running may hold one, and so may the one that came after it."""
TIOCGPTPEER = 0x5441
"""ioctl_tty(2): opens a terminal's other end."""
LINE_MAX = 4096
"""Bytes at the end of a log that are looked at for its last lines."""
PATIENCE = 0.1
"""Seconds that `last_line` waits for the thread at most."""


class Log:
    """One VM's file. Every method but `path` is called with `lock` held."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.pipes: list[int] = []
        self._said: dict[int, bytes] = {}
        """By number, the end of what came by a pipe, open or not: of those with the newest."""
        self.peers: dict[int, int] = {}
        """Of a pipe that is a terminal's master: its other end, which we hold open."""
        self._half = size // 2
        self._failed = False
        self._fd = -1
        self._open()
        self._has = os.fstat(self._fd).st_size

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)

    def take(self, pipe: int) -> int:
        """Move what waits in a pipe into the file, up to CHUNK; how much it was, 0 at its end.
        Raises BlockingIOError if nothing waits."""
        try:
            data = os.read(pipe, min(CHUNK, self._half))
        except OSError as error:
            if error.errno != errno.EIO or pipe not in self.peers:
                raise
            self._open_again(pipe)
            raise BlockingIOError from None
        if data:
            number = number_of(pipe)
            said = self._said.pop(number, b"")
            self._said[number] = (said + data[-LINE_MAX:])[-LINE_MAX:]
            if len(self._said) > 2 * PIPES:
                del self._said[next(iter(self._said))]
            try:
                self._append(data)
            except OSError as error:
                if not self._failed:
                    log.error("%s: %s: what is written is lost", self.path, error.strerror)
                self._failed = True
        return len(data)

    def _open_again(self, master: int) -> None:
        """Open a terminal's other end anew: a hangup has taken it from everybody who had it open.
        While nobody has it open, the master's EIO says so without end. If it cannot be opened at
        this moment, the next look tries it again."""
        old, self.peers[master] = self.peers[master], -1
        if old >= 0:
            os.close(old)
        with contextlib.suppress(OSError):
            self.peers[master] = _other_end(master)

    def _append(self, data: bytes) -> None:
        if self._has + len(data) > self._half:
            os.replace(self.path, logfiles.former(self.path))
            os.close(self._fd)
            self._fd = -1
            self._has = 0
        if self._fd < 0:
            self._open()
        self._has += os.write(self._fd, data)

    def last_lines(self, count: int, number: int | None = None) -> list[str]:
        """What was written last, in words: so many lines at most. number: by this pipe alone."""
        if number is None:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LINE_MAX))
                raw = file.read(LINE_MAX)
        else:
            raw = self._said.get(number, b"")
        lines = raw.decode(errors="replace").strip().splitlines()
        return [line.strip() for line in lines[-count:] if line.strip()]

    def close(self) -> None:
        """The files stay. Twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Logs:
    """The logs of VMs in a folder. Methods may be called in any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs: dict[str, Log] = {}
        self._by_pipe: dict[int, Log] = {}
        self._changing = threading.Lock()  # of the tables; taken before any log's lock
        self._thread: threading.Thread | None = None
        self._epoll: select.epoll | None = None
        self._end = -1

    def writer(self, name: str, size: int) -> int:
        """The end of a new pipe into the VM's log; the caller's, to be closed once the program has
        it. size: of the log, in bytes, as the first call for the VM says. Raises OSError."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        self._add(name, size, ours)
        return theirs

    def adopt(self, name: str, size: int, fd: int) -> None:
        """Have what comes out of a terminal's master in the VM's log; the descriptor is ours from
        now on, until `abandon`. size: as for `writer`. Raises OSError."""
        self._add(name, size, fd, _other_end(fd))

    def abandon(self, name: str, fd: int) -> None:
        """Close a terminal's master that was adopted; one that is closed already is no error."""
        with self._changing:
            one = self._logs.get(name)
            if one is not None:
                with one.lock:
                    if fd in one.peers:
                        self._drop(one, fd)

    def _add(self, name: str, size: int, ours: int, peer: int = -1) -> None:
        with self._changing:
            if name not in self._logs:
                self._logs[name] = Log(logfiles.newest(self._folder, name), size)
            if self._epoll is None:
                self._epoll = select.epoll()
                self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._epoll.register(self._end, select.EPOLLIN)
                self._thread = threading.Thread(target=self._pump, name="logs", daemon=True)
                self._thread.start()
            one = self._logs[name]
            os.set_blocking(ours, False)
            with one.lock:
                if len(one.pipes) >= PIPES:
                    self._reap(one)
                while len(one.pipes) >= PIPES:
                    self._drop(one, one.pipes[0])
                one.pipes.append(ours)
                if peer >= 0:
                    one.peers[ours] = peer
                self._by_pipe[ours] = one
                self._epoll.register(ours, select.EPOLLIN)

    def last_line(self, name: str, number: int | None = None) -> str:
        """The last line that was written to the VM's log, with what still waits in its pipes; empty
        if nothing was. number: by this pipe alone, which may have ended (number_of)."""
        return "".join(self.last_lines(name, 1, number))

    def last_lines(self, name: str, count: int, number: int | None = None) -> list[str]:
        """The same of the last lines, so many at most."""
        one = self._logs.get(name)
        if one is None or not one.lock.acquire(timeout=PATIENCE):
            return []
        try:
            for pipe in one.pipes:
                with contextlib.suppress(BlockingIOError):
                    one.take(pipe)
            return one.last_lines(count, number)
        except FileNotFoundError:
            return []
        finally:
            one.lock.release()

    def close(self) -> None:
        """Let go of all pipes: who writes to one from now on gets EPIPE. Twice is harmless."""
        if self._thread is not None:
            os.eventfd_write(self._end, 1)
            self._thread.join()
            self._thread = None
        with self._changing:
            for one in self._logs.values():
                with one.lock:
                    while one.pipes:
                        self._drop(one, one.pipes[0])
                    one.close()
            self._logs.clear()
            if self._epoll is not None:
                self._epoll.close()
                self._epoll = None
                os.close(self._end)

    def _reap(self, one: Log) -> None:
        """Drop the pipes that have ended, which the thread may not have come to yet; the log's lock
        is held. So one that is still written to is not dropped in their place."""
        for pipe in list(one.pipes):
            left = CHUNK + 1
            with contextlib.suppress(BlockingIOError):
                while left > 0 and (taken := one.take(pipe)):
                    left -= taken
                if left > 0:
                    self._drop(one, pipe)

    def _drop(self, one: Log, pipe: int) -> None:
        """Close a pipe; the log's lock is held."""
        assert self._epoll is not None
        self._epoll.unregister(pipe)
        one.pipes.remove(pipe)
        if (peer := one.peers.pop(pipe, -1)) >= 0:
            os.close(peer)
        del self._by_pipe[pipe]
        os.close(pipe)

    def _pump(self) -> None:
        """The thread."""
        priority.keep_up()
        assert self._epoll is not None
        full = False
        while True:
            if full and select.select([self._end], [], [], PAUSE)[0]:
                return
            full = False
            for fd, _ in self._epoll.poll(maxevents=TURN):
                if fd == self._end:
                    return
                full |= self._take(fd)

    def _take(self, fd: int) -> bool:
        """Whether to pause: the pipe was full."""
        one = self._by_pipe.get(fd)
        if one is None:
            return False
        with one.lock:
            if fd not in one.pipes:  # dropped meanwhile
                return False
            try:
                taken = one.take(fd)
            except BlockingIOError:
                return one.peers.get(fd) == -1  # it says so again at once: not without a pause
            if not taken:
                self._drop(one, fd)
            return taken == CHUNK


def number_of(pipe: int) -> int:
    """A pipe's number, which both of its ends have and no other pipe."""
    return os.fstat(pipe).st_ino


def _other_end(master: int) -> int:
    """Of a terminal: what its programs have open; the caller's. Raises OSError."""
    fd: int = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    os.set_inheritable(fd, False)
    return fd
