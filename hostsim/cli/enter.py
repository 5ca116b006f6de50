"""`hostsim exec` and `hostsim shell`: one command in a VM, with our terminal, to its end.

For a process of its own, in its main thread: signals are passed on, and the command dies with us.
"""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cext.vm import spawn
from hostsim.errors import HostsimError
from netns import cgroup1, process, terminal
from netns.process import Process, Target

PATIENCE = 0.5  # seconds: a VM is held still for a moment while equipment is taken from it

_TO_GROUP = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT)
_TO_PROGRAM = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What `enter` passes on: what a terminal sends, to all the program started; the rest to itself."""


class NotFoundError(HostsimError):
    """No such command; the exit status is a shell's."""

    status = 127


class NotExecutableError(HostsimError):
    """A command that cannot be executed; the exit status is a shell's."""

    status = 126


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
            join = cgroup1.open_procs(v1)
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
                process.candidates(argv[0], os.environ.get("PATH", process.DEFAULT_PATH)),
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
        child = Process(pid, pidfd, argv)
        with contextlib.ExitStack() as stack:
            stack.callback(child.close)
            if master is not None:
                stack.enter_context(terminal.raw(0))
            terminal.Relay(master).run(pidfd, arrived, _forwarder(child, master))
            code = child.wait()
    return code if code >= 0 else 128 - code


def _forwarder(child: Process, master: int | None) -> Callable[[int], None]:
    def forward(number: int) -> None:
        if number == signal.SIGWINCH and master is not None:
            terminal.copy_size(0, master)
        elif number in _TO_GROUP:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)  # not reaped yet, so the number is still its own
            if number == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)
        else:
            child.send_signal(number)

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
