# SPDX-License-Identifier: Apache-2.0
"""Control groups: a directory in the v2 tree, and in v1 hierarchies if only they can limit.

A group always has its v2 directory (processes are cloned into it, the device program hangs on it,
the freezer is there). A limit holds through v2 if the kernel offers the controller there, else
through the v1 hierarchy that has it, else not at all: `unsupported` says which (cgroups(7),
Documentation/admin-guide/cgroup-v2.rst).

What the v1 half does with its files is in netns/cgroup1.py.

The v2 directories stand below the root of the tree, so that no process is in the way of the
controllers ("no internal processes"); only leaves hold processes.
"""

import contextlib
import errno
import functools
import os
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cext.bpf import objects as bpf
from netns import cgroup1
from netns.cgroup1 import put
from netns.errors import HostsimError

Controller = Literal["memory", "cpu", "pids"]
CPU_PERIOD = 100_000  # us, the kernel's default
OS, EXEC = "os", "exec"
"""The parts of a divided group."""
DELEGATED = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")
"""The files that come with a part that is given away (/sys/kernel/cgroup/delegate)."""
DEADLINE = 5.0  # seconds for killed processes to be gone


@dataclass(frozen=True)
class Limits:
    """None: no limit. memory in bytes, cpus in CPUs' worth of time, pids in tasks."""

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None

    def controllers(self) -> tuple[Controller, ...]:
        """The controllers these limits need."""
        wanted: dict[Controller, object] = {
            "memory": self.memory,
            "cpu": self.cpus,
            "pids": self.pids,
        }
        return tuple(name for name, value in wanted.items() if value is not None)


@dataclass(frozen=True)
class Layout:
    """Where this machine has its hierarchies. `v1` maps controllers to mount points; `v2_has`
    holds the controllers of the v2 tree."""

    v2: Path | None
    v2_has: frozenset[str]
    v1: dict[str, Path]

    def where(self, controller: Controller) -> Literal["v2", "v1", None]:
        """Through which tree a limit of this controller can hold."""
        if controller in self.v2_has:
            return "v2"
        return "v1" if controller in self.v1 else None


def parse(mountinfo: str) -> tuple[Path | None, dict[str, Path]]:
    """The v2 mount point and the v1 mount points by controller, from /proc/PID/mountinfo."""
    v2: Path | None = None
    v1: list[tuple[str, Path]] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup2":
            v2 = v2 or point
        elif kind == "cgroup":
            v1.append((options, point))
    return v2, cgroup1.mounts(v1)


@functools.cache
def layout() -> Layout:
    """This machine's layout, read once."""
    v2, v1 = parse(Path("/proc/self/mountinfo").read_text())
    has = frozenset((v2 / "cgroup.controllers").read_text().split()) if v2 else frozenset()
    return Layout(v2, has, v1)


def unsupported(limits: Limits, machine: Layout | None = None) -> tuple[Controller, ...]:
    """The controllers these limits need and this machine has in neither tree."""
    machine = machine or layout()
    return tuple(name for name in limits.controllers() if machine.where(name) is None)


class Cgroup:
    """The group `name` ("parent/leaf") with limits. Owns its directories and descriptors.

    divided: the group is for somebody who divides his part on: `fd` is then of the directory OS in
    it, and programs that are not his are started in EXEC. What holds for all of it (limits,
    devices, freezing) stands above, out of his reach.

    Nothing is made before `make`. Raises HostsimError if the machine has no v2 tree.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        machine: Layout | None = None,
        *,
        divided: bool = False,
    ) -> None:
        self._layout = machine or layout()
        self._limits = limits
        if self._layout.v2 is None:
            raise HostsimError(
                "cgroups",
                "this machine has no cgroup v2 tree",
                "mount one: mkdir /sys/fs/cgroup/unified && "
                "mount -t cgroup2 none /sys/fs/cgroup/unified",
            )
        self.path = self._layout.v2 / name
        self._v1 = cgroup1.Half(
            name, {c: self._layout.v1[c] for c in limits.controllers() if self._is_v1(c)}
        )
        self._divided = divided
        self.fd = -1
        """The v2 directory; of a divided group its part OS."""
        self.programs_fd = -1
        """Where further programs are started: `fd`, or of a divided group its part EXEC."""
        self._made: list[Path] = []

    @property
    def v1(self) -> tuple[Path, ...]:
        """Its v1 directories."""
        return self._v1.paths

    @property
    def join(self) -> list[int]:
        """The files `tasks` of its v1 directories, open for writing; they stay the group's."""
        return self._v1.join

    @property
    def directories(self) -> tuple[Path, ...]:
        """What `make` makes, parents first."""
        leaves = (self.path, *self.v1)
        return (*(leaf.parent for leaf in leaves), *leaves)

    def refuse_if_there(self) -> None:
        """Raises FileExistsError if a directory that `make` would make for this group alone is
        there already: it is somebody else's."""
        for leaf in (self.path, *self.v1):
            if leaf.exists():
                raise FileExistsError(errno.EEXIST, f"a cgroup {leaf} exists already")

    def make(self) -> None:
        """Make the directories and write the limits; `fd` is then the v2 directory. Raises
        HostsimError if a limit cannot hold here, and OSError."""
        limits, v2 = self._limits, self._layout.v2
        assert v2 is not None
        missing = unsupported(limits, self._layout)
        if missing:
            raise HostsimError(
                "cgroups",
                f"no {' and no '.join(missing)} controller here, in neither cgroup tree",
                "enable the controller (cgroup_enable= at boot)",
            )
        for leaf in (self.path, *self.v1):
            _make(leaf)
            self._made.append(leaf)
        wanted = [c for c in limits.controllers() if not self._is_v1(c)]
        if wanted:
            enable = " ".join(f"+{controller}" for controller in wanted)
            for directory in (v2, self.path.parent):
                put(directory / "cgroup.subtree_control", enable)
        self._limit()
        self.fd = _open(self.path)
        self.programs_fd = os.dup(self.fd)
        self._v1.open()

    def divide(self, owner: int) -> None:
        """Make the two parts, and give OS to a user: what the kernel lists as safe to give. After
        the device program is attached to `fd`. Raises OSError."""
        if not self._divided:
            return
        has = set((self.path / "cgroup.controllers").read_text().split())
        enable = " ".join(f"+{one}" for one in sorted(has & {"memory", "cpu", "pids"}))
        if enable:
            (self.path / "cgroup.subtree_control").write_text(enable)
        for part in (OS, EXEC):
            (self.path / part).mkdir()
        inner = self.path / OS
        for path in (inner, *(inner / name for name in DELEGATED)):
            with contextlib.suppress(FileNotFoundError):
                os.chown(path, owner, owner)
        os.close(self.fd)
        os.close(self.programs_fd)
        self.fd = self.programs_fd = -1
        self.fd, self.programs_fd = _open(inner), _open(self.path / EXEC)

    def kill(self) -> None:
        """SIGKILL everything in the group; a group that is gone is no error. What is in a v1
        directory was born into the v2 one."""
        if self._made:
            kill(self.path)

    def remove(self) -> None:
        """Kill everything in it, remove the directories it made, and the parents once they are
        empty. Twice is harmless. Raises OSError if a process does not end within DEADLINE."""
        for fd in (self.fd, self.programs_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.programs_fd = -1
        self._v1.close()
        while self._made:
            directory = self._made[-1]
            remove(directory)
            self._made.pop()
            with contextlib.suppress(FileNotFoundError):
                try:
                    directory.parent.rmdir()
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                        raise

    def _is_v1(self, controller: Controller) -> bool:
        return self._layout.where(controller) == "v1"

    def _limit(self) -> None:
        """Write each limit into the tree that can hold it. Swap is no way around the one of
        memory."""
        limits = self._limits
        if limits.memory is not None:
            if self._is_v1("memory"):
                self._v1.limit_memory(limits.memory)
            else:
                put(self.path / "memory.max", str(limits.memory))
                if (self.path / "memory.swap.max").exists():
                    put(self.path / "memory.swap.max", "0")
        if limits.cpus is not None:
            quota = max(1000, round(limits.cpus * CPU_PERIOD))  # the kernel's least is 1 ms
            if self._is_v1("cpu"):
                self._v1.limit_cpus(quota, CPU_PERIOD)
            else:
                put(self.path / "cpu.max", f"{quota} {CPU_PERIOD}")
        if limits.pids is not None:
            if self._is_v1("pids"):
                self._v1.limit_pids(limits.pids)
            else:
                put(self.path / "pids.max", str(limits.pids))


def for_programs(path: Path) -> Path:
    """Where further programs are started in a group that may be divided, whose v2 directory this
    is."""
    return path / EXEC if (path / EXEC).is_dir() else path


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def kill(path: Path) -> None:
    """SIGKILL every process in a cgroup and below, in any hierarchy; missing is no error."""
    with contextlib.suppress(FileNotFoundError):
        if (path / "cgroup.kill").exists():
            (path / "cgroup.kill").write_text("1")
            return
    cgroup1.kill(_processes(path))


def remove(path: Path) -> None:
    """Kill everything in a cgroup and below, in any hierarchy, and remove the directories; missing
    is no error. Raises OSError (EBUSY) if processes do not end within DEADLINE."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            with contextlib.suppress(FileNotFoundError):
                _release(path)
                if not _has_parts(path):
                    path.rmdir()
                    return
            for directory in _tree(path):
                with contextlib.suppress(FileNotFoundError):
                    _release(directory)
                    directory.rmdir()
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        pidfds = list(_processes(path))  # before the kill: afterwards they are not listed
        kill(path)
        for pidfd in pidfds:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            os.close(pidfd)
        if not pidfds:  # the last one is between its end and leaving the group
            os.sched_yield()


def _release(directory: Path) -> None:
    """Detach the programs of an empty v2 group. They would go with it, but a socket that
    outlives its process (what TCP has not sent yet) keeps a removed group, and what hangs on it."""
    try:
        events = os.open(directory / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a v1 hierarchy, or it is gone
        return
    try:
        empty = b"populated 0" in os.read(events, 4096)
    finally:
        os.close(events)
    if not empty:
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for kind in (bpf.CGROUP_DEVICE, bpf.CGROUP_SETSOCKOPT):
            bpf.detach_cgroup(fd, kind)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel without CONFIG_CGROUP_BPF
            raise
    finally:
        os.close(fd)


def _has_parts(path: Path) -> bool:
    """Whether there are directories in it: of its links, one is from each (kernfs)."""
    return path.stat().st_nlink > 2


def _make(leaf: Path) -> None:
    """Make a directory and its parent, while others may be removing the parent."""
    while True:
        with contextlib.suppress(FileExistsError):
            leaf.parent.mkdir()
        try:
            leaf.mkdir()
            return
        except FileNotFoundError:
            continue


def _tree(path: Path) -> Iterator[Path]:
    """The directories at and below `path`, deepest first; none if it is missing."""
    for directory, _, _ in os.walk(path, topdown=False):
        yield Path(directory)


def _processes(path: Path) -> Iterator[int]:
    """A pidfd for each process in the group and below; the caller closes them."""
    for directory in _tree(path):
        try:
            pids = [int(line) for line in (directory / "cgroup.procs").read_text().split()]
        except (FileNotFoundError, OSError) as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                continue  # gone meanwhile, or a threaded group, whose parent lists its processes
            raise
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                yield os.pidfd_open(pid)
