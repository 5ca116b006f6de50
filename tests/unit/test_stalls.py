# SPDX-License-Identifier: Apache-2.0
"""The loop's longest stretch without a look at events, and what it was."""

import asyncio
import socket
import threading
import time

from hostsim.stalls import Stalls


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def run(stalls: Stalls, *steps: object) -> None:
    async def main() -> None:
        for step in steps:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
            step()  # type: ignore[operator]
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(stalls)) as runner:
        runner.run(main())


def test_the_longest_stretch_has_the_name_of_what_took_longest_in_it() -> None:
    stalls = Stalls()

    def step() -> None:
        with stalls.doing("short"):
            busy(0.01)
        with stalls.doing("long"):
            busy(0.1)

    def other() -> None:
        with stalls.doing("other"):
            busy(0.02)

    run(stalls, step, other)
    ms, what, cpu_ms = stalls.take()
    assert ms >= 110
    assert 0 < cpu_ms <= ms
    assert what == "long"
    assert stalls.take()[0] < ms  # it is told once


def test_a_stretch_that_others_had_the_processor_in_is_no_work() -> None:
    """Here it waits by itself: the clock goes on, and the thread's own does not."""
    stalls = Stalls()
    ended = threading.Event()

    def step() -> None:
        stalls.take()
        threading.Timer(0.2, ended.set).start()
        ended.wait()

    run(stalls, step)
    ms, _, cpu_ms = stalls.take()
    assert ms >= 200
    assert cpu_ms < ms / 2


def test_waiting_is_no_stall() -> None:
    stalls = Stalls()

    async def main() -> None:
        stalls.take()
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, done.set)
        await done.wait()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(stalls)) as runner:
        runner.run(main())
    assert stalls.take()[0] < 300


def test_what_nobody_named_goes_by_what_asyncio_called() -> None:
    stalls = Stalls()
    ended = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            stalls.take()

            def hear_somebody() -> None:
                ours.recv(1)
                busy(0.1)
                ended.set()

            loop.add_reader(ours, hear_somebody)
            theirs.send(b"x")
            while not ended.is_set():
                await asyncio.sleep(0.01)
            loop.remove_reader(ours)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(stalls)) as runner:
        runner.run(main())
    ms, what, _ = stalls.take()
    assert ms >= 100
    assert "hear_somebody" in what
