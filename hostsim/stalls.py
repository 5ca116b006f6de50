# SPDX-License-Identifier: Apache-2.0
"""How long the daemon's loop was busy at a stretch, and with what.

    stalls = Stalls()                                 the loop's selector
    asyncio.SelectorEventLoop(stalls)
    with stalls.doing("status"): ...                  a name for what a callback does
    stalls.take() -> Longest(12.5, "status", 4.0)     since the last time

From one wait for events to the next the loop runs callbacks, and hears of nothing: no flip, no
question, no signal. The longest such stretch is kept, with the longest named thing in it; a stretch
in which nothing was named goes by the callbacks that events called.

A stretch lasts longer than its work if others have the processor meanwhile, or the interpreter's
lock. So the longest work of a stretch is kept too: the thread's own processor time.
"""

import contextlib
import selectors
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

Ready = list[tuple[selectors.SelectorKey, int]]


class Longest(NamedTuple):
    """The longest stretch in ms, what it was, and the most processor time in ms that any stretch
    took (CLOCK_THREAD_CPUTIME_ID, clock_gettime(2))."""

    ms: float
    what: str
    cpu_ms: float


class Stalls(selectors.DefaultSelector):
    """See the module. One thread."""

    def __init__(self) -> None:
        super().__init__()
        self._woke = 0.0  # when it returned from its last wait; 0: it waits
        self._worked = 0.0  # the thread's processor time then
        self._ready: Ready = []
        self._busiest = (0.0, "")  # of this stretch
        self._longest = (0.0, "")  # of all, in seconds
        self._most = 0.0  # processor time of a stretch, in seconds

    def select(self, timeout: float | None = None) -> Ready:
        """Wait for events (selectors.BaseSelector)."""
        if self._woke:
            self._note(time.monotonic() - self._woke, time.thread_time() - self._worked)
        self._ready = super().select(timeout)
        self._busiest = (0.0, "")
        self._woke, self._worked = time.monotonic(), time.thread_time()
        return self._ready

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Name what happens meanwhile. It does not wait: nothing else of the loop runs in it."""
        began = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - began
            if took > self._busiest[0]:
                self._busiest = (took, what)

    def take(self) -> Longest:
        """The longest since this was asked last."""
        longest, self._longest = self._longest, (0.0, "")
        most, self._most = self._most, 0.0
        return Longest(round(longest[0] * 1000, 1), longest[1], round(most * 1000, 1))

    def _note(self, seconds: float, worked: float) -> None:
        self._most = max(self._most, worked)
        if seconds > self._longest[0]:
            what = self._busiest[1] or ", ".join(map(_name, self._ready[:3]))
            self._longest = (seconds, what or "a timer")


def _name(event: tuple[selectors.SelectorKey, int]) -> str:
    """What asyncio calls for an event: the first of the key's reader and writer."""
    handles = event[0].data if isinstance(event[0].data, tuple) else ()
    for handle in handles:
        called: Any = getattr(handle, "_callback", None)
        called = getattr(called, "func", called)  # of functools.partial
        if called is not None:
            return str(getattr(called, "__qualname__", called))
    return "?"
