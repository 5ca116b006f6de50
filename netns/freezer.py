# SPDX-License-Identifier: Apache-2.0
"""The cgroup v2 freezer (Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze).

A frozen process runs no instruction and sits in no system call: what its descriptor table holds
then is all it has. Its pending calls are restarted at the thaw; epoll_wait(2) and a few like it
return EINTR, as signal(7) says.
"""

import contextlib
import select
import time
from pathlib import Path


def asked(path: Path) -> bool:
    """Whether somebody has asked for the group to be frozen."""
    try:
        return (path / "cgroup.freeze").read_text().strip() == "1"
    except FileNotFoundError:
        return False


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
