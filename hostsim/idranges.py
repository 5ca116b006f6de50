# SPDX-License-Identifier: Apache-2.0
"""User ids for VMs that have ids of their own: 65,536 for each, which no other VM and no user of
the machine has.

    one = take(cgroup)      one.base is the first; one.close() gives them back

The ranges begin above those of systemd-nspawn (https://systemd.io/UIDS-GIDS) and end before ids
become negative numbers. A file for each range that is taken says which VM's, by the VM's control
group, and is locked (flock(2)) as long as its daemon lives; while that group exists, the processes
in it have these ids, also after the daemon was killed.
"""

import contextlib
import fcntl
import os
from pathlib import Path

from hostsim.errors import HostsimError
from netns.claims import is_at

FOLDER = Path("/run/hostsim-ids")
FIRST, COUNT = 0x70000000, 65536
RANGES = (0x7FFF0000 - FIRST) // COUNT
SUBORDINATE = (Path("/etc/subuid"), Path("/etc/subgid"))
"""Ids that the machine gives its users for containers (subuid(5))."""


class IdRange:
    """One that is taken. base: its first id."""

    def __init__(self, base: int, path: Path, fd: int) -> None:
        self.base = base
        self._path = path
        self._fd = fd

    def close(self) -> None:
        """Give it back; the VM's processes must be gone. Twice is harmless."""
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):  # of others, some are still taken
                self._path.parent.rmdir()


def take(cgroup: Path, folder: Path = FOLDER) -> IdRange:
    """A range that nobody has, for the VM with this v2 directory. Raises HostsimError, OSError."""
    foreign = [one for path in SUBORDINATE for one in _subordinate(path)]
    for number in range(RANGES):
        base = FIRST + number * COUNT
        if any(base < last and first < base + COUNT for first, last in foreign):
            continue
        fd = _lock(folder, folder / str(base))
        if fd is None:
            continue
        owner = os.pread(fd, 4096, 0).decode(errors="replace")
        if owner and Path(owner).exists():  # left by a daemon that was killed
            os.close(fd)
            continue
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(cgroup).encode(), 0)
        return IdRange(base, folder / str(base), fd)
    raise HostsimError(
        "user ids",
        f"all {RANGES} ranges are taken",
        "hostsim clean gives back those of hosts whose daemon is gone",
    )


def _lock(folder: Path, path: Path) -> int | None:
    """The file, locked; None: somebody else has it."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # its last user has removed the folder meanwhile
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if is_at(fd, path):
            return fd
        os.close(fd)  # its last owner has just removed it


def _subordinate(path: Path) -> list[tuple[int, int]]:
    """First and last + 1 of each range in the file; a line that is none is nobody's."""
    found = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        words = line.split(":")
        if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
            found.append((int(words[1]), int(words[1]) + int(words[2])))
    return found
