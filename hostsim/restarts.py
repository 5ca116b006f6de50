# SPDX-License-Identifier: Apache-2.0
"""The VMs of one host that wait to be started again, and how often each was.

    restarts = Restarts(names)
    restarts.later("fw", now_again)       it died: called when its pause is over (restart.py)
    with restarts.making("fw"): ...       it is made anew, by hand or because it was due
    restarts.cancel("fw")                 it leaves
    restarts.close()                      nothing is started any more

All methods run in the thread of the host's asyncio loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator

from hostsim import restart
from hostsim.restart import Backoff

log = logging.getLogger("hostsim.host")


class Restarts:
    def __init__(self, names: Iterable[str]) -> None:
        """names: of the VMs that may be started again."""
        self._backoffs = {name: Backoff() for name in names}
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        self._under_way: set[str] = set()

    def join(self, name: str) -> None:
        """This VM may be started again."""
        self._backoffs[name] = Backoff()

    def leave(self, name: str) -> None:
        """This VM is not started again."""
        self.cancel(name)
        self._backoffs.pop(name, None)

    def later(self, name: str, again: Callable[[], None]) -> None:
        """It died, or could not be started: `again` is called when its pause is over, unless it has
        died too often."""
        loop = asyncio.get_running_loop()
        delay = self._backoffs[name].died(loop.time())
        if delay is None:
            log.error("%s: given up after %d starts in a row", name, restart.VM.limit)
            return
        self._waiting[name] = loop.call_later(delay, self._due, name, again)

    def _due(self, name: str, again: Callable[[], None]) -> None:
        del self._waiting[name]
        again()

    def started(self, name: str) -> None:
        """It runs again."""
        self._backoffs[name].started(asyncio.get_running_loop().time())

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[None]:
        """It is made anew inside of this, by hand or not; nothing else starts it meanwhile."""
        self.cancel(name)
        self._under_way.add(name)
        try:
            yield
        finally:
            self._under_way.discard(name)

    def waits(self, name: str) -> bool:
        """Whether it is about to be started again, or is being made."""
        return name in self._waiting or name in self._under_way

    def total(self, name: str) -> int | None:
        """How often it was started again; None if it never is."""
        backoff = self._backoffs.get(name)
        return None if backoff is None else backoff.total

    def cancel(self, name: str) -> None:
        """Whatever it waits for is off."""
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            waiting.cancel()

    def close(self) -> None:
        """None of them is started any more."""
        while self._waiting:
            self._waiting.popitem()[1].cancel()
