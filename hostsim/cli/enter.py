# SPDX-License-Identifier: Apache-2.0
"""`hostsim exec` and `hostsim shell`: one command in a VM, with our terminal, to its end.

For a process of its own, in its main thread: signals are passed on, and the command dies with us.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cext.vm import spawn
from hostsim.cli.target import opened, refusal
from netns import process, terminal
from netns.process import Process, Target
from netns.relay import Relay, Way, is_bare_pipe

_TO_GROUP = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT)
_TO_PROGRAM = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What `enter` passes on: what a terminal sends, to all the program started; the rest to itself."""


def enter(target: Mapping[str, Any], argv: Sequence[str]) -> int:
    """Run a command in a VM, joined to our descriptors 0 to 2, to its end; its exit status as a
    shell has it (128 + N if signal N ended it).

    target: `pid` of the VM's process 1, `owner`, its user 0 outside, and `cgroups`, the v2
    directory first. If 0 and 1 are our
    terminal and we are in its foreground, the command gets one of the VM's own, else pipes
    (netns/relay.py); it never has what is the machine's. Signals are passed on, and a little of our
    environment (`netns.process.environment`). The command dies with us. For a process of its own,
    in its main thread: it is left in the VM's namespaces. Raises HostsimError, with status 127 or
    126 if there is no such command.
    """
    name = Path(target["cgroups"][0]).name
    process.offer(os.getpid())  # and so the command, from its first moment
    with contextlib.ExitStack() as stack:
        try:
            where = stack.enter_context(opened(target))
            ptmx = f"/proc/{target['pid']}/root/dev/pts/ptmx"
            streams = _Streams(stack, ptmx, int(target.get("owner", 0)))
        except OSError as error:
            raise refusal(error, name, argv[0]) from None
        return _enter(where, name, argv, streams)


class _Streams:
    """What the command gets as its descriptors 0 to 2, and the ways from and to ours.

    stack: closes our ends. ptmx: of the VM. owner: its user 0, outside. Raises OSError.
    """

    def __init__(self, stack: contextlib.ExitStack, ptmx: str, owner: int) -> None:
        self._stack = stack
        self._theirs: list[int] = []
        self.ways: list[Way] = []
        self.master: int | None = None
        """Of a terminal of the VM's, if the command has one."""
        self.fds = (-1, -1, -1)
        at_terminal = os.isatty(0) and os.isatty(1) and _in_foreground()
        if at_terminal:
            self.master, slave = spawn.open_terminal(ptmx)
            stack.callback(os.close, self.master)
            self._theirs.append(slave)
            if owner:
                os.fchown(slave, owner, owner + spawn.TTY)
            terminal.copy_settings(0, slave)
            self.ways += [Way(0, self.master, into=True), Way(self.master, 1, into=False)]
            self.fds = (slave, slave, slave if os.isatty(2) else self._out_by_pipe(2))
            return
        out = self._out_by_pipe(1)
        both = os.path.sameopenfile(1, 2)  # then the order of what is written stays
        self.fds = (self._in_by_pipe(), out, out if both else self._out_by_pipe(2))

    def close_theirs(self) -> None:
        """The command has them now, or never will."""
        while self._theirs:
            os.close(self._theirs.pop())

    def _in_by_pipe(self) -> int:
        if is_bare_pipe(0):
            return 0
        read, write = os.pipe2(os.O_CLOEXEC)
        self._theirs.append(read)
        if os.isatty(0) and not _in_foreground():
            os.close(write)  # in the background, nothing is typed to us
        else:
            way = Way(0, write, into=True, rest=os.dup(read))
            self._stack.callback(way.finish)
            self.ways.append(way)
        return read

    def _out_by_pipe(self, ours: int) -> int:
        if is_bare_pipe(ours):
            return ours
        read, write = os.pipe2(os.O_CLOEXEC)
        self._theirs.append(write)
        self._stack.callback(os.close, read)
        self.ways.append(Way(read, ours, into=False))
        return write


def _in_foreground() -> bool:
    """Of the terminal at 0. One without job control is everybody's."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return True


def _enter(target: Target, name: str, argv: Sequence[str], streams: _Streams) -> int:
    master = streams.master
    signals = (*_TO_GROUP, *_TO_PROGRAM, *((signal.SIGWINCH,) if master is not None else ()))
    with terminal.caught(signals) as arrived:
        told = process.environment(os.environ)
        try:
            pid, pidfd = spawn.spawn_program(
                target.pidfd,
                target.cgroup_fd,
                target.join,
                process.candidates(argv[0], told.get("PATH", process.DEFAULT_PATH)),
                argv,
                told,
                os.getcwd(),
                streams.fds,
                tty=master is not None,
                die_with_caller=True,
                nests=target.nests,
            )
        except spawn.SpawnError as error:
            raise refusal(error, name, argv[0]) from None
        finally:
            streams.close_theirs()
        child = Process(pid, pidfd, argv)
        with contextlib.ExitStack() as stack:
            stack.callback(child.close)
            if master is not None:
                stack.enter_context(terminal.raw(0))
            Relay(streams.ways).run(pidfd, arrived, _forwarder(child, master))
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
