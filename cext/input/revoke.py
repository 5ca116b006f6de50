# SPDX-License-Identifier: Apache-2.0
"""Takes open input devices from the processes of a cgroup. Wraps revoke.h, keeper.h, clients.h."""

import contextlib
import fcntl
import os
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cext import check
from cext._native import ffi, lib
from cext.bpf import objects as bpf

_ASKED = ("others", "waiting", "place", "before")
"""Programs of clients.bpf.c, without their prefix, and where they are in struct hs_clients."""

DESCRIPTORS = 2048
"""That this process has room for, once there is a `Revoker`."""


class Revoked(NamedTuple):
    """What was found, by the names of revoke.h. unread: for each device; empty: not counted."""

    processes: int
    revoked: int
    killed: int
    hidden: int
    passes: int
    restless: bool
    clean: bool
    unread: tuple[int, ...] = ()
    late: bool = False


class Own(NamedTuple):
    """A device: its number, as os.makedev makes it, and our own open files of it."""

    device: int
    fd: int
    also: int = -1


@dataclass(frozen=True)
class Hold:
    """What `Revoker.holding` gives."""

    handle: Any


class Revoker:
    """Revokes, and keeps what it has revoked for a moment (input/keeper.h). `close` ends that."""

    def __init__(self) -> None:
        out = ffi.new("struct hs_keeper **")
        check(lib.hs_keeper_new(out), "revoke of input devices")
        _widen_descriptor_table()
        self._keeper: Any = out[0]
        self._readers: Any = ffi.new("struct hs_files *")
        self._places: dict[Path, Any] = {}  # of each OS, from one look to the next
        self._object: bpf.Object | None = None
        self._clients: Any = ffi.new("struct hs_clients *", [-1, -1, -1, -1])

    def know_clients(self) -> None:
        """From now on the kernel is asked who has a device open. Once is enough. Raises OSError: it
        does not tell (it needs BTF, of the module evdev too)."""
        if self._object is None:
            self._object = bpf.Object("clients")
            for name in _ASKED:
                setattr(self._clients, name, self._object.program(f"clients_{name}"))

    def look(self, cgroup: Path, devices: Sequence[Own]) -> None:
        """Note who in the cgroup has the devices open, for `unread`. Raises OSError."""
        self.forget()
        places = self._places.get(cgroup)
        if places is None:
            places = self._places[cgroup] = ffi.new("struct hs_places *")
        found = lib.hs_readers_find(
            self._keeper,
            self._readers,
            places,
            os.fsencode(cgroup),
            self._clients,
            [(one.fd, one.also) for one in devices],
            [one.device for one in devices],
            len(devices),
        )
        check(found, "look at readers of input devices")

    def leave(self, cgroup: Path) -> None:
        """The OS has left, or its processes have ended. Twice is harmless."""
        places = self._places.pop(cgroup, None)
        if places is not None:
            lib.hs_places_forget(places)

    def mark(self) -> None:
        """Who was noted is to read what is there now, for `unread`; `look` does this too."""
        lib.hs_readers_mark(self._readers, self._clients)

    def unread(self) -> int:
        """How many of the open files that were noted have not been read so far. If the kernel does
        not tell how far that is, it is to their end."""
        left: int = lib.hs_readers_left(self._readers, self._clients)
        return left

    def forget(self) -> None:
        """Nobody is noted any more."""
        lib.hs_readers_forget(self._readers, self._keeper)

    @contextlib.contextmanager
    def holding(self, cgroup: Path) -> Iterator[Hold]:
        """The processes of a cgroup (a v2 directory) come to rest inside of the block, and are as
        before afterwards. Raises OSError."""
        hold = ffi.new("struct hs_hold *")
        try:
            check(lib.hs_hold_begin(hold, os.fsencode(cgroup)), "freeze")
            yield Hold(hold)
        finally:
            check(lib.hs_hold_end(hold), "thaw")

    def revoke_noted(
        self, hold: Hold, devices: Sequence[Own], still: float
    ) -> tuple[bool, tuple[int, ...]]:
        """Take the devices from those that were noted, who are forgotten then; `unread` is as in
        `Revoked`. Whether the kernel knows that nobody has one of the devices open any more: else
        `revoke` is to follow. hold, still: as there."""
        unread = ffi.new("uint64_t[]", len(devices))
        nobody: bool = lib.hs_revoke_noted(
            self._keeper,
            hold.handle,
            self._readers,
            self._clients,
            [(one.fd, one.also) for one in devices],
            [one.device for one in devices],
            len(devices),
            round(still * 1000),
            unread,
        )
        return nobody, tuple(unread)

    def revoke(
        self,
        hold: Hold,
        everybody: Path,
        devices: Sequence[int],
        still: float,
        budget: float,
        passes: int,
    ) -> Revoked:
        """Take the devices from every process below the cgroup `everybody`. The held one has
        `still` seconds to come to rest; more than one of the `passes` is made if it did not, or
        somebody else had a device. budget: seconds of our own time for the held one, and for each
        other cgroup directly below `everybody`, which is killed if it takes longer.

        devices: numbers as os.makedev makes them. Raises OSError.
        """
        count = ffi.new("struct hs_revoke_count *")
        unread = ffi.new("uint64_t[]", len(devices))
        result = lib.hs_revoke(
            self._keeper,
            hold.handle,
            os.fsencode(everybody),
            list(devices),
            len(devices),
            round(still * 1000),
            round(budget * 1000),
            passes,
            count,
            unread,
        )
        check(result, "revoke of input devices")
        return Revoked(
            count.processes,
            count.revoked,
            count.killed,
            count.hidden,
            count.passes,
            bool(count.restless),
            bool(count.clean),
            tuple(unread),
            bool(count.late),
        )

    @property
    def kept(self) -> int:
        """Revoked files that are still open here."""
        count: int = lib.hs_keeper_count(self._keeper)
        return count

    def close(self) -> None:
        """Close what is kept. Twice is harmless."""
        self.forget()
        for cgroup in list(self._places):
            self.leave(cgroup)
        lib.hs_keeper_free(self._keeper)
        self._keeper = ffi.NULL
        for name in _ASKED:
            setattr(self._clients, name, -1)
        if self._object is not None:
            self._object.close()
            self._object = None


def _widen_descriptor_table() -> None:
    """To grow it waits for the kernel's RCU if there are threads (fs/file.c, expand_fdtable):
    some 20 ms, which would be in the middle of a flip."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # no number that high is free: then there is room
        os.close(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, min(DESCRIPTORS, limit) - 1))
    os.close(fd)
