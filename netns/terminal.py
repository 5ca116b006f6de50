"""A terminal inside a VM, joined to ours: what makes an interactive program in a VM feel at home.

The pseudo-terminal is one of the VM's own devpts (pts(4)), so `tty`, job control and `ps` are right
in there, and no program of the VM ever holds the machine's terminal (whoever holds one can type
into it: TIOCSTI). Ours is in raw mode meanwhile: control characters travel as bytes, and the
terminal in the VM makes signals of them.
"""

import contextlib
import errno
import fcntl
import os
import selectors
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType

CHUNK = 16384


def copy_settings(ours: int, slave: int) -> None:
    """Give a terminal the modes and the size of ours. Raises OSError, termios.error."""
    termios.tcsetattr(slave, termios.TCSANOW, termios.tcgetattr(ours))
    copy_size(ours, slave)


def copy_size(ours: int, theirs: int) -> None:
    """Give a terminal the size of ours; its programs get SIGWINCH. Raises OSError."""
    size = fcntl.ioctl(ours, termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Our terminal in raw mode, and back as it was."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def caught(numbers: tuple[signal.Signals, ...]) -> Iterator[int]:
    """Catch these signals; yields a descriptor from which their numbers can be read, one byte each.
    Only in the main thread."""

    def ignore(_number: int, _frame: FrameType | None) -> None:
        """The wake-up descriptor tells."""

    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, ignore) for number in numbers}
    previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


class Relay:
    """Carries bytes between our descriptors 0 and 1 and the master of a terminal in a VM.

    master: None for a program that has our descriptors themselves. Owns nothing.
    """

    def __init__(self, master: int | None) -> None:
        self._master = master
        self._typed = b""  # from our terminal, not yet taken by the one in the VM
        self._ours_open = True

    def run(self, pidfd: int, signals: int, on_signal: Callable[[int], None]) -> None:
        """Until the process behind `pidfd` has ended and what it wrote is written; hands over each
        signal read from `signals`."""
        with selectors.DefaultSelector() as selector:
            selector.register(pidfd, selectors.EVENT_READ)
            selector.register(signals, selectors.EVENT_READ)
            if self._master is not None:
                os.set_blocking(self._master, False)
            while True:
                self._interest(selector)
                ready = {key.fd for key, _ in selector.select()}
                if signals in ready:
                    for number in os.read(signals, CHUNK):
                        on_signal(number)
                if self._master is not None and self._master in ready:
                    self._copy_out()
                if 0 in ready:
                    self._typed = _read(0) or b""
                    self._ours_open = bool(self._typed)
                if self._typed:
                    self._copy_in()
                if pidfd in ready:
                    break
        while self._master is not None and self._copy_out():
            pass

    def _interest(self, selector: selectors.BaseSelector) -> None:
        """Read no more from our terminal than the other takes."""
        wanted = {}
        if self._master is not None:
            wanted[self._master] = selectors.EVENT_READ
            if self._typed:
                wanted[self._master] |= selectors.EVENT_WRITE
            elif self._ours_open:
                wanted[0] = selectors.EVENT_READ
        known = selector.get_map()
        for fd in [key.fd for key in known.values() if key.data == "bytes"]:
            if fd not in wanted:
                selector.unregister(fd)
        for fd, events in wanted.items():
            if fd not in known:
                selector.register(fd, events, "bytes")
            elif known[fd].events != events:
                selector.modify(fd, events, "bytes")

    def _copy_in(self) -> None:
        if self._master is None:
            self._typed = b""
            return
        with contextlib.suppress(BlockingIOError):
            self._typed = self._typed[os.write(self._master, self._typed) :]

    def _copy_out(self) -> bool:
        """What programs in the VM wrote, to our output; False where there is nothing now."""
        assert self._master is not None
        data = _read(self._master)
        if data == b"":
            self._master = None
        left = data or b""
        while left:
            left = left[os.write(1, left) :]
        return bool(data)


def _read(fd: int) -> bytes | None:
    """Some bytes; none at the end, where nobody holds the other side; None: nothing now."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""
