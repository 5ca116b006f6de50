# SPDX-License-Identifier: Apache-2.0
"""Steps of taking down: all are run, newest first, and the error that comes out names the first
that failed."""

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from hostsim.errors import HostsimError
from hostsim.teardown import Teardown, in_thread

Close = Callable[[Teardown], None]


def close(closing: Teardown) -> None:
    closing.close()


def aclose(closing: Teardown) -> None:
    asyncio.run(closing.aclose())


def fail(error: BaseException) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


both = pytest.mark.parametrize("end", [close, aclose])


@both
def test_newest_first_and_once(end: Close) -> None:
    seen: list[str] = []
    closing = Teardown("host h")
    closing.push("a", lambda: seen.append("a"))
    closing.push("b", lambda: seen.append("b"), blocks=True)
    end(closing)
    end(closing)
    assert seen == ["b", "a"]


@both
def test_the_first_failure_is_named_and_the_others_are_logged(
    end: Close, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    closing = Teardown("host h")
    closing.push("a", lambda: seen.append("a"))
    closing.push("b", fail(OSError(16, "Device or resource busy")))
    closing.push("c", fail(HostsimError("NIC eth7", "is gone", "plug it in")), blocks=True)
    closing.push("d", lambda: seen.append("d"))
    with caplog.at_level(logging.ERROR), pytest.raises(HostsimError) as caught:
        end(closing)
    assert seen == ["d", "a"]
    assert str(caught.value) == "host h: taking down c: NIC eth7: is gone; plug it in"
    assert [record.message for record in caplog.records] == [
        "host h: taking down b: Device or resource busy"
    ]
    end(closing)  # and it is told once


@both
def test_what_ends_the_process_comes_out_as_it_is(end: Close) -> None:
    seen: list[str] = []
    closing = Teardown("host h")
    closing.push("a", lambda: seen.append("a"))
    closing.push("b", fail(SystemExit(3)))
    closing.push("c", fail(ValueError("c")))
    with pytest.raises(SystemExit):
        end(closing)
    assert seen == ["a"]


def test_coroutines_are_waited_for_and_what_blocks_is_not_in_the_loop() -> None:
    seen: list[object] = []

    async def later() -> None:
        await asyncio.sleep(0)
        seen.append("later")

    async def main() -> None:
        closing = Teardown("host h")
        closing.push("a", lambda: seen.append(threading.get_ident()))
        closing.push("b", lambda: seen.append(threading.get_ident()), blocks=True)
        closing.push("c", later)
        await closing.aclose()

    asyncio.run(main())
    said, blocking, plain = seen
    assert said == "later"
    assert plain == threading.get_ident() != blocking


def test_a_cancelled_task_runs_the_rest() -> None:
    seen: list[str] = []

    async def main() -> None:
        begun = asyncio.Event()

        async def for_ever() -> None:
            begun.set()
            await asyncio.Event().wait()

        closing = Teardown("host h")
        closing.push("a", lambda: seen.append("a"))
        closing.push("b", for_ever)
        task = asyncio.create_task(closing.aclose())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == ["a"]


def test_what_is_being_built_in_a_thread_ends_before_the_task_does() -> None:
    """The task hurries it, waits for its end, and is cancelled only then."""
    closing = Teardown("host h")
    started, ended = threading.Event(), threading.Event()

    def build() -> None:
        started.set()
        while True:
            try:
                closing.check()
            except HostsimError:
                ended.set()
                raise

    async def main() -> None:
        task = asyncio.create_task(in_thread(build, closing.give_up))
        await asyncio.get_running_loop().run_in_executor(None, started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())
