"""When an OS that died is started again (`[vm.os] restart`), pure: no clock, no process.

A first end is followed at once; each one after it after twice the time, from FIRST to LONGEST
seconds. An OS that ran for STEADY seconds begins anew. After LIMIT starts in a row it is given up.
"""

FIRST, LONGEST = 0.25, 8.0
LIMIT = 5
STEADY = 60.0


class Backoff:
    """The restarts of one OS. Times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self.total = 0
        """How often it was started again."""
        self._in_a_row = 0
        self._started: float | None = None

    def started(self, now: float) -> None:
        """It runs again."""
        self._started = now
        self.total += 1

    def died(self, now: float) -> float | None:
        """It died, or could not be started: seconds until the next start, None: no more."""
        if self._started is not None and now - self._started >= STEADY:
            self._in_a_row = 0
        if self._in_a_row == LIMIT:
            return None
        self._in_a_row += 1
        return min(LONGEST, FIRST * 2 ** (self._in_a_row - 2)) if self._in_a_row > 1 else 0.0


def failed(status: int | None) -> bool:
    """Whether process 1 ended in a way that `on-failure` means: its status (-N: by signal N) is not
    0. An OS that ends itself (SIGTERM to its process 1) is left alone."""
    return status != 0
