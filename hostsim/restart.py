# SPDX-License-Identifier: Apache-2.0
"""When something that ended by itself is started again, pure: no clock, no process.

A first end is followed by a start at once; each one after it by one after twice the time, up to the
pace's longest. What ran steadily begins anew. After `limit` starts in a row it is given up.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Times are in seconds."""

    first: float  # before the second start in a row; doubles
    longest: float
    limit: int  # starts in a row
    steady: float  # from its start until it counts as running
    killed: float  # the same of what is killed (SIGKILL comes from outside)


VM = Pace(first=0.25, longest=8.0, limit=5, steady=60.0, killed=60.0)
"""Of a VM and of its program (`restart`)."""
FUNCTION = Pace(first=0.2, longest=12.8, limit=8, steady=10.0, killed=0.25)
"""Of a packet function."""


class Backoff:
    """The restarts of one of them. Times are seconds of one clock that never goes back."""

    def __init__(self, pace: Pace = VM) -> None:
        self._pace = pace
        self.total = 0
        """How often it was started again."""
        self._in_a_row = 0
        self._started: float | None = None

    def started(self, now: float) -> None:
        """It runs again."""
        self._started = now
        self.total += 1

    def died(self, now: float, killed: bool = False) -> float | None:
        """It ended, or could not be started: seconds until the next start, None: no more."""
        pace, started = self._pace, self._started
        self._started = None
        if started is not None and now - started >= (pace.killed if killed else pace.steady):
            self._in_a_row = 0
        if self._in_a_row == pace.limit:
            return None
        self._in_a_row += 1
        if self._in_a_row == 1:
            return 0.0
        return min(pace.longest, pace.first * 2.0 ** (self._in_a_row - 2))


def failed(status: int | None) -> bool:
    """Whether process 1 ended in a way that `on-failure` means: its status (-N: by signal N) is not
    0. A VM that ends itself (SIGTERM to its process 1) is left alone."""
    return status != 0
