# SPDX-License-Identifier: Apache-2.0
"""A terminal inside a VM, joined to ours: what makes an interactive program in a VM feel at home.

The pseudo-terminal is one of the VM's own devpts (pts(4)), so `tty`, job control and `ps` are right
in there, and no program of the VM ever holds the machine's terminal (whoever holds one can type
into it: TIOCSTI). Ours is in raw mode meanwhile: control characters travel as bytes, and the
terminal in the VM makes signals of them. What goes through them is carried by netns/relay.py.
"""

import contextlib
import fcntl
import os
import signal
import termios
import tty
from collections.abc import Iterator
from types import FrameType


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
