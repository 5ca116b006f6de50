# SPDX-License-Identifier: Apache-2.0
"""A daemon that is a copy of the process that starts it: it has no interpreter to start, and has
loaded already what both need.

    possible()                                  whether this process can have one
    child = start(spec, file, level, ready)     for hostsim/cli/client.py: `Starting`

Only for a process that is a command line: a copy has the caller's modules, and of its threads the
one that calls (fork(2)). Others start a new interpreter.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from hostsim.model import HostSpec


class Forked:
    """A child as `subprocess.Popen` has one, as far as it is needed: pid, stderr, returncode, wait,
    terminate. If nobody is told of the end of children (SIGCHLD is ignored: the kernel forgets them
    at once), its status is 0, as Popen has it."""

    def __init__(self, pid: int, stderr: IO[bytes]) -> None:
        self.pid = pid
        self.stderr: IO[bytes] | None = stderr
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or -N if signal N ended it. Raises subprocess.TimeoutExpired after so
        many seconds."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._wait(timeout)
            status = 0
            with contextlib.suppress(ChildProcessError):
                status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.returncode = status
        return self.returncode

    def _wait(self, timeout: float | None) -> None:
        from netns.process import wait_end  # only a start that fails waits

        handle = os.pidfd_open(self.pid)
        try:
            if not wait_end(handle, timeout):
                raise subprocess.TimeoutExpired("hostsim.daemon", timeout or 0.0)
        finally:
            os.close(handle)

    def terminate(self) -> None:
        """SIGTERM, unless it has been waited for."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


def possible() -> bool:
    """Not if there are threads. Nor by `python -m hostsim`: that has the caller's folder for the
    first one that modules are looked for in, and perhaps taken some of hostsim's from there."""
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    clean = sys.flags.safe_path or sys.path[:1] == [script]
    return clean and threading.active_count() == 1


def start(spec: "HostSpec", file: str, log_level: str, ready: int) -> Forked:
    """Start hostsim.daemon in a session of its own, with the descriptor `ready` and no other of the
    caller's. In the child it does not return: nothing of the caller's is done there. Raises
    OSError.

    spec: what the host file says
    file, log_level, ready: see hostsim/daemon.py
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else both would write what is in there
    ours, theirs = os.pipe()
    try:
        pid = os.fork()
    except BaseException:
        os.close(ours)
        os.close(theirs)
        raise
    if not pid:
        status = 1
        try:
            _detach(theirs, ready)
            status = _serve(spec, [file, "--ready", str(ready), "--log-level", log_level])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(theirs)
    return Forked(pid, open(ours, "rb"))


def _detach(stderr: int, kept: int) -> None:
    """Have what a new process would: no terminal, /dev/null, and the descriptor it was given."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(stderr, 2)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != kept:
            with contextlib.suppress(OSError):  # it was for the list
                os.close(number)
    # new ones: those there were know what is behind their descriptors
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def _serve(spec: "HostSpec", words: Sequence[str]) -> int:
    """The exit status."""
    if not sys.flags.safe_path:
        del sys.path[0]  # where the command is, see `possible`: none of our modules are there
    from hostsim import daemon

    return daemon.main(words, spec)
