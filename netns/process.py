# SPDX-License-Identifier: Apache-2.0
"""Programs in a VM: started in all its namespaces and cgroups, without the machine's capabilities.

`Process` is a child of ours held by a pidfd (pidfd_open(2)): no signal goes to a stranger, and an
event loop can wait for it.
"""

import contextlib
import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cext.vm import spawn
from netns import cgroup1, freezer

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLORTERM", "PS1"),
        *("LANG", "LANGUAGE", "TZ", "EDITOR", "VISUAL", "PAGER"),
    }
)
"""Of our environment, what a program in a VM gets; and LC_*. All else may be a secret, or name a
socket or a library of the machine's."""
Stream = int | IO[bytes] | None


@dataclass(frozen=True)
class Target:
    """Where to start a program: of a VM its process 1, the v2 directory, a descriptor of the one in
    it that programs are started in, the v1 directories with their files `tasks` open for writing.
    Descriptors are not owned."""

    pidfd: int
    cgroup: Path
    cgroup_fd: int
    v1: tuple[Path, ...] = ()
    join: tuple[int, ...] = ()
    nests: bool = False
    """Whether its programs may make user namespaces."""
    null: int = -1
    """For a stream that is DEVNULL: of the machine's /dev/null, but its mode cannot be changed."""

    def entered(self, pid: int) -> bool:
        """Whether the process behind `pidfd` is in the group. pid: its number, by which it was
        found, and which may have become another process's before `pidfd` was opened."""
        ours = f"/{self.cgroup.parent.name}/{self.cgroup.name}/"
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        there = any(one.startswith("0::") and ours in f"{one}/" for one in groups)
        return there and not wait_end(self.pidfd, 0)

    def check(self, patience: float = 0.0) -> None:
        """Raises OSError if nothing can start now: EBUSY if the VM is frozen and stays so for
        `patience` seconds (the program would freeze before its first step, and its caller with
        it), EAGAIN at the limit of processes."""
        if not freezer.wait_thawed(self.cgroup, patience):
            raise OSError(errno.EBUSY, "the VM is frozen, nothing can start in it")
        if cgroup1.full(self.v1):
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


class Process:
    """A program that was started in a VM. Owns its pidfd and the pipes it was started with.

    stdin, stdout, stderr: our ends of the pipes that were asked for, else None.
    returncode: None while it runs; then its exit status, or -N if signal N ended it. While
    another process of the VM traces it (ptrace(2)), and does not wait for it, the kernel tells us
    that it has ended, but not how: then -SIGKILL.
    """

    def __init__(self, pid: int, pidfd: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = tuple(args)
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        self._pidfd = pidfd
        self._reaped = False
        self._reaping = threading.Lock()  # the VM may be stopped by another thread

    def fileno(self) -> int:
        """The pidfd: readable once the program has ended; valid until `close`."""
        return self._pidfd

    def poll(self) -> int | None:
        """Reap it if it has ended; the returncode, or None while it runs."""
        with self._reaping:
            ended = self._reaped or self._reap()
            if not ended and wait_end(self._pidfd, 0):
                ended = self._reap()  # asked again: it may have ended between the two questions
                if not ended and self.returncode is None:
                    self.returncode = -signal.SIGKILL
            return self.returncode

    def _reap(self) -> bool:
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if found is None:
            return False
        self._reaped = True
        if self.returncode is None:
            exited = found.si_code == os.CLD_EXITED
            self.returncode = found.si_status if exited else -found.si_status
        return True

    def wait(self, timeout: float | None = None) -> int:
        """The returncode, once it has ended. Raises TimeoutError after `timeout` seconds."""
        if self.poll() is None and not wait_end(self._pidfd, timeout):
            raise TimeoutError(f"{self.args[0]} still runs after {timeout} s")
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    @property
    def closed(self) -> bool:
        """Whether `close` was called, and nothing is left of it."""
        return self._pidfd < 0

    def close(self, patience: float = 0.0) -> None:
        """Kill it if it runs, reap it, close the pidfd and the pipes. Twice is harmless.

        patience: seconds for whoever traces it to end. One that is still traced then is not
        `closed`: its pidfd stays, and this is to be called again.
        """
        if self._pidfd >= 0:
            self.kill()
            self.wait()
            deadline = time.monotonic() + patience
            while not self._reaped and time.monotonic() < deadline:
                select.poll().poll(1)  # no event tells when
                self.poll()
            if self._reaped:
                os.close(self._pidfd)
                self._pidfd = -1
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # what it did not live to be told
                    stream.close()


def wait_end(pidfd: int, timeout: float | None) -> bool:
    """Wait until the process behind a pidfd has ended; False after `timeout` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    return bool(poller.poll(left))


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a program in a VM gets of an environment of the machine's. Pure."""
    return {
        name: value for name, value in ours.items() if name in PASSED_ON or name.startswith("LC_")
    }


OOM_FIRST = 500
"""What is added to the score of all that runs in VMs when the machine's memory is at its end
(oom_score_adj, proc(5)): half of all memory. A limit of each VM's own leaves many VMs more than the
machine has."""


def offer(pid: int) -> None:
    """If the machine's memory is at its end, the kernel ends this process, and what it will start,
    before others. If the daemon has CAP_SYS_RESOURCE, as root has, no user of the VM can take that
    back. One that has ended is no error."""
    with contextlib.suppress(OSError):
        cgroup1.put(Path(f"/proc/{pid}/oom_score_adj"), str(OOM_FIRST))


def candidates(program: str, path: str) -> list[str]:
    """Where a program may be, in order, as execvp(3) looks for it."""
    if "/" in program:
        return [program]
    return [f"{directory or '.'}/{program}" for directory in path.split(":")]


def start(
    target: Target,
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    program: int = -1,
) -> Process:
    """Start a program in a VM, in a session of its own.

    program: a descriptor of what is started, if not -1, whatever the VM's files are
    (`cext.vm.spawn.open_program`).

    cwd: None, or one that is not there: the root directory. env: None for what `environment` leaves
    of ours. The streams are as subprocess.Popen has them (PIPE, DEVNULL, STDOUT, a descriptor, a
    file), except that stdin's None is /dev/null. Raises SpawnError (ESRCH: the VM is gone; ENOENT,
    EACCES: no such program), and OSError as `Target.check` does.
    """
    if not argv:
        raise ValueError("no program to start")
    target.check()
    told = environment(os.environ) if env is None else dict(env)
    with _streams(target.null, stdin, stdout, stderr) as (theirs, ours):
        pid, pidfd = spawn.spawn_program(
            target.pidfd,
            target.cgroup_fd,
            target.join,
            candidates(argv[0], told.get("PATH", DEFAULT_PATH)),
            argv,
            told,
            cwd,
            theirs,
            program=program,
            nests=target.nests,
        )
    offer(pid)
    process = Process(pid, pidfd, argv)
    process.stdin, process.stdout, process.stderr = ours
    return process


@contextlib.contextmanager
def _streams(
    null: int, stdin: Stream, stdout: Stream, stderr: Stream
) -> Iterator[tuple[tuple[int, int, int], list[IO[bytes] | None]]]:
    """The program's three descriptors, which are closed afterwards if they were opened here, and
    our ends of its pipes (None: no pipe), which are closed only if the block fails."""
    theirs: list[int] = []
    ours: list[IO[bytes] | None] = [None, None, None]
    with contextlib.ExitStack() as failed, contextlib.ExitStack() as closing:

        def opened(fd: int) -> int:
            closing.callback(os.close, fd)
            return fd

        for number, stream in enumerate((stdin, stdout, stderr)):
            if number == 0 and stream is None:
                stream = subprocess.DEVNULL
            if stream is None:
                theirs.append(number)
            elif stream == subprocess.PIPE:
                read, write = os.pipe()
                theirs.append(opened(read if number == 0 else write))
                end = os.fdopen(write, "wb") if number == 0 else os.fdopen(read, "rb")
                failed.callback(end.close)
                ours[number] = end
            elif stream == subprocess.DEVNULL:
                theirs.append(null)
            elif stream == subprocess.STDOUT:
                theirs.append(theirs[1])
            else:
                theirs.append(stream if isinstance(stream, int) else stream.fileno())
        yield (theirs[0], theirs[1], theirs[2]), ours
        failed.pop_all()
