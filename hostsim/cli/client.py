# SPDX-License-Identifier: Apache-2.0
"""The command line's side of a host: finds hosts, starts their daemon, asks it, cleans up.

Stands on files under /run/hostsim/HOST: a daemon that lives holds a write lock (fcntl(2), F_SETLK)
on `lock`; a folder whose lock is free was left by a daemon that died.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

from hostsim import protocol
from hostsim.errors import HostsimError, UsageError

START_DEADLINE = 120.0  # seconds for a daemon to build its host
STOP_DEADLINE = 60.0
ANSWER_DEADLINE = 90.0
"""Seconds for an answer: a flip may wait for [kmc] release_timeout, which is 60 s at most."""
APPLY_DEADLINE = 240.0
"""Seconds for an apply's: OSes that come have 90 s to boot, those that go 15 s to shut down."""
TAKES_TURNS = ("apply", "link", "restart")
"""What waits for an apply that is under way."""
REFUSED_PAUSE = 0.05
"""Seconds until the next try after a connection was refused."""
CLEAN_HINT = "hostsim clean removes what is left"


def need_root(what: str, hint: str = "") -> None:
    """Raises HostsimError if the caller is not root. hint: what to do; else `what` is a command,
    which is named with its path: sudo(8) has a PATH of its own."""
    if os.geteuid() != 0:
        command = Path(sys.executable).with_name("hostsim")
        raise HostsimError(what, "needs root", hint or f"try: sudo {command} {what}")


def hosts() -> list[dict[str, Any]]:
    """Every host of this machine: name, its daemon's pid (0: none), and state: `up`, `busy` (it is
    being built or taken down, and answers nobody) or `dead` (its daemon is gone)."""
    found = []
    for path in sorted(protocol.RUN.glob("*/lock")):
        pid = _holder(path)
        answers = (path.parent / "control.sock").exists()
        state = "dead" if not pid else "up" if answers else "busy"
        found.append({"host": path.parent.name, "pid": pid, "state": state})
    return found


def _not_up(name: str, state: str) -> HostsimError:
    """Of a host that is known but answers nobody."""
    if state == "dead":
        return HostsimError(f"host {name}", "its daemon died", CLEAN_HINT)
    why = "is being built or taken down"
    return HostsimError(f"host {name}", why, "hostsim ls shows when it is done")


def pick(name: str | None) -> str:
    """The host to speak to: `name`, or the only one that is up. Raises HostsimError, UsageError."""
    states: dict[str, str] = {entry["host"]: entry["state"] for entry in hosts()}
    up = [host for host, state in states.items() if state == "up"]
    if name is not None:
        if name in up:
            return name
        if name in states:
            raise _not_up(name, states[name])
        raise HostsimError(f"host {name}", "is not up", f"up: {', '.join(up) or 'none'}")
    if len(up) == 1:
        return up[0]
    if not up and states:
        raise _not_up(*next(iter(states.items())))
    if not up:
        raise HostsimError("no host is up", "there is nothing to do", "hostsim up FILE starts one")
    raise UsageError("several hosts are up", ", ".join(up), "choose one with --host NAME")


def ask(host: str, op: str, **arguments: Any) -> Any:
    """Send one request to the host's daemon and return its result. A connection that is refused,
    since there are too many, is tried again. Raises HostsimError, also if there is no answer for
    ANSWER_DEADLINE (APPLY_DEADLINE)."""
    request = protocol.encode({"op": op, **arguments})
    seconds = APPLY_DEADLINE if op in TAKES_TURNS else ANSWER_DEADLINE
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while protocol.refused(answer := _ask_once(host, request, seconds)):
        if time.monotonic() > deadline:
            break
        pause.wait(REFUSED_PAUSE)
    return protocol.result(answer)


def _ask_once(host: str, request: bytes, seconds: float) -> dict[str, Any]:
    """The answer by one connection. Raises HostsimError."""
    path = protocol.folder(host) / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(seconds)
        try:
            control.connect(str(path))
        except OSError as error:
            raise HostsimError(
                f"host {host}", f"its daemon does not answer ({error.strerror})", CLEAN_HINT
            ) from None
        try:
            with contextlib.suppress(BrokenPipeError):  # it may have been refused already
                control.sendall(request)
            return _answer(host, control)
        except TimeoutError:
            raise HostsimError(
                f"host {host}",
                f"its daemon has not answered for {seconds:.0f} s",
                f"kill -9 {_holder(path.with_name('lock'))}, then hostsim clean, ends it",
            ) from None
        except ConnectionError:
            raise _broken_off(host) from None


def _answer(host: str, control: socket.socket) -> dict[str, Any]:
    """All messages of an answer, as one. Raises HostsimError, OSError."""
    with control.makefile("rb") as lines:
        rows: list[Any] = []
        while "rows" in (answer := _message(host, lines)):
            rows += answer["rows"]
            if answer.get("end"):
                return protocol.success(rows)
        return answer


def _message(host: str, lines: IO[bytes]) -> dict[str, Any]:
    """The next message of an answer. Raises HostsimError."""
    line = lines.readline(protocol.LINE_MAX)
    if len(line) == protocol.LINE_MAX:
        raise HostsimError(
            f"host {host}", f"its answer is longer than {protocol.LINE_MAX >> 20} MiB"
        )
    if not line.endswith(b"\n"):
        raise _broken_off(host)
    return protocol.decode(line)


def _broken_off(host: str) -> HostsimError:
    """The daemon has ended the connection: it is dead, or on its way down, or the child that
    answered was ended."""
    if _holder(protocol.folder(host) / "lock"):
        return HostsimError(f"host {host}", "its answer was broken off", "ask again")
    return HostsimError(f"host {host}", "its daemon died while it was asked", CLEAN_HINT)


def become(file: str, text: str, log_level: str) -> NoReturn:
    """Become the daemon of the host file of this text, which came from `file`. log_level: of what
    its log has, at least."""
    source = _in_memory(text)
    os.set_inheritable(source, True)
    os.execv(sys.executable, _command(file, source, log_level))


class Child(Protocol):
    """What is asked of a daemon that was started: `subprocess.Popen` has it."""

    pid: int
    stderr: IO[bytes] | None
    returncode: Any

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...


Start = Callable[[int], Child]
"""Starts a daemon that tells this descriptor of the caller's whether its host stands. Raises
OSError."""


def interpreter(file: str, text: str, log_level: str = "info") -> Start:
    """What starts a daemon in a new interpreter, for `become`'s arguments."""

    def start(ready: int) -> Child:
        source = _in_memory(text)
        try:
            return subprocess.Popen(
                [*_command(file, source, log_level), "--ready", str(ready)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(ready, source),
                start_new_session=True,
            )
        finally:
            os.close(source)

    return start


class Interrupted(HostsimError):
    """SIGINT came while a host was built."""


class Starting:
    """A daemon that builds the host of a file.

    with Starting(file, start) as starting:
        answer = starting.ready()     what it says once the host is ready

    If the block ends otherwise, the daemon is ended, with what it has built; a KeyboardInterrupt
    in it, wherever it comes, is Interrupted then.
    """

    def __init__(self, file: str, start: Start) -> None:
        self._file = file
        self._answered = False
        ours, theirs = os.pipe()
        try:
            self._daemon = start(theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._told = open(ours, "rb")  # noqa: SIM115

    def __enter__(self) -> "Starting":
        return self

    def ready(self) -> dict[str, Any]:
        """Wait until the host is ready. Raises HostsimError."""
        if not select.select([self._told], [], [], START_DEADLINE)[0]:
            self._give_up(f"not ready after {START_DEADLINE:.0f} s")
        line = self._told.readline()
        self._answered = True
        if not line:
            raise self._ended()
        try:
            answer = protocol.result(protocol.decode(line))
        except HostsimError:
            self._daemon.wait()  # that was the last that it does
            raise
        self._daemon.returncode = 0  # it goes on by itself: no "still running" warning
        return dict(answer)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is KeyboardInterrupt and not self._answered:
                self._give_up("interrupted", Interrupted)
            if not self._answered:
                self._answered = True
                self._daemon.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._daemon.wait(STOP_DEADLINE)
        finally:
            self._told.close()
            assert self._daemon.stderr is not None
            self._daemon.stderr.close()

    def _ended(self) -> HostsimError:
        """The error of a daemon that has ended without a word."""
        assert self._daemon.stderr is not None
        said = self._daemon.stderr.read().decode(errors="replace").strip().splitlines()
        status = self._daemon.wait()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        last = f": {said[-1]}" if said else ""
        return HostsimError(f"up {self._file}", f"the daemon ended {how}{last}", CLEAN_HINT)

    def _give_up(self, why: str, kind: type[HostsimError] = HostsimError) -> NoReturn:
        """Have the daemon take down what it has built so far, wait, and raise HostsimError."""
        self._answered = True
        what = f"up {self._file}"
        self._daemon.terminate()
        try:
            self._daemon.wait(STOP_DEADLINE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            hint = f"kill -9 {self._daemon.pid}, then hostsim clean"
            raise kind(what, f"{why}, and its daemon has not ended yet", hint) from None
        raise kind(what, f"{why}; what was built is taken down again") from None


def _in_memory(text: str) -> int:
    """A descriptor to read the text from; the caller's."""
    source = os.memfd_create("host file", os.MFD_CLOEXEC)
    with open(source, "w", encoding="utf-8", closefd=False) as writing:
        writing.write(text)
    os.lseek(source, 0, os.SEEK_SET)
    return source


def _command(file: str, source: int, log_level: str) -> list[str]:
    """The command line of a daemon. source: the descriptor of its host file."""
    words = [sys.executable, "-P", "-m", "hostsim.daemon", file, "--text", str(source)]
    return [*words, "--log-level", log_level]


def up(file: str, text: str) -> dict[str, Any]:
    """Start a daemon, and wait until its host is ready, see Starting. Raises HostsimError."""
    with Starting(file, interpreter(file, text)) as starting:
        return starting.ready()


def down(name: str | None) -> str:
    """Take a host down, also one that is still being built, and wait until its daemon is gone; its
    name. name: None for the only one that is up. Raises HostsimError, also if the daemon has left
    something."""
    busy = [entry["host"] for entry in hosts() if entry["state"] == "busy"]
    host = name if name is not None and name in busy else pick(name)
    pid, handle = _daemon(host)
    try:
        if host not in busy:
            ask(host, "down")
        elif handle >= 0:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        if handle >= 0 and not select.select([handle], [], [], STOP_DEADLINE)[0]:
            raise HostsimError(
                f"down {host}",
                f"the daemon still runs after {STOP_DEADLINE:.0f} s",
                f"kill -9 {pid}, then hostsim clean, ends it",
            )
    finally:
        if handle >= 0:
            os.close(handle)
    with contextlib.suppress(FileNotFoundError):
        left = protocol.left(host).read_text().splitlines()
        raise HostsimError(f"down {host}", f"could not remove: {'; '.join(left)}", CLEAN_HINT)
    return host


def enter(host: str, vm: str, argv: list[str]) -> int:
    """Run a command in a VM with our terminal and files; its exit status. Raises HostsimError.

    hostsim-agent is found there without its path: our own folder of commands ends the PATH.
    """
    from hostsim.cli import enter as entering

    ours = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), ours))
    status: int = entering.enter(ask(host, "target", vm=vm), argv)
    return status


def clean() -> list[str]:
    """Remove every host without a living daemon, and what benches that were killed have left; their
    names. Raises HostsimError."""
    cleaned, failures = [], []
    for path in (*sorted(protocol.RUN.glob("*/")), *sorted(protocol.BENCHES.glob("*/"))):
        try:
            left = _clean(path)
        except (BlockingIOError, PermissionError):  # its daemon lives
            continue
        except FileNotFoundError:  # nobody's folder, or of a host that is just being claimed
            with contextlib.suppress(OSError):
                path.rmdir()
            continue
        failures += [f"{path.name}: {line}" for line in left]
        cleaned += [] if left else [path.name]
    if failures:
        done = f" (cleaned: {', '.join(cleaned)})" if cleaned else ""
        raise HostsimError("clean", f"could not remove: {'; '.join(failures)}{done}", "see dmesg")
    return cleaned


def _clean(path: Path) -> list[str]:
    """Undo the journal in a folder, and remove it unless something resists: a line for each. Raises
    OSError if the folder has no lock, or its daemon lives."""
    from netns import journal

    with open(path / "lock", "r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        record = path / "journal"
        failures = journal.undo(record) if record.exists() else []
        if not failures:
            from shutil import rmtree  # with what it loads, a host is up later

            rmtree(path)
    return failures


def _daemon(host: str) -> tuple[int, int]:
    """The pid of a host's daemon, and a pidfd, the caller's: 0 and -1 if there is none."""
    lock = protocol.folder(host) / "lock"
    pid = _holder(lock)
    try:
        handle = os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        return 0, -1
    if handle >= 0 and _holder(lock) != pid:  # it has ended meanwhile, and the pid may be another's
        os.close(handle)
        return 0, -1
    return pid, handle


def _holder(lock: Path) -> int:
    """The pid of the process that holds the lock (F_GETLK); 0 if nobody does."""
    layout = "hhqqi"  # struct flock with 64-bit offsets
    try:
        with open(lock, "rb") as file:
            question = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, question))
            return 0 if kind == fcntl.F_UNLCK else int(pid)
    except OSError:
        return 0
