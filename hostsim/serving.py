# SPDX-License-Identifier: Apache-2.0
"""The daemon as it serves: the host's life in an event loop, and the control socket that answers.

    run(spec, folder, ahead, up, manager)       until somebody has the host taken down

What a request fails with is caught here and becomes the answer, one line.
"""

import asyncio
import contextlib
import gc
import inspect
import logging
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from hostsim import asides, longwinded, protocol, service
from hostsim.ahead import Ahead
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
from netns import priority

log = logging.getLogger("hostsim.daemon")

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


def run(
    spec: HostSpec, folder: Path, ahead: Ahead, up: Callable[[], None], manager: service.Manager
) -> None:
    """See the module. up: called once the host stands. Raises what building it and taking it down
    raise, with nothing left behind."""
    stalls = Stalls()
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(stalls)) as runner:
            runner.run(_run(Host(spec, folder, stalls, ahead), ahead, folder, up, manager, stalls))
    finally:
        for number in service.ENDING:  # it ends; the loop has put back what they do by default
            signal.signal(number, signal.SIG_IGN)


async def _run(
    host: Host,
    ahead: Ahead,
    folder: Path,
    up: Callable[[], None],
    manager: service.Manager,
    stalls: Stalls,
) -> None:
    """The host's life: built, served, and taken down again however it ends."""
    end = asyncio.Event()
    for number in service.ENDING:
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    if ahead.ended:  # a signal came before
        end.set()
    pool = ThreadPoolExecutor(thread_name_prefix="beside", initializer=priority.keep_up)
    asyncio.get_running_loop().set_default_executor(pool)
    await _build(host, end)
    daemon = Daemon(host, end, stalls)
    try:
        await daemon.open(folder / "control.sock")
        up()
        manager.ready(f"host {host.spec.name} is up")
        gc.collect()  # takes 20 ms and more; whoever waits has been told before
        gc.freeze()  # what is there now stays: later collections, amid a flip, pass it over
        gc.enable()
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
        why = service.ENDED_EARLY
        if error.__cause__ is not None:
            why += f"; {reason(error.__cause__)}"
        raise HostsimError(f"up {host.spec.path.name}", why) from None
