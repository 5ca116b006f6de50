# SPDX-License-Identifier: Apache-2.0
"""The daemon of one host: builds it, answers the control socket, takes it down.

    python -m hostsim.daemon FILE [--text FD] [--ready FD] [--log-level LEVEL]
    main([FILE, ...], spec)     the same, in a process that is to become it (hostsim/forked.py)

With --text it reads the host file from the descriptor, to its end; FILE says where it came from.
With --ready it detaches its output to the host's log and tells the descriptor, in one line of the
control protocol, whether the host stands; without, it stays in the foreground and logs to stderr:
to the journal, if it is a service's, and the service's manager is told (hostsim/service.py).
SIGTERM and SIGINT end it at any time: a host that is still being built is taken down again. What
`up` fails with is caught here and becomes the answer, one line.

What takes the kernel long is begun first, in threads (beforehand.py); then systems that boot are
started (ahead.py). What serves the host (serving.py) is loaded after that: it takes half of the
time that such a system takes to be up.

A daemon that ends leaves nothing. If something resists, the host's folder stays for `hostsim
clean`, and its file `left` says what it was.
"""

import argparse
import contextlib
import faulthandler
import fcntl
import gc
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from hostsim import beforehand, protocol, service
from hostsim.errors import HostsimError, reason
from hostsim.model import HostSpec
from netns import journal, parameters, priority

log = logging.getLogger("hostsim.daemon")

NAME = "hostsim.daemon"
"""Of the process, for ps(1) and pgrep(1): its command line may be that of `hostsim up`."""
COMM = Path("/proc/self/comm")


def _claim(spec: HostSpec) -> tuple[Path, int]:
    """The host's folder and the descriptor that holds its lock. Raises HostsimError."""
    folder = protocol.folder(spec.name)
    try:
        lock = _lock(folder)
    except (BlockingIOError, PermissionError):
        raise HostsimError(
            f"up {spec.path.name}",
            f"host {spec.name} is up already",
            f"hostsim down --host {spec.name} takes it down first",
        ) from None
    except OSError as error:
        raise HostsimError(
            f"up {spec.path.name}", f"its folder {folder} cannot be made: {reason(error)}"
        ) from None
    if (folder / "journal").exists():
        os.close(lock)
        raise HostsimError(
            f"up {spec.path.name}",
            f"a daemon of host {spec.name} died and left things behind",
            "hostsim clean removes them",
        )
    return folder, lock


def _lock(folder: Path) -> int:
    """Make the folder and lock it. `clean` may remove one that it finds before we have locked it:
    then it is made again. Raises OSError."""
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(folder / "lock")):
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _raise_files_limit() -> None:
    """A VM takes several descriptors; the soft limit of a login would end at some 300 of them.
    Programs in VMs start with the usual one (cext/vm/child.c)."""
    most = parameters.files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _log_to(stream: TextIO, level: str, journal: bool) -> None:
    # Do not collect record fields that the format does not print (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(
        stream=stream, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    if journal:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(service.Lines())
    for room in ("hostsim", "netns"):  # not of libraries, which have much to say
        logging.getLogger(room).setLevel(level.upper())


class _Ready:
    """Whoever started the daemon, who waits at the descriptor `fd` for one line; None: nobody does,
    and the daemon stays in the foreground. journal: stderr leads to the journal."""

    def __init__(self, fd: int | None, journal: bool) -> None:
        self._fd = fd
        self._journal = journal
        self.told = False
        if fd is not None:
            os.set_inheritable(fd, False)

    def detach(self, log: Path) -> None:
        """From here on what is written to stderr goes to the host's log, if somebody waits. Raises
        OSError."""
        if self._fd is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            output = os.open(log, flags, 0o600)
            os.dup2(output, 2)
            os.close(output)

    def up(self, host: str) -> None:
        """The host stands. Raises BrokenPipeError if nobody waits any more."""
        log.info("host %s is up", host)
        self._tell(protocol.success({"host": host, "pid": os.getpid()}))

    def failed(self, error: HostsimError) -> None:
        """It could not be built, or not be taken down."""
        if self.told or self._fd is None:
            text = f"hostsim: {error}"
            print(service.prefixed(text, 3) if self._journal else text, file=sys.stderr, flush=True)
        else:
            with contextlib.suppress(BrokenPipeError):
                self._tell(protocol.failure(error))

    def _tell(self, answer: dict[str, Any]) -> None:
        self.told = True
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                os.write(fd, protocol.encode(answer))
            finally:
                os.close(fd)


def _on_signal(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in service.ENDING:
        signal.signal(number, handler)


def _end_early(*_: object) -> None:
    raise HostsimError("up", "ended by a signal")


def main(words: Sequence[str] | None = None, spec: HostSpec | None = None) -> int:
    """words: its arguments; None: the process'. spec: the host file, if it has been read already.
    The exit status."""
    with contextlib.suppress(OSError):
        COMM.write_text(NAME)
    parser = argparse.ArgumentParser(prog="hostsim.daemon")
    parser.add_argument("file")
    parser.add_argument("--text", type=int, metavar="FD")
    parser.add_argument("--ready", type=int, metavar="FD")
    parser.add_argument("--log-level", choices=protocol.LEVELS, default="info")
    options = parser.parse_args(words)
    priority.share_often()
    gc.disable()  # until the host is up (serving.py): what is loaded now stays, and is no garbage
    early: list[int] = []

    def note(number: int, _: object) -> None:
        early.append(number)

    _on_signal(note)
    manager = service.Manager.of(os.environ)
    ready = _Ready(options.ready, manager.journal)
    folder: Path | None = None
    failure: HostsimError | None = None
    try:
        beforehand.prepare()
        if spec is None:
            spec = _load(options.file, options.text, early)
            _on_signal(note)
        folder, _ = _claim(spec)
        _raise_files_limit()
        ready.detach(folder / "log")
        _log_to(sys.stderr, options.log_level, manager.journal)
        if manager.watched:
            faulthandler.enable()  # the watchdog's SIGABRT then tells where the loop hangs
        _live(spec, folder, partial(ready.up, spec.name), manager, early)
    except Exception as error:
        failure = _as_answer(error, options.file)
    _on_signal(signal.SIG_IGN)
    if folder is not None and (left := _tidy(folder)):
        why = f"{failure}; and " if failure else ""
        failure = HostsimError(
            f"host {folder.name}",
            f"{why}could not remove: {'; '.join(left)}",
            "hostsim clean tries again",
        )
    manager.close()
    if failure is not None:
        ready.failed(failure)
    return failure.status if failure is not None else 0


def _live(
    spec: HostSpec,
    folder: Path,
    up: Callable[[], None],
    manager: service.Manager,
    early: Sequence[int],
) -> None:
    """The host's life, from here to its end. Each module is loaded while something is done that it
    is not needed for. up: called once the host stands. early: signals that have come so far: nobody
    breaks off what is being made."""
    with contextlib.closing(beforehand.Beforehand(any(vm.boots for vm in spec.vms))) as kernel:
        kernel.begin()
        from hostsim.ahead import Ahead

        with contextlib.closing(Ahead(spec, folder, kernel.loading)) as ahead:
            _on_signal(lambda *_: ahead.end())
            if early:
                ahead.end()
            ahead.start()
            from hostsim import serving

            serving.run(spec, folder, ahead, up, manager)


def _load(file: str, text: int | None, early: Sequence[int]) -> HostSpec:
    """What is read may be a pipe that nobody writes into: a signal breaks it off."""
    from hostsim.hostfile import file as hostfile

    _on_signal(_end_early)
    if early:
        _end_early()
    if text is None:
        return hostfile.load(file)
    with open(text, encoding="utf-8") as source:
        return hostfile.parse(source.read(), Path(file))


def _as_answer(error: Exception, file: str) -> HostsimError:
    """The line for an error; one that nobody expected is logged whole, and the line says where it
    comes from and how to see more."""
    if isinstance(error, HostsimError):
        return error
    if isinstance(error, OSError):
        return HostsimError(f"up {file}", reason(error))
    log.exception("up %s", file)
    *_, last = traceback.extract_tb(error.__traceback__)
    place = f"{Path(last.filename).name}:{last.lineno}"
    return HostsimError(
        f"up {file}",
        f"{reason(error)} ({place}): this is a fault of hostsim",
        "hostsim up --foreground shows where it comes from",
    )


def _tidy(folder: Path) -> list[str]:
    """Remove the host's folder, unless something in its journal resists: then `clean` needs it, and
    its file `left` has a line for each. Those lines."""
    record = folder / "journal"
    failures = journal.undo(record) if record.exists() else []
    for failure in failures:
        log.error("could not remove: %s", failure)
    if failures:
        protocol.left(folder.name).write_text("".join(f"{line}\n" for line in failures))
    else:
        from shutil import rmtree  # with what it loads, a host is up later

        rmtree(folder)
    return failures


if __name__ == "__main__":
    sys.exit(main())
