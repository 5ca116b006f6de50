"""The cgroup v2 freezer (Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze).

A frozen process runs no instruction and sits in no system call: what its descriptor table holds
then is all it has. Its pending calls are restarted at the thaw; epoll_wait(2) and a few like it
return EINTR, as signal(7) says.
"""

import contextlib
import select
import time
from collections.abc import Iterator
from pathlib import Path


def is_frozen(path: Path) -> bool:
    """Whether everything in the group has come to rest. A group that is gone has."""
    try:
        return "frozen 1" in (path / "cgroup.events").read_text()
    except (FileNotFoundError, OSError):
        return True


def asked(path: Path) -> bool:
    """Whether somebody has asked for the group to be frozen."""
    try:
        return (path / "cgroup.freeze").read_text().strip() == "1"
    except FileNotFoundError:
        return False


def freeze(path: Path, timeout: float) -> bool:
    """Freeze a group; whether it has come to rest within `timeout` seconds. It stays asked for."""
    deadline = time.monotonic() + timeout
    try:
        with (path / "cgroup.events").open() as events:
            poller = select.poll()
            poller.register(events, select.POLLPRI)
            (path / "cgroup.freeze").write_text("1")
            while "frozen 1" not in events.read():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poller.poll(left * 1000)
                events.seek(0)
    except FileNotFoundError:
        return True  # no group, nobody to freeze
    return True


def wait_thawed(path: Path, timeout: float) -> bool:
    """Wait for a group that somebody holds still; whether it may run within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    try:
        with (path / "cgroup.events").open() as events:
            poller = select.poll()
            poller.register(events, select.POLLPRI)
            while asked(path):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poller.poll(left * 1000)
                events.seek(0)
                events.read()
    except FileNotFoundError:
        return True  # no group, nobody is frozen
    return True


def thaw(path: Path) -> None:
    """Let it run. A group that is gone is no error."""
    with contextlib.suppress(FileNotFoundError):
        (path / "cgroup.freeze").write_text("0")


@contextlib.contextmanager
def held_still(path: Path, timeout: float) -> Iterator[bool]:
    """Frozen inside the block (whether it really came to rest is what it gives), and afterwards as
    before."""
    before = asked(path)
    still = freeze(path, timeout)
    try:
        yield still
    finally:
        if not before:
            thaw(path)
