"""How long the daemon's loop was busy at a stretch, and with what.

    stalls = Stalls()                                 the loop's selector
    asyncio.SelectorEventLoop(stalls)
    with stalls.doing("status"): ...                  a name for what a callback does
    stalls.take() -> (12.5, "status")                 milliseconds, since the last time

From one wait for events to the next the loop runs callbacks, and hears of nothing: no flip, no
question, no signal. The longest such stretch is kept, with the longest named thing in it; a stretch
in which nothing was named goes by the callbacks that events called.
"""

import contextlib
import selectors
import time
from collections.abc import Iterator
from typing import Any

Ready = list[tuple[selectors.SelectorKey, int]]


class Stalls(selectors.DefaultSelector):
    """See the module. One thread."""

    def __init__(self) -> None:
        super().__init__()
        self._woke = 0.0  # when it returned from its last wait; 0: it waits
        self._ready: Ready = []
        self._busiest = (0.0, "")  # of this stretch
        self._longest = (0.0, "")  # of all, in seconds

    def select(self, timeout: float | None = None) -> Ready:
        """Wait for events (selectors.BaseSelector)."""
        if self._woke:
            self._note(time.monotonic() - self._woke)
        self._ready = super().select(timeout)
        self._busiest = (0.0, "")
        self._woke = time.monotonic()
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

    def take(self) -> tuple[float, str]:
        """The longest stretch in ms since this was asked last, and what it was."""
        longest, self._longest = self._longest, (0.0, "")
        return round(longest[0] * 1000, 1), longest[1]

    def _note(self, seconds: float) -> None:
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
