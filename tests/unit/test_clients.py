# SPDX-License-Identifier: Apache-2.0
"""The control socket's clients: how many, who gives way, and what one may send."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from hostsim import clients
from hostsim.clients import CHUNK, GRACE, LONG, SHORT, Clients, Requests, TooLong

T = TypeVar("T")
MOST = 1 << 20


class Ended(list[int]):
    """Who was ended, by the word that they were entered with."""

    def of(self, word: int) -> Callable[[], None]:
        return lambda: self.append(word)


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Patient(Clients):
    """Each connection has had its time to ask."""

    def __init__(self, most: int, each: int) -> None:
        super().__init__(most, each, Clock())

    def enter(self, owner: int, end: Callable[[], object]) -> int | None:
        assert isinstance(self.clock, Clock)
        self.clock.now += GRACE
        return super().enter(owner, end)


def test_a_process_that_has_all_of_its_connections_loses_its_oldest() -> None:
    table, ended = Patient(most=10, each=3), Ended()
    numbers = [table.enter(1, ended.of(word)) for word in range(3)]
    assert ended == []
    assert table.enter(1, ended.of(3)) is not None
    assert ended == [0]
    assert numbers[0] is not None
    table.leave(numbers[0])
    assert len(table) == 3


def test_who_has_most_gives_way_to_others() -> None:
    table, ended = Patient(most=4, each=3), Ended()
    for word, owner in enumerate((1, 2, 2, 2)):
        table.enter(owner, ended.of(word))
    assert table.enter(3, ended.of(4)) is not None
    assert ended == [1]
    assert table.enter(4, ended.of(5)) is not None
    assert ended == [1, 2]
    assert len(table) == 4


def test_nobody_gives_way_who_waits_for_an_answer() -> None:
    table, ended = Patient(most=10, each=2), Ended()
    first, second = (table.enter(1, ended.of(word)) for word in range(2))
    assert first is not None
    assert second is not None
    table.busy(first, True)
    assert table.enter(1, ended.of(2)) is not None
    assert ended == [1]
    table.leave(second)
    table.busy(3, True)
    assert table.enter(1, ended.of(3)) is None
    table.busy(first, False)
    assert table.enter(1, ended.of(4)) is not None
    assert ended == [1, 0]


def test_nobody_gives_way_who_has_had_no_time_to_ask() -> None:
    """Nor who had an answer a moment ago: what it asks next may be on its way."""
    clock, ended = Clock(), Ended()
    table = Clients(most=10, each=2, clock=clock)
    first, second = (table.enter(1, ended.of(word)) for word in range(2))
    assert first is not None
    assert second is not None
    clock.now = 0.9 * GRACE
    assert table.enter(1, ended.of(2)) is None
    table.busy(first, True)
    table.busy(first, False)
    clock.now = GRACE
    assert table.enter(1, ended.of(2)) is not None
    assert ended == [1]
    assert table.enter(1, ended.of(3)) is None


def run(asks: Callable[[asyncio.StreamReader, Requests], Awaitable[T]], most: int = MOST) -> T:
    async def asked() -> T:
        reader = asyncio.StreamReader(limit=CHUNK)
        return await asks(reader, Requests(reader, asyncio.Semaphore(LONG), most))

    return asyncio.run(asked())


def test_requests_come_in_any_pieces_and_several_at_a_time() -> None:
    async def asks(reader: asyncio.StreamReader, requests: Requests) -> list[bytes]:
        reader.feed_data(b"one\ntwo\nth")
        found = [await requests.next(), await requests.next()]
        reader.feed_data(b"ree\n" + b"x" * 3 * SHORT + b"\nrest")
        reader.feed_eof()
        return found + [await requests.next() for _ in range(4)]

    found = run(asks)
    assert found == [b"one\n", b"two\n", b"three\n", b"x" * 3 * SHORT + b"\n", b"rest", b""]


def test_half_a_request_waits_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "WHOLE", 0.01)

    async def asks(reader: asyncio.StreamReader, requests: Requests) -> None:
        reader.feed_data(b'{"op": "sta')
        await asyncio.wait_for(requests.next(), 20)

    with pytest.raises(TimeoutError):
        run(asks)


def test_a_request_has_an_end() -> None:
    async def asks(reader: asyncio.StreamReader, requests: Requests) -> None:
        reader.feed_data(b"x" * 4 * SHORT)
        await requests.next()

    with pytest.raises(TooLong):
        run(asks, most=2 * SHORT)


def test_so_many_long_requests_at_a_time() -> None:
    """The others keep less than SHORT and a piece until it is their turn."""

    async def asked() -> None:
        turns = asyncio.Semaphore(LONG)
        readers = [asyncio.StreamReader(limit=CHUNK) for _ in range(LONG + 2)]
        asking = [asyncio.create_task(Requests(one, turns, MOST).next()) for one in readers]
        for reader in readers:
            reader.feed_data(b"x" * 3 * SHORT)
        while not turns.locked():
            await asyncio.sleep(0)
        for reader in readers[:LONG]:
            reader.feed_data(b"\n")
        done, _ = await asyncio.wait(asking[:LONG], timeout=20)
        assert len(done) == LONG
        for reader in readers[LONG:]:
            reader.feed_data(b"\n")
        for one in asking:
            assert len(await asyncio.wait_for(one, 20)) == 3 * SHORT + 1

    asyncio.run(asked())
