# SPDX-License-Identifier: Apache-2.0
"""The daemon's end of the control socket, of a host that is none: who may keep it busy, and how
long."""

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from hostsim import asides, clients, protocol
from hostsim.cli import client
from hostsim.host import Host
from hostsim.model import Json
from hostsim.serving import Daemon
from hostsim.stalls import Stalls

LINKS, DEVICES = protocol.encode({"op": "links"}), protocol.encode({"op": "devices"})
MANY = 100
"""Answers that a socket has room for, unread."""


class NoHost:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.links_asked = 0
        self.before_devices: int | None = None

    def links(self) -> list[Json]:
        self.links_asked += 1
        return []

    def devices(self) -> list[Json]:
        self.before_devices = self.links_asked
        return []


Test = Callable[[NoHost], Coroutine[Any, Any, None]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def served(path: Path, test: Test) -> None:
    """Run it beside a daemon that listens at the path."""
    stalls = Stalls()

    async def run() -> None:
        host = NoHost()
        daemon = Daemon(cast(Host, host), asyncio.Event(), stalls)
        await daemon.open(path)
        try:
            await asyncio.wait_for(test(host), 60)
        finally:
            await daemon.close()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(stalls)) as runner:
        runner.run(run())


@contextlib.contextmanager
def connected(path: Path, says: bytes) -> Iterator[socket.socket]:
    """A client that has sent as much of this as is taken at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while says:
                says = says[client.send(says) :]
        yield client


def ended(client: socket.socket) -> bool:
    """Whether the daemon has closed it, though what it said may be unread."""
    look = select.poll()
    look.register(client, 0)
    return any(event & select.POLLHUP for _, event in look.poll(0))


async def becomes(condition: Callable[[], object]) -> None:
    """`served` has a deadline."""
    while not condition():
        await asyncio.sleep(0.01)


def test_who_asks_many_things_at_once_has_one_answer_a_turn(path: Path) -> None:
    async def test(host: NoHost) -> None:
        with connected(path, LINKS * MANY), connected(path, DEVICES):
            await becomes(lambda: host.before_devices is not None)
            assert host.before_devices is not None
            assert host.before_devices <= 10
            await becomes(lambda: host.links_asked == MANY)

    served(path, test)


def test_who_does_not_read_is_let_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asides, "PATIENCE", 0.05)

    async def test(host: NoHost) -> None:
        with connected(path, LINKS * 1000 * MANY) as client:
            await becomes(lambda: ended(client))
            assert host.links_asked >= MANY

    served(path, test)


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has asked nothing may end at once."""
    monkeypatch.setattr(clients, "GRACE", 0.0)


@pytest.mark.usefixtures("no_grace")
def test_a_process_has_so_many_connections_and_its_newest_are_answered(path: Path) -> None:
    async def test(host: NoHost) -> None:
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(connected(path, b"")) for _ in range(3 * clients.EACH)]
            stack.enter_context(connected(path, DEVICES))
            await becomes(lambda: host.before_devices is not None)
            await becomes(lambda: sum(map(ended, silent)) == 2 * clients.EACH + 1)

    served(path, test)


@pytest.mark.usefixtures("no_grace")
def test_what_is_being_carried_out_is_not_broken_off(path: Path) -> None:
    """A restart, for example: it goes on though its process connects again and again."""

    async def test(host: NoHost) -> None:
        begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def restart(_: str) -> Json:
            begun.set()
            await go_on.wait()
            done.set()
            return {}

        host.restart = restart  # type: ignore[attr-defined]
        with contextlib.ExitStack() as stack:
            says = protocol.encode({"op": "restart", "vm": "a"})
            first = stack.enter_context(connected(path, says))
            await begun.wait()
            silent = [stack.enter_context(connected(path, b"")) for _ in range(2 * clients.EACH)]
            await becomes(lambda: any(map(ended, silent)))
            assert not ended(first)
            go_on.set()
            await done.wait()

    served(path, test)


def test_many_threads_of_a_process_are_all_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than it may have connections: who is refused asks again, and nobody's answer is lost."""
    monkeypatch.setattr(protocol, "RUN", tmp_path)
    (tmp_path / "h").mkdir()
    threads = 3 * clients.EACH

    async def test(host: NoHost) -> None:
        async def link_list() -> list[Json]:
            host.links_asked += 1
            await asyncio.sleep(0.02)
            return []

        host.links = link_list  # type: ignore[method-assign,assignment]
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(threads) as pool:
            asked = [loop.run_in_executor(pool, client.ask, "h", "links") for _ in range(threads)]
            assert await asyncio.gather(*asked) == [[]] * threads
        assert host.links_asked == threads

    served(tmp_path / "h" / "control.sock", test)
