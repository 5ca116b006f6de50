# SPDX-License-Identifier: Apache-2.0
"""Bytes carried between our descriptors and those of a program in a VM.

A program of a VM is handed nothing that is the machine's: by a descriptor of a file it may change
the file's mode, or open it anew for writing (/proc/self/fd); by one of a terminal it may type into
it (TIOCSTI); a socket reaches the network it was made in. It has a terminal of the VM's own
(netns/terminal.py) or pipes, and we carry what goes through them. A pipe without a name is nobody's
but of those who hold it, and can be handed over.
"""

import contextlib
import errno
import fcntl
import os
import selectors
import stat
import struct
import termios
from collections.abc import Callable, Sequence

CHUNK = 16384


def is_bare_pipe(fd: int) -> bool:
    """Whether it is a pipe that has no name in a file system (pipe(2))."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        device = os.fstat(ours).st_dev
    finally:
        os.close(ours)
        os.close(theirs)
    about = os.fstat(fd)
    return stat.S_ISFIFO(about.st_mode) and about.st_dev == device


class Way:
    """One direction, from `source` to `sink`: `into` the program, or out of it. Our end is what we
    were started with; it may be anything, and blocks. The other is a pipe or terminal, and ours
    too.

    Owns nothing, but for a pipe into the program both ends, if `rest` is given: the one that the
    program reads from, of which can be told what it left. The sink is closed once the source has
    ended, which is how the program learns of it.
    """

    def __init__(self, source: int, sink: int, *, into: bool, rest: int = -1) -> None:
        self.source = source
        self.sink = sink
        self.into = into
        self._rest = rest
        self._held = b""  # read, and not yet taken by the program
        self._open = True
        os.set_blocking(sink if into else source, False)

    def interest(self) -> tuple[int, int] | None:
        """What to wait for: a descriptor and selectors' events. None: nothing any more."""
        if not self._open:
            return None
        if self._held:
            return self.sink, selectors.EVENT_WRITE
        return self.source, selectors.EVENT_READ

    def step(self) -> bool:
        """Carry a piece; False if there is none now."""
        if not self._open:
            return False
        if not self._held:
            data = _read(self.source)
            if data == b"":
                self._end()
            self._held = data or b""
        return bool(self._held) and self._write()

    def finish(self) -> None:
        """The program has ended. What it has not read goes back to a file, whose next reader begins
        there. Twice is harmless."""
        self._end()
        if self._rest >= 0:
            with contextlib.suppress(OSError):  # no file
                os.lseek(self.source, -len(self._held) - _waiting(self._rest), os.SEEK_CUR)
            os.close(self._rest)
            self._rest = -1

    def _end(self) -> None:
        if self._open and self._rest >= 0:
            os.close(self.sink)
        self._open = False

    def _write(self) -> bool:
        try:
            if self.into:
                self._held = self._held[os.write(self.sink, self._held) :]
            while not self.into and self._held:
                self._held = self._held[os.write(self.sink, self._held) :]
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            self._end()  # nobody reads there any more
            return False
        return True


class Relay:
    """All ways between us and one program."""

    def __init__(self, ways: Sequence[Way]) -> None:
        self._ways = ways

    def run(self, pidfd: int, signals: int, on_signal: Callable[[int], None]) -> None:
        """Until the process behind `pidfd` has ended and what it wrote is written; hands over each
        signal read from `signals`."""
        while True:
            with selectors.PollSelector() as selector:  # files too, which epoll refuses
                for fd in (pidfd, signals):
                    selector.register(fd, selectors.EVENT_READ)
                waiting = self._register(selector)
                ready = {key.fd for key, _ in selector.select()}
            if signals in ready:
                for number in os.read(signals, CHUNK):
                    on_signal(number)
            for way, fd in waiting:
                if fd in ready:
                    way.step()
            if pidfd in ready:
                break
        for way in self._ways:
            while not way.into and way.step():
                pass
            way.finish()

    def _register(self, selector: selectors.BaseSelector) -> list[tuple[Way, int]]:
        """A terminal's master is waited for in both directions at once."""
        waiting: list[tuple[Way, int]] = []
        events: dict[int, int] = {}
        for way in self._ways:
            wanted = way.interest()
            if wanted is not None:
                waiting.append((way, wanted[0]))
                events[wanted[0]] = events.get(wanted[0], 0) | wanted[1]
        for fd, mask in events.items():
            selector.register(fd, mask)
        return waiting


def _read(fd: int) -> bytes | None:
    """Some bytes; none at the end, which is there too if nobody holds the other side, or it cannot
    be read at all; None: nothing now."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _waiting(pipe: int) -> int:
    """How many bytes nobody has read from it yet."""
    found = fcntl.ioctl(pipe, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", found)[0])
