# SPDX-License-Identifier: Apache-2.0
"""The v1 half of a control group: a directory in each v1 hierarchy that holds one of its limits.

netns/cgroup.py uses a v1 hierarchy only for a controller that the v2 tree lacks. Nothing here knows
the v2 tree. Documentation/admin-guide/cgroup-v1.
"""

import contextlib
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


class Half:
    """The group `name` in the hierarchies mounted at `mounts`, by controller. Owns `join`.

    paths: its directories. They are made and removed with the group's v2 directory, not here.
    join: their files `tasks`, open for writing, from `open` to `close`.
    """

    def __init__(self, name: str, mounts: Mapping[str, Path]) -> None:
        self._at = {controller: mount / name for controller, mount in mounts.items()}
        self.paths: tuple[Path, ...] = tuple(sorted(set(self._at.values())))
        self.join: list[int] = []

    def limit_memory(self, limit: int) -> None:
        """Bytes, swap included if the kernel accounts for swap. Raises OSError."""
        directory = self._at["memory"]
        put(directory / "memory.limit_in_bytes", str(limit))
        swap = directory / "memory.memsw.limit_in_bytes"
        if swap.exists():
            put(swap, str(limit))

    def limit_cpus(self, quota: int, period: int) -> None:
        """quota: us of CPU time in each `period` us. Raises OSError."""
        put(self._at["cpu"] / "cpu.cfs_period_us", str(period))
        put(self._at["cpu"] / "cpu.cfs_quota_us", str(quota))

    def limit_pids(self, limit: int) -> None:
        """Tasks. Raises OSError."""
        put(self._at["pids"] / "pids.max", str(limit))

    def open(self) -> None:
        """Fill `join`. Raises OSError."""
        self.join = open_tasks(self.paths)

    def close(self) -> None:
        """Close `join`. Twice is harmless."""
        while self.join:
            os.close(self.join.pop())


def put(file: Path, text: str) -> None:
    """Write a file of a hierarchy's: three system calls, where `write_text` takes eight; a host
    has many. Raises OSError."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def mounts(options: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Mount point by controller. options: of each v1 mount, its superblock options and its mount
    point; the first mount of a controller counts."""
    found: dict[str, Path] = {}
    for words, point in options:
        for word in words.split(","):
            found.setdefault(word, point)
    return found


def open_tasks(directories: Sequence[Path]) -> list[int]:
    """Each directory's file `tasks`, open for writing, for a process of one thread to move itself:
    by cgroup.procs, the kernel would wait for every CPU (cgroup_procs_write_start). Raises OSError
    with nothing left open."""
    with contextlib.ExitStack() as undo:
        fds = []
        for directory in directories:
            fds.append(os.open(directory / "tasks", os.O_WRONLY | os.O_CLOEXEC))
            undo.callback(os.close, fds[-1])
        undo.pop_all()
        return fds


def full(directories: Sequence[Path]) -> bool:
    """Whether one of these directories is at its limit of processes. The kernel refuses a fork
    there, and a clone into a v2 group, but lets everyone join a v1 group."""
    for directory in directories:
        with contextlib.suppress(FileNotFoundError):  # no pids controller in this hierarchy
            most = (directory / "pids.max").read_text().strip()
            if most != "max" and int((directory / "pids.current").read_text()) >= int(most):
                return True
    return False


def kill(pidfds: Iterable[int]) -> None:
    """SIGKILL each process, and close its pidfd: a v1 directory has no cgroup.kill."""
    for pidfd in pidfds:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
