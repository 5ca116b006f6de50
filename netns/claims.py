# SPDX-License-Identifier: Apache-2.0
"""Which host has which input device of this machine, by locks that end with the daemon that holds
them (fcntl(2), open file description locks).

    /run/hostsim-devices/event12   locked by the daemon that has it; says as what, and which host
    /run/hostsim-devices/making    there, and locked for reading, while any daemon makes a clone

A clone is there before the lock on its file can be: only then its name is known. So a uinput device
that appears while anybody makes a clone may be one: ask again when nobody does (`making`). udev's
rule (hostsim/udev) looks for the same two files.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("/run/hostsim-devices")

DEVICE, CLONE, MADE = "device", "clone", "made"
"""As what a host has a node: equipment of its OSes, a thing that it made itself, or a thing that
its VMs' programs made."""

_MAKER = "cgroup-"
MAKER = "maker"
"""As what a host has a cgroup: devices that are made in it are the host's."""

_FLOCK = struct.Struct("hhqqi")
_SAYS_MAX = 256


class Owner(NamedTuple):
    """kind: DEVICE or CLONE; empty: not known, for its owner is just about to say."""

    kind: str
    host: str


class ClaimedError(OSError):
    """Another host has the node."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(f"host {owner.host} has it" if owner.host else "another host has it")
        self.owner = owner


class Claims:
    """One host's claims. Nothing here waits. `close` gives all of them up; twice is harmless."""

    def __init__(self, host: str, folder: Path = FOLDER) -> None:
        self._host = host
        self._folder = folder
        self._held: dict[str, int] = {}
        folder.mkdir(mode=0o700, exist_ok=True)

    def claim(self, sysname: str, kind: str) -> None:
        """The node is ours from now on. Once more is harmless. Raises ClaimedError, OSError."""
        if sysname in self._held:
            return
        path = self._folder / sysname
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock(fcntl.F_WRLCK))
                if is_at(fd, path):
                    break
            except BlockingIOError:
                owner = _says(fd)
                os.close(fd)
                raise ClaimedError(owner) from None
            os.close(fd)  # its last owner has just removed it
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{kind} {self._host}\n".encode(), 0)
        self._held[sysname] = fd

    def claim_maker(self, cgroup: int) -> None:
        """What processes of the cgroup make is ours, from now on; by its id. Raises OSError."""
        self.claim(f"{_MAKER}{cgroup}", MAKER)

    def release_maker(self, cgroup: int) -> None:
        """Its OS is gone. One that is not ours is no error."""
        self.release(f"{_MAKER}{cgroup}")

    def makers(self) -> dict[int, str]:
        """The cgroups in which devices are made that no other host may take, and their hosts."""
        found = {}
        for path in self._folder.glob(f"{_MAKER}*"):
            owner = self.owner(path.name)
            if owner is not None:
                found[int(path.name.removeprefix(_MAKER))] = owner.host
        return found

    def release(self, sysname: str) -> None:
        """The node is not ours any more. One that is not is no error."""
        fd = self._held.pop(sysname, -1)
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._folder / sysname)
            os.close(fd)

    def owner(self, sysname: str) -> Owner | None:
        """Who has the node; None: no host."""
        try:
            fd = os.open(self._folder / sysname, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return _says(fd) if _locked(fd) else None
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def makes(self) -> Iterator[None]:
        """A clone is made, and claimed, inside of the block. Raises OSError."""
        path = self._folder / "making"
        while True:
            fd = self._making(os.O_RDWR | os.O_CREAT)
            with contextlib.suppress(BlockingIOError):  # the last one is just about to remove it
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock(fcntl.F_RDLCK))  # with others
                if is_at(fd, path):
                    break
            os.close(fd)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # others make one too: the last one removes it
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock(fcntl.F_WRLCK))
                os.unlink(path)
            os.close(fd)

    def making(self) -> bool:
        """Whether any host makes a clone at this moment."""
        try:
            fd = self._making(os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return _locked(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """See above."""
        for sysname in list(self._held):
            self.release(sysname)

    def _making(self, flags: int) -> int:
        return os.open(self._folder / "making", flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def lock(kind: int) -> bytes:
    """Of a whole file, for F_OFD_SETLK and F_OFD_GETLK: fcntl.F_RDLCK, F_WRLCK."""
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _locked(fd: int) -> bool:
    """Whether a lock of anybody's, another descriptor of ours included, is on the file."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, lock(fcntl.F_WRLCK))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file still stands there."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


def _says(fd: int) -> Owner:
    kind, _, host = os.pread(fd, _SAYS_MAX, 0).decode(errors="replace").strip().partition(" ")
    return Owner(kind, host)
