# SPDX-License-Identifier: Apache-2.0
"""Programs in VMs, as subprocess has them: a `Completed` was run, a `Program` runs.

What a program writes is kept in memory, unless the caller asks for a pipe: it never gets our own
terminal. A thread of ours waits for each program, because a VM cannot end before whoever started a
program in it has reaped it.
"""

import contextlib
import io
import os
import re
import select
import selectors
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, cast

from hostsim.errors import HostsimError
from netns.process import Process

OUTPUT_MAX = 64 << 20
"""Bytes that are read of what a program has written."""
GRACE = 2.0
"""Seconds that a program has to end after SIGTERM at the end of its `with` block."""
IN_WORDS = 'write it in words: run("ping", "-c", "4", "server"), or run("sh", "-c", "ip addr")'
PIECE = 1 << 16
"""Bytes that go by a pipe at a time."""
PAUSE = 0.01
"""Seconds between two looks at what was written: nothing tells."""


@dataclass(frozen=True)
class Completed:
    """A program that has ended. returncode: its exit status, -N if signal N ended it."""

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class CommandError(HostsimError):
    """A program failed, or ran too long (returncode None)."""

    def __init__(
        self, what: str, why: str, returncode: int | None, stdout: str, stderr: str
    ) -> None:
        said = (stderr or stdout).strip().splitlines()
        super().__init__(what, f"{why}: {said[-1]}" if said else why)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


class Kept:
    """What a program writes, in memory (memfd_create(2)). It counts against the VM's memory."""

    def __init__(self, contents: bytes = b"") -> None:
        self.fd = os.memfd_create("hs-output", os.MFD_CLOEXEC)
        os.fchmod(self.fd, 0o666)  # some open /dev/stdout once more
        if contents:
            os.pwrite(self.fd, contents, 0)

    def text(self) -> str:
        """Of so far."""
        if self.fd < 0:
            return ""
        return os.pread(self.fd, OUTPUT_MAX, 0).decode(errors="replace")

    def close(self) -> None:
        """Twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Program:
    """A program that was started in a VM; as a context manager, it is ended with the block.

    stdin, stdout, stderr: text files of the pipes that were asked for, else None. output, errors:
    what it has written so far if no pipe was asked for; they stay when it is closed.
    """

    def __init__(
        self, process: Process, vm: str, out: Kept, err: Kept, closed: Callable[["Program"], None]
    ) -> None:
        self.args = process.args
        self.vm = vm
        self.pid = process.pid
        self._process = process
        self._kept = (out, err)
        self._last: tuple[str, str] | None = None
        self._closed = closed
        self._told: memoryview | None = None  # by `communicate`: what it is still to be told
        self._heard: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._closing = threading.Lock()
        self.stdin = _text(process.stdin)
        self.stdout = _text(process.stdout)
        self.stderr = _text(process.stderr)
        self._reaper = threading.Thread(target=process.wait, name=f"reaper {self.args[0]}")
        self._reaper.daemon = True
        self._reaper.start()

    @property
    def _named(self) -> str:
        """What errors call it."""
        return f"{self.args[0]} in {self.vm}"

    @property
    def returncode(self) -> int | None:
        """Its exit status, -N if signal N ended it, None while it runs."""
        return self._process.returncode if self._last is not None else self._process.poll()

    def poll(self) -> int | None:
        """The returncode."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The returncode, once it has ended. Raises TimeoutError after `timeout` seconds."""
        self._reaper.join(timeout)
        code = self.returncode
        if code is None:
            raise TimeoutError(f"{self._named} still runs after {timeout} s")
        return code

    @property
    def output(self) -> str:
        """What it has written to its standard output."""
        return self._last[0] if self._last is not None else self._kept[0].text()

    @property
    def errors(self) -> str:
        """What it has written to its standard error output."""
        return self._last[1] if self._last is not None else self._kept[1].text()

    def wait_for(self, pattern: str, within: float = 5.0) -> re.Match[str]:
        """Wait until what it has written has a match of the regular expression; that match. Raises
        HostsimError if it ends without, or after `within` seconds."""
        deadline = time.monotonic() + within
        while True:
            code = self.returncode
            for text in (self.output, self.errors):
                if found := re.search(pattern, text, re.MULTILINE):
                    return found
            if code is not None or time.monotonic() > deadline:
                when = f"within {within:g} s" if code is None else f"before it ended with {code}"
                raise CommandError(
                    self._named,
                    f"has not written {pattern!r} {when}",
                    code,
                    self.output,
                    self.errors,
                )
            select.select([], [], [], PAUSE)

    def communicate(
        self, input: str | bytes | None = None, timeout: float | None = None
    ) -> tuple[str, str]:
        """Tell it `input` by its standard input, which ends then, and wait for its end. What it has
        written to its standard output and error output: of a pipe, all that has not been read
        before (a readline reads ahead). Raises TimeoutError after `timeout` seconds: it, or what it
        started, still runs then, and a call without input goes on. Raises HostsimError if it cannot
        be told anything."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if input is not None:
            self._begin_telling(input.encode() if isinstance(input, str) else input)
        with selectors.DefaultSelector() as pipes:
            if self.stdin is not None and not self.stdin.closed:
                pipes.register(self.stdin, selectors.EVENT_WRITE)
            for stream, heard in zip((self.stdout, self.stderr), self._heard.values(), strict=True):
                if stream is not None and not stream.closed:
                    pipes.register(stream, selectors.EVENT_READ, heard)
            while pipes.get_map():
                for key, _ in pipes.select(_left(deadline)):
                    if self._tell(key.fd) if key.data is None else _hear(key.fd, key.data):
                        pipes.unregister(key.fileobj)
                        cast("IO[str]", key.fileobj).close()
                if pipes.get_map() and _left(deadline) == 0:
                    break
            else:
                self._reaper.join(_left(deadline))
            whole = not pipes.get_map()
        if self.returncode is None:
            raise TimeoutError(f"{self._named} still runs after {timeout} s")
        if not whole:
            raise TimeoutError(f"{self._named} has ended, but what it started holds its pipes open")
        out, err = (bytes(heard).decode(errors="replace") for heard in self._heard.values())
        return (
            self.output if self.stdout is None else out,
            self.errors if self.stderr is None else err,
        )

    def _begin_telling(self, told: bytes) -> None:
        if self.stdin is None:
            hint = "popen(..., stdin=subprocess.PIPE)"
            raise HostsimError(self._named, "has no standard input", hint)
        if self.stdin.closed or self._told is not None:
            raise HostsimError(self._named, "has been told all", "its standard input has ended")
        with contextlib.suppress(BrokenPipeError):
            self.stdin.flush()
        os.set_blocking(self.stdin.fileno(), False)
        self._told = memoryview(told)

    def _tell(self, fd: int) -> bool:
        """Whether it has been told all."""
        if self._told:
            try:
                self._told = self._told[os.write(fd, self._told[:PIECE]) :]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                self._told = memoryview(b"")
        return not self._told

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self._last is None:
            self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill it if it runs, and let go of it. Twice is harmless."""
        with self._closing:
            if self._last is not None:
                return
            self._process.kill()
            self._reaper.join()
            self._last = (self._kept[0].text(), self._kept[1].text())
            for kept in self._kept:
                kept.close()
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):  # what it did not live to be told
                        stream.close()
            self._process.close(GRACE)
        self._closed(self)

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        self.terminate()
        self._reaper.join(GRACE)
        self.close()


def _left(deadline: float | None) -> float | None:
    """Seconds until then."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _hear(fd: int, heard: bytearray) -> bool:
    """Whether a pipe has ended. Beyond OUTPUT_MAX, what comes by it is read and forgotten."""
    data = os.read(fd, PIECE)
    heard += data[: OUTPUT_MAX - len(heard)]
    return not data


def _text(stream: IO[bytes] | None) -> IO[str] | None:
    if stream is None:
        return None
    return io.TextIOWrapper(
        cast("io.BufferedReader", stream), errors="replace", line_buffering=True
    )


def command(argv: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The words of a command. Raises HostsimError if there are none, or one is not text."""
    if not argv or not argv[0]:
        raise HostsimError("run", "no command", IN_WORDS)
    for word in argv:
        if not isinstance(word, str | os.PathLike):
            hint = "run(*words) takes a list" if isinstance(word, list | tuple) else IN_WORDS
            raise HostsimError("run", f"{word!r} is no text", hint)
    return [str(os.fspath(word)) for word in argv]
