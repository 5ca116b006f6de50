# SPDX-License-Identifier: Apache-2.0
"""The daemon of one host: builds it, answers the control socket, takes it down.

    python -m hostsim.daemon FILE [--text FD] [--ready FD] [--log-level LEVEL]

With --text it reads the host file from the descriptor, to its end; FILE says where it came from.
With --ready it detaches its output to the host's log and tells the descriptor, in one line of the
control protocol, whether the host stands; without, it stays in the foreground and logs to stderr:
to the journal, if it is a service's, and the service's manager is told (hostsim/service.py).
SIGTERM and SIGINT end it at any time: a host that is still being built is taken down again. What a
request or `up` fails with is caught here and becomes the answer, one line.

A daemon that ends leaves nothing. If something resists, the host's folder stays for `hostsim
clean`, and its file `left` says what it was.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import fcntl
import gc
import inspect
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from hostsim import asides, longwinded, protocol, service
from hostsim.asides import Asides
from hostsim.clients import CHUNK, LONG, Clients, Requests, process_of
from hostsim.errors import HostsimError, reason
from hostsim.host import Host
from hostsim.hostfile import file as hostfile
from hostsim.hostfile import links
from hostsim.hostfile.source import FILE_MAX
from hostsim.model import HostSpec, Json
from hostsim.stalls import Stalls
from hostsim.teardown import in_thread
from netns import journal, parameters, priority

log = logging.getLogger("hostsim.daemon")

NICE = -10
"""Of the daemon: a person waits for a flip."""
SETTLE = 1.0
"""Seconds that an answer about packets waits for those that are under way."""
PAUSE = 0.05
"""Seconds between two looks at them."""
FLUSH = 1.0
"""Seconds that answers may take once the host is down."""
REQUEST_MAX = 2 * FILE_MAX
"""Bytes of a request's line: it may have a host file in it."""
AT_ONCE = 8
"""Connections that are taken before the loop looks at anything else."""
WAITING = 1024
"""Connections that wait for that; connect(2) of further ones fails, if it is not to wait."""
ENDING = (signal.SIGTERM, signal.SIGINT)

Answer = Callable[[dict[str, Any]], Any]
Long = Callable[[dict[str, Any]], longwinded.Question]


class Daemon:
    """The control socket of a running host. end: set when somebody asks for `down`."""

    def __init__(self, host: Host, end: asyncio.Event, stalls: Stalls) -> None:
        self._end = end
        self._stalls = stalls
        self._asides = Asides(stalls)
        self._server: asyncio.Server | None = None
        self._path = Path()
        self._clients = Clients()
        self._turns = asyncio.Semaphore(LONG)
        self._talks: set[asyncio.Task[None]] = set()
        self._ops: dict[str, Answer] = {
            "target": lambda request: host.target(protocol.text(request, "vm")),
            "apply": partial(_apply, host),
            "restart": lambda request: host.restart(protocol.text(request, "vm")),
            "links": lambda _: host.links(),
            "link": partial(_link, host),
            "devices": lambda _: host.devices(),
            "sight": lambda _: host.dataplane.sight(),
            "flip": lambda request: host.kmc.flip(protocol.text(request, "os"), "cli"),
            "down": lambda _: None,
        }
        self._long: dict[str, Long] = longwinded.answers(lambda: host.dataplane.report)
        self._status = partial(_status, host, stalls)

    async def open(self, path: Path) -> None:
        """Listen on the socket `path`. Raises OSError."""
        path.unlink(missing_ok=True)
        with contextlib.ExitStack() as failing:
            listener = failing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            with _umask(0o177):
                listener.bind(str(path))
            self._server = await asyncio.start_unix_server(
                self._talk, sock=listener, limit=CHUNK, backlog=AT_ONCE
            )
            failing.pop_all()  # the server's now
        listener.listen(WAITING)  # the backlog was for asyncio: so many it takes at a time
        self._path = path

    def shut(self) -> None:
        """Take no more connections, and end the long answers. Twice is harmless."""
        self._asides.kill()
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)  # `hostsim ls` sees by it who answers

    async def close(self) -> None:
        """End all connections: at once if they wait for no answer; the others after their answer,
        or after FLUSH seconds. Twice is harmless."""
        self.shut()
        self._clients.end_idle()
        if self._talks:
            await asyncio.wait(self._talks, timeout=FLUSH)
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        number = self._clients.enter(process_of(writer), task.cancel)
        if number is None:
            writer.write(protocol.encode(protocol.failure(protocol.TOO_MANY)))
            writer.close()
            return
        self._talks.add(task)
        writer.transport.set_write_buffer_limits(0)  # `drain` is for all of it
        requests = Requests(reader, self._turns, REQUEST_MAX)
        try:
            while line := await requests.next():
                with self._clients.answering(number):
                    await self._reply(line, writer)
                await asyncio.sleep(0)  # who sends many at once has one answer a turn of the loop
                if self._end.is_set():
                    break
        except _CutShort as error:
            log.info("%s", error)
        except (ConnectionError, TimeoutError, ValueError):
            log.info(
                "a client of the control socket went away, did not read its answer, or sent half a "
                "request, or a line too long"
            )
        finally:
            requests.close()
            self._clients.leave(number)
            self._talks.discard(task)
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # `close` would wait until it is read
            writer.close()

    async def _reply(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        """Answer one request. Raises TimeoutError or _CutShort if the client does not read that."""
        request: dict[str, Any] = {}
        try:
            request = protocol.decode(line)
            if request.get("op") == "status" or request.get("op") in self._long:
                await self._answer_beside(request, writer)
                return
            answer = protocol.success(await self._answer(request))
        except _CutShort:
            raise
        except HostsimError as error:
            answer = protocol.failure(error)
        except Exception as error:
            log.exception("%s", request.get("op"))
            answer = protocol.failure(HostsimError(str(request.get("op")), reason(error)))
        writer.write(protocol.encode(answer))
        async with asyncio.timeout(asides.PATIENCE):
            await writer.drain()
        if request.get("op") == "down":
            self._end.set()

    async def _answer(self, request: dict[str, Any]) -> Any:
        op = self._ops.get(str(request.get("op")))
        if op is None:
            raise HostsimError(f"operation {request.get('op')!r}", "this daemon does not know it")
        with self._stalls.doing(str(request.get("op"))):
            result = op(request)
        return await result if inspect.isawaitable(result) else result

    async def _answer_beside(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """Have a child answer, again and again for as long as what it sees has not settled. Raises
        HostsimError, _CutShort if the client did not get all of the answer."""
        op = str(request["op"])
        quick = op == "status"
        messages = await self._status() if quick else self._long[op](request)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE
        while True:
            last = loop.time() > deadline
            status = await self._asides.answer(partial(messages, last), _fileno(writer), quick)
            if status != asides.AGAIN:
                break
            await asyncio.sleep(PAUSE)
        if status == asides.GONE:
            raise _CutShort(f"{op}: whoever asked does not read the answer")
        if status:
            log.error("%s: the child that answers ended with status %d", op, status)
            raise _CutShort(f"{op}: an answer was broken off")


class _CutShort(Exception):
    """A client did not get all of its answer; there is nothing more to tell it."""


def _fileno(writer: asyncio.StreamWriter) -> int:
    return int(writer.get_extra_info("socket").fileno())


async def _status(host: Host, stalls: Stalls) -> longwinded.Question:
    """The contract's `status`, with the loop's own."""
    longest = stalls.take()
    own = {"loop_ms": longest.ms, "loop_what": longest.what, "loop_cpu_ms": longest.cpu_ms}
    find = await host.status()
    return lambda last: iter([protocol.success(find() | own)])


async def _apply(host: Host, request: dict[str, Any]) -> Json:
    text, file = protocol.text(request, "text"), Path(protocol.text(request, "file"))
    spec = await in_thread(partial(hostfile.parse, text, file))
    return await host.apply(spec, request.get("dry_run") is True)


async def _link(host: Host, request: dict[str, Any]) -> list[Json]:
    words = request.get("words")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise HostsimError("link", "the request has no words")
    of, direction = protocol.text(request, "of"), protocol.text(request, "direction")
    return await host.link(links.from_words(of, direction, words))


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


async def _run(
    spec: HostSpec, folder: Path, ready: "_Ready", manager: service.Manager, stalls: Stalls
) -> None:
    """The host's life: built, served, and taken down again however it ends."""
    end = asyncio.Event()
    for number in ENDING:
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    pool = ThreadPoolExecutor(thread_name_prefix="beside", initializer=priority.keep_up)
    asyncio.get_running_loop().set_default_executor(pool)
    host = Host(spec, folder, stalls)
    await _build(host, end)
    daemon = Daemon(host, end, stalls)
    try:
        await daemon.open(folder / "control.sock")
        ready.up(spec.name)
        manager.ready(f"host {spec.name} is up")
        gc.collect()  # takes 20 ms and more; whoever waits has been told before
        gc.freeze()  # what is there now stays: later collections, amid a flip, pass it over
        stalls.take()  # building is none
        await end.wait()
    finally:
        manager.stopping()
        daemon.shut()
        try:
            await host.stop()
        finally:
            await daemon.close()


async def _build(host: Host, end: asyncio.Event) -> None:
    """Start the host, or give it up once `end` is set. Raises what `Host.start` raises, with
    nothing left behind."""
    building = asyncio.create_task(host.start())
    waiting = asyncio.create_task(end.wait())
    await asyncio.wait((building, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not building.done():
        building.cancel()
    try:
        await building
    except asyncio.CancelledError as error:
        why = "ended by a signal while the host was being built"
        if error.__cause__ is not None:
            why += f"; {reason(error.__cause__)}"
        raise HostsimError(f"up {host.spec.path.name}", why) from None


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


def _end_early(number: int, frame: object) -> None:
    raise HostsimError("up", "ended by a signal")


def main() -> int:
    parser = argparse.ArgumentParser(prog="hostsim.daemon")
    parser.add_argument("file")
    parser.add_argument("--text", type=int, metavar="FD")
    parser.add_argument("--ready", type=int, metavar="FD")
    parser.add_argument("--log-level", choices=protocol.LEVELS, default="info")
    options = parser.parse_args()
    for number in ENDING:
        signal.signal(number, _end_early)  # until there is a loop
    manager = service.Manager.of(os.environ)
    ready = _Ready(options.ready, manager.journal)
    folder: Path | None = None
    failure: HostsimError | None = None
    try:
        spec = _load(options.file, options.text)
        folder, _ = _claim(spec)
        _raise_files_limit()
        priority.come_first(NICE)
        ready.detach(folder / "log")
        _log_to(sys.stderr, options.log_level, manager.journal)
        if manager.watched:
            faulthandler.enable()  # the watchdog's SIGABRT then tells where the loop hangs
        stalls = Stalls()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(stalls)) as runner:
            runner.run(_run(spec, folder, ready, manager, stalls))
    except Exception as error:
        failure = _as_answer(error, options.file)
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    left = _tidy(folder) if folder is not None else []
    if left:
        why = f"{failure}; and " if failure else ""
        failure = HostsimError(
            f"host {spec.name}",
            f"{why}could not remove: {'; '.join(left)}",
            "hostsim clean tries again",
        )
    manager.close()
    if failure is not None:
        ready.failed(failure)
    return failure.status if failure is not None else 0


def _load(file: str, text: int | None) -> HostSpec:
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
        shutil.rmtree(folder)
    return failures


if __name__ == "__main__":
    sys.exit(main())
