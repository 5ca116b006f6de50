# SPDX-License-Identifier: Apache-2.0
"""How much of the kernel's memory a VM holds by its sockets: a program for the socket options of
its cgroup, one where sockets are made, and a walk over those that live (cext/vm/sockets.bpf.h).

    SocketBudget(most).attach(cgroup_fd) ... close()        one for each VM
    hold()      loads the programs beforehand
    Due()       for an event loop: whether a walk is due
    settle()    walks: what ended sockets had is free again. It blocks: not for an event loop

All VMs of a process share the loaded programs; each has a budget of its own, by its cgroup's id.
"""

import contextlib
import logging
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from cext.bpf import objects as bpf
from netns.loaded import Loaded, no_cgroup_bpf

log = logging.getLogger("netns.sockets")

_NUMBER = struct.Struct("=Q")
_BUDGET = struct.Struct("=QQQQ")
_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
_MAPS = ("budgets", "ended", "due", "sockets_held")
_WRAP = 1 << 64
WHAT = "program for socket options"
SAME = 1.0
"""Seconds for which VMs that start one after the other get what one look at a parameter found."""

_last = (-SAME, 0)


class Programs:
    """The programs and maps of all VMs of the process, for as long as one of them holds them."""

    def __init__(self) -> None:
        self._options = _load()
        self._sums: bpf.Object | None = None
        self._no_walk: OSError | None = None
        self._births: bpf.Object | None = None
        self.refused: OSError | None = None
        """Why no socket is charged when it is made; None: each is."""
        self.option = self._options.program("option")
        self.budgets = self._options.map("budgets")
        self.ended = self._options.map("ended")
        self._shared = {name: self._options.map(name).fd for name in _MAPS}
        try:
            self._due = bpf.Ring(self._options.map("due"), lambda _: None)
        except OSError:
            self._options.close()
            raise
        try:
            self._births = bpf.Object("socketbirths", shared=self._shared)
            self._births.attach("begin")
        except OSError as error:
            if self._births is not None:
                self._births.close()
                self._births = None
            self.refused = error
            log.info("queues of new sockets are not counted here: %s", error.strerror or error)

    @property
    def due(self) -> bpf.Ring:
        """Where VMs ask for a walk."""
        return self._due

    def walker(self) -> bpf.Object:
        """What adds up. Raises OSError: the kernel refuses it, and is not asked again."""
        if self._no_walk is not None:
            raise self._no_walk
        if self._sums is None:
            try:
                self._sums = bpf.Object("socketsums", shared=self._shared)
            except OSError as error:
                self._no_walk = error
                raise
        return self._sums

    def settle(self) -> None:
        """Raises OSError."""
        walker = self.walker()
        sums = walker.map("sums")
        for key in list(sums.keys()):
            sums.delete(key)
        before = {key: self.budgets.get(key) for key in list(self.budgets.keys())}
        bpf.walk(walker.program("sum"), self._shared["sockets_held"])
        for key, budget in before.items():
            if budget is not None:
                live = _NUMBER.unpack(sums.get(key) or bytes(_NUMBER.size))[0]
                ended = (_BUDGET.unpack(budget)[0] - live) % _WRAP
                self.ended.set(key, _NUMBER.pack(ended))

    def close(self) -> None:
        for one in (self._births, self._sums, self._due, self._options):
            if one is not None:
                one.close()


_shared = Loaded(Programs)


def hold() -> Callable[[], None]:
    """Load the programs, for VMs that are to come: they stay at least until the answer is called.
    Raises HostsimError."""
    _shared.take()
    return _shared.give_back


def settle() -> None:
    """Walk, if a VM of this process has a budget. Raises OSError."""
    with _shared.lock:  # two walks at once would mix their sums
        if _shared.now is not None:
            _shared.now.settle()


def counts_births() -> bool:
    """Whether this kernel has a socket charged when it is made: it runs BPF programs at the entry
    of its functions. Loads them. Raises HostsimError."""
    return births_refused() is None


def births_refused() -> str | None:
    """Why not, as strerror(3) has it; None if it does. Raises HostsimError."""
    error = _shared.take().refused
    _shared.give_back()
    return None if error is None else os.strerror(error.errno or 0)


def walk_refused() -> str | None:
    """Why this kernel lets nobody walk over sockets, as strerror(3) has it; None if it does. If it
    does not, what ended sockets had stays charged to their VM. Loads the program. Raises
    HostsimError."""
    programs = _shared.take()
    try:
        programs.walker()
    except OSError as error:
        return os.strerror(error.errno or 0)
    finally:
        _shared.give_back()
    return None


class Due:
    """Whether a walk is due, until `close`. Holds the programs, so that its descriptor stays."""

    def __init__(self) -> None:
        self._programs: Programs | None = _shared.take()

    def fileno(self) -> int:
        """Readable if so."""
        assert self._programs is not None
        return self._programs.due.fileno()

    def heard(self) -> None:
        """Not readable any more, until it is asked for again. Raises OSError."""
        if self._programs is not None:
            self._programs.due.consume()

    def close(self) -> None:
        """Twice is harmless."""
        if self._programs is not None:
            self._programs = None
            _shared.give_back()


class SocketBudget:
    """What one VM may hold by its sockets, in bytes. Nothing is loaded before `attach`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._programs: Programs | None = None
        self._key = b""

    def attach(self, cgroup_fd: int) -> None:
        """Hold everything to it that will be in the cgroup and below; the program goes when the
        cgroup does. Raises HostsimError if the kernel has no BPF for that."""
        self._programs = _shared.take()
        try:
            key = _NUMBER.pack(os.fstat(cgroup_fd).st_ino)
            queue = 2 * _longest_queue()
            self._programs.budgets.set(key, _BUDGET.pack(0, self.most, queue, 0))
            self._key = key
            bpf.attach_cgroup(
                self._programs.option, cgroup_fd, bpf.CGROUP_SETSOCKOPT, bpf.ALLOW_MULTI
            )
        except OSError as error:
            self.close()
            raise no_cgroup_bpf(WHAT, error) from error

    @property
    def used(self) -> int:
        """Bytes that its sockets are charged with, and those that ended since the last walk."""
        if self._programs is None:
            return 0
        value, ended = self._programs.budgets.get(self._key), self._programs.ended.get(self._key)
        if value is None:
            return 0
        gone = _NUMBER.unpack(ended)[0] if ended else 0
        return int((_BUDGET.unpack(value)[0] - gone) % _WRAP)

    def close(self) -> None:
        """Let go of the programs; what is attached to the cgroup stays while that lives. Twice is
        harmless."""
        if self._programs is not None:
            with contextlib.suppress(OSError):
                if self._key:
                    self._programs.budgets.delete(self._key)
                    self._programs.ended.delete(self._key)
            self._key, self._programs = b"", None
            _shared.give_back()


def _longest_queue() -> int:
    """What net.core.rmem_max says now, or said a moment ago. To find its file takes the kernel the
    longer the more network namespaces the machine has. Raises OSError."""
    global _last
    looked, found = _last
    now = time.monotonic()
    if now - looked >= SAME:
        found = int(_RMEM_MAX.read_text())
        _last = now, found
    return found


def _load() -> bpf.Object:
    try:
        return bpf.Object("sockets")
    except OSError as error:
        raise no_cgroup_bpf(WHAT, error) from error
