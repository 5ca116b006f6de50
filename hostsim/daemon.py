"""The daemon of one host: builds it, answers the control socket, takes it down.

    python -m hostsim.daemon FILE [--ready FD]

With --ready it detaches its output to the host's log and tells the descriptor, in one line of the
control protocol, whether the host stands; without, it stays in the foreground and logs to stderr.
SIGTERM and SIGINT take the host down. What a request or `up` fails with is caught here and becomes
the answer, one line.
"""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import inspect
import logging
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from hostsim import protocol
from hostsim.errors import HostsimError
from hostsim.host import Host
from hostsim.hostfile import difference
from hostsim.hostfile import file as hostfile
from hostsim.model import HostSpec
from netns import journal

log = logging.getLogger("hostsim.daemon")

NICE = -10
"""Of the daemon (setpriority(2))."""

Answer = Callable[[dict[str, Any]], Any]


class Daemon:
    """The control socket of a running host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._stop = asyncio.Event()
        self._closers: set[asyncio.Task[None]] = set()
        self._ops: dict[str, Answer] = {
            "status": lambda _: host.status(),
            "target": lambda request: host.target(_text(request, "vm")),
            "flows": lambda _: host.dataplane.report.flows(),
            "rules": lambda _: host.dataplane.report.rules(),
            "routes": lambda _: host.dataplane.report.routes(),
            "apply": lambda request: _apply(host, hostfile.load(_text(request, "file"))),
            "explain": lambda request: host.dataplane.report.explain(
                _text(request, "vm"), _text(request, "flow")
            ),
            "verify": lambda _: host.verify(),
            "devices": lambda _: host.devices(),
            "flip": lambda request: host.kmc.flip(_text(request, "os"), "cli"),
            "down": lambda _: None,
        }

    async def serve(self, path: Path, ready: Callable[[], None]) -> None:
        """Answer on the socket `path` until `down` or a signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        with _umask(0o177):
            server = await asyncio.start_unix_server(self._talk, path, limit=1 << 20)
        async with server:
            ready()
            await self._stop.wait()

    async def closed(self) -> None:
        """Wait until the answers under way are sent."""
        await asyncio.gather(*self._closers, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._closers.add(task)
        try:
            while line := await reader.readline():
                request: dict[str, Any] = {}
                try:
                    request = protocol.decode(line)
                    answer = protocol.success(await self._answer(request))
                except HostsimError as error:
                    answer = protocol.failure(error)
                except Exception as error:
                    log.exception("%s", request.get("op"))
                    answer = protocol.failure(HostsimError(str(request.get("op")), str(error)))
                writer.write(protocol.encode(answer))
                await writer.drain()
                if request.get("op") == "down":
                    self._stop.set()
                    break
        except (ConnectionError, ValueError):
            log.info("a client of the control socket went away or sent a line too long")
        finally:
            self._closers.discard(task)
            writer.close()

    async def _answer(self, request: dict[str, Any]) -> Any:
        op = self._ops.get(str(request.get("op")))
        if op is None:
            raise HostsimError(f"operation {request.get('op')!r}", "this daemon does not know it")
        result = op(request)
        return await result if inspect.isawaitable(result) else result


def _apply(host: Host, spec: HostSpec) -> dict[str, Any]:
    return host.dataplane.apply(spec) | {"ignored": difference.unapplied(host.spec, spec)}


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str):
        raise HostsimError(str(request.get("op")), f"the request has no {key}")
    return value


@contextlib.contextmanager
def _umask(mask: int) -> Any:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _claim(spec: HostSpec) -> tuple[Path, int]:
    """The host's folder and the descriptor that holds its lock. Raises HostsimError."""
    folder = protocol.folder(spec.name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(lock)
        raise HostsimError(
            f"up {spec.path.name}",
            f"host {spec.name} is up already",
            f"hostsim down --host {spec.name} takes it down first",
        ) from None
    if (folder / "journal").exists():
        os.close(lock)
        raise HostsimError(
            f"up {spec.path.name}",
            f"a daemon of host {spec.name} died and left things behind",
            "hostsim clean removes them",
        )
    return folder, lock


async def _run(spec: HostSpec, folder: Path, tell: Callable[[dict[str, Any]], None]) -> None:
    host = Host(spec, folder)
    await host.start()
    gc.collect()
    gc.freeze()  # what is there now stays: later collections, in the middle of a flip, pass it over
    daemon = Daemon(host)
    try:
        await daemon.serve(
            folder / "control.sock",
            lambda: tell(protocol.success({"host": spec.name, "pid": os.getpid()})),
        )
        await daemon.closed()
    finally:
        await host.stop()


def _raise_files_limit() -> None:
    """A VM takes several descriptors; the soft limit of a login would end at some 300 of them.
    Programs in VMs start with the usual one (cext/vm/spawn.c)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_to(stream: TextIO) -> None:
    # Do not collect record fields that the format does not print (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(
        stream=stream, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )


def _come_first() -> None:
    """Run the daemon before the OSes' programs: a person waits for a flip. Children get normal
    priority (SCHED_RESET_ON_FORK, sched(7)). Without CAP_SYS_NICE nothing changes."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, NICE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="hostsim.daemon")
    parser.add_argument("file")
    parser.add_argument("--ready", type=int, metavar="FD")
    options = parser.parse_args()
    told = False

    def tell(answer: dict[str, Any]) -> None:
        nonlocal told
        told = True
        if options.ready is None:
            log.info("host %s is up", answer["result"]["host"])
            return
        os.write(options.ready, protocol.encode(answer))
        os.close(options.ready)

    folder: Path | None = None
    try:
        spec = hostfile.load(options.file)
        folder, _ = _claim(spec)
        _raise_files_limit()
        _come_first()
        if options.ready is None:
            _log_to(sys.stderr)
        else:
            os.set_inheritable(options.ready, False)
            output = os.open(
                folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            os.dup2(output, 2)
            os.close(output)
            _log_to(sys.stderr)
        asyncio.run(_run(spec, folder, tell))
    except (HostsimError, OSError) as error:
        failure = error if isinstance(error, HostsimError) else HostsimError("host", str(error))
        if told or options.ready is None:
            print(f"hostsim: {failure}", file=sys.stderr)
        else:
            os.write(options.ready, protocol.encode(protocol.failure(failure)))
        status = failure.status
    else:
        status = 0
    if folder is not None:
        _tidy(folder)
    return status


def _tidy(folder: Path) -> None:
    """Remove the host's folder, unless something in its journal resists: then `clean` needs it."""
    record = folder / "journal"
    failures = journal.undo(record) if record.exists() else []
    for failure in failures:
        log.error("could not remove: %s", failure)
    if not failures:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
