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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cext.vm import spawn
from hostsim.errors import HostsimError
from netns import cgroup, freezer, terminal

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 0.5  # seconds: a VM is held still for a moment while equipment is taken from it
Stream = int | IO[bytes] | None

_TO_GROUP = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT)
_TO_PROGRAM = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What `enter` passes on: what a terminal sends, to all the program started; the rest to itself."""


class NotFoundError(HostsimError):
    """No such command; the exit status is a shell's."""

    status = 127


class NotExecutableError(HostsimError):
    """A command that cannot be executed; the exit status is a shell's."""

    status = 126


@dataclass(frozen=True)
class Target:
    """Where to start a program: of a VM its process 1, the v2 directory, the v1 directories with
    their cgroup.procs open for writing. Descriptors are not owned."""

    pidfd: int
    cgroup: Path
    cgroup_fd: int
    v1: tuple[Path, ...] = ()
    join: tuple[int, ...] = ()

    def check(self, patience: float = 0.0) -> None:
        """Raises OSError where nothing can start now: EBUSY where the VM is frozen and stays so for
        `patience` seconds (the program would freeze before its first step, and its caller with
        it), EAGAIN at the limit of processes."""
        if not freezer.wait_thawed(self.cgroup, patience):
            raise OSError(errno.EBUSY, "the VM is frozen, nothing can start in it")
        if cgroup.full(self.v1):
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


class Process:
    """A program that was started in a VM. Owns its pidfd and the pipes it was started with.

    stdin, stdout, stderr: our ends of the pipes that were asked for, else None.
    returncode: None while it runs; then its exit status, or -N where signal N ended it.
    """

    def __init__(self, pid: int, pidfd: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = tuple(args)
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        self._pidfd = pidfd
        self._reaping = threading.Lock()  # the VM may be stopped by another thread

    def fileno(self) -> int:
        """The pidfd: readable once the program has ended; valid until `close`."""
        return self._pidfd

    def poll(self) -> int | None:
        """Reap it if it has ended; the returncode, or None while it runs."""
        with self._reaping:
            if self.returncode is None:
                found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
                if found is not None:
                    exited = found.si_code == os.CLD_EXITED
                    self.returncode = found.si_status if exited else -found.si_status
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The returncode, once it has ended. Raises TimeoutError after `timeout` seconds."""
        if self.poll() is None and not wait_end(self._pidfd, timeout):
            raise TimeoutError(f"{self.args[0]} still runs after {timeout} s")
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens where it has ended."""
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
        """Whether `close` was called."""
        return self._pidfd < 0

    def close(self) -> None:
        """Kill it if it runs, reap it, close the pidfd and the pipes. Twice is harmless."""
        if self._pidfd >= 0:
            self.kill()
            self.wait()
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
) -> Process:
    """Start a program in a VM, in a session of its own.

    cwd: None, or one that is not there: the root directory. env: None for ours. The streams are as
    subprocess.Popen has them (PIPE, DEVNULL, STDOUT, a descriptor, a file), except that stdin's
    None is /dev/null. Raises SpawnError (ESRCH: the VM is gone; ENOENT, EACCES: no such program),
    and OSError as `Target.check` does.
    """
    if not argv:
        raise ValueError("no program to start")
    target.check()
    environment = dict(os.environ if env is None else env)
    ours: list[IO[bytes] | None] = [None, None, None]
    theirs: list[int] = []
    close: list[int] = []
    try:
        for number, stream in enumerate((stdin, stdout, stderr)):
            if number == 0 and stream is None:
                stream = subprocess.DEVNULL
            if stream is None:
                theirs.append(number)
            elif stream == subprocess.PIPE:
                read, write = os.pipe()
                close.append(read if number == 0 else write)
                theirs.append(close[-1])
                ours[number] = os.fdopen(write, "wb") if number == 0 else os.fdopen(read, "rb")
            elif stream == subprocess.DEVNULL:
                close.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
                theirs.append(close[-1])
            elif stream == subprocess.STDOUT:
                theirs.append(theirs[1])
            else:
                theirs.append(stream if isinstance(stream, int) else stream.fileno())
        pid, pidfd = spawn.spawn_program(
            target.pidfd,
            target.cgroup_fd,
            target.join,
            candidates(argv[0], environment.get("PATH", DEFAULT_PATH)),
            argv,
            environment,
            cwd,
            (theirs[0], theirs[1], theirs[2]),
        )
    except (OSError, ValueError):
        for file in ours:
            if file is not None:
                file.close()
        raise
    finally:
        for fd in close:
            os.close(fd)
    process = Process(pid, pidfd, argv)
    process.stdin, process.stdout, process.stderr = ours
    return process


def enter(target: Mapping[str, Any], argv: Sequence[str]) -> int:
    """Run a command in a VM with our descriptors 0 to 2, to its end; its exit status as a shell
    has it (128 + N where signal N ended it).

    target: `pid` of the VM's process 1, and `cgroups`, the v2 directory first. Where 0 and 1 are
    terminals, the command gets one of the VM's own, joined to ours. Signals are passed on. The
    command dies with us. For a process of its own, in its main thread: it is left in the VM's
    namespaces. Raises HostsimError, with status 127 or 126 where there is no such command.
    """
    group, *v1 = (Path(path) for path in target["cgroups"])
    with contextlib.ExitStack() as stack:
        try:
            pidfd = os.pidfd_open(target["pid"])
            stack.callback(os.close, pidfd)
            group_fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, group_fd)
            join = cgroup.open_procs(v1)
            for fd in join:
                stack.callback(os.close, fd)
            where = Target(pidfd, group, group_fd, tuple(v1), tuple(join))
            where.check(PATIENCE)
            master = slave = None
            if os.isatty(0) and os.isatty(1):
                master, slave = spawn.open_terminal(f"/proc/{target['pid']}/root/dev/pts/ptmx")
                stack.callback(os.close, master)
                terminal.copy_settings(0, slave)
        except OSError as error:
            raise _refusal(error, group.name, argv[0]) from None
        return _enter(where, group.name, argv, master, slave)


def _enter(
    target: Target, name: str, argv: Sequence[str], master: int | None, slave: int | None
) -> int:
    signals = (*_TO_GROUP, *_TO_PROGRAM, *((signal.SIGWINCH,) if master is not None else ()))
    with terminal.caught(signals) as arrived:
        fds = (0, 1, 2) if slave is None else (slave, slave, slave if os.isatty(2) else 2)
        try:
            pid, pidfd = spawn.spawn_program(
                target.pidfd,
                target.cgroup_fd,
                target.join,
                candidates(argv[0], os.environ.get("PATH", DEFAULT_PATH)),
                argv,
                os.environ,
                os.getcwd(),
                fds,
                tty=slave is not None,
                die_with_caller=True,
            )
        except spawn.SpawnError as error:
            raise _refusal(error, name, argv[0]) from None
        finally:
            if slave is not None:
                os.close(slave)
        process = Process(pid, pidfd, argv)
        with contextlib.ExitStack() as stack:
            stack.callback(process.close)
            if master is not None:
                stack.enter_context(terminal.raw(0))
            terminal.Relay(master).run(pidfd, arrived, _forwarder(process, master))
            code = process.wait()
    return code if code >= 0 else 128 - code


def _forwarder(process: Process, master: int | None) -> Callable[[int], None]:
    def forward(number: int) -> None:
        if number == signal.SIGWINCH and master is not None:
            terminal.copy_size(0, master)
        elif number in _TO_GROUP:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)  # not reaped yet, so the number is still its own
            if number == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)
        else:
            process.send_signal(number)

    return forward


def _refusal(error: OSError, name: str, program: str) -> HostsimError:
    """What a failed start means to who typed the command."""
    why = os.strerror(error.errno or 0)
    if isinstance(error, spawn.SpawnError) and error.step == "exec":
        if error.errno == errno.ENOENT:
            return NotFoundError(program, f"not found in {name}")
        return NotExecutableError(program, f"cannot be executed in {name}: {why}")
    if error.errno in (errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.ENOMEM):
        # ENODEV: its cgroup is going; ENOMEM: its process 1 is ending
        return HostsimError(name, "is gone", "hostsim status shows what runs")
    if error.errno == errno.EBUSY:
        return HostsimError(name, "is frozen, nothing can start in it", f"hostsim flip {name}")
    if error.errno == errno.EAGAIN:
        return HostsimError(program, f"{name} is at its limit of processes")
    return HostsimError(program, f"could not start in {name}: {error.strerror}")
