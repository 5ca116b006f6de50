# SPDX-License-Identifier: Apache-2.0
"""What is logged of a crowd of like lines: the first ones in full, the rest as one number.

An OS that asks and asks, to be refused each time, must not fill the machine's disk. Of each OS and
kind of line, BURST are logged in full within PERIOD; how many more there were is one line when the
PERIOD is over. `Refrain` decides, and is pure; `AgentLog` writes.
"""

import logging
import math
import time
from dataclasses import dataclass

log = logging.getLogger("hostsim.kmc")

BURST = 5
PERIOD = 30.0  # seconds
AN_AGENT = "the agent of "
"""How an agent is named in the log, before its OS."""

SHOWN = 40
"""Most characters of a text from an OS in a line."""

Key = tuple[str, str]
"""Who, and what kind of line: a noun in the plural."""


@dataclass
class _Window:
    begun: float
    lines: int = 0
    left_out: int = 0


class Refrain:
    """Which lines are worth it. Times are seconds, never backwards."""

    def __init__(self, burst: int = BURST, period: float = PERIOD) -> None:
        self._burst = burst
        self._period = period
        self._windows: dict[Key, _Window] = {}

    def admit(self, who: str, kind: str, now: float) -> bool:
        """Whether to log this line; one that is not is counted. Call `over` first."""
        window = self._windows.setdefault((who, kind), _Window(now))
        if window.lines < self._burst:
            window.lines += 1
            return True
        window.left_out += 1
        return False

    def over(self, now: float) -> list[tuple[str, str, int]]:
        """Whose PERIOD is over, and how many lines were left out in it, if there were any."""
        ended = [key for key, one in self._windows.items() if now >= one.begun + self._period]
        windows = [(key, self._windows.pop(key)) for key in ended]
        return [(*key, window.left_out) for key, window in windows if window.left_out]


class AgentLog:
    """The lines in the log that an OS can bring about as often as it likes."""

    def __init__(self) -> None:
        self._refrain = Refrain()

    def say(self, by: str, kind: str, line: str) -> None:
        """Log a line that somebody has brought about; one of an agent may be counted instead."""
        self.tell()
        who = by.removeprefix(AN_AGENT)
        if who == by or self._refrain.admit(who, kind, time.monotonic()):
            log.info("%s", line)

    def tell(self, everything: bool = False) -> None:
        """Log what was left out, if its PERIOD is over, or all of it."""
        for who, kind, count in self._refrain.over(math.inf if everything else time.monotonic()):
            log.info("and %s more %s from %s", f"{count:,}", kind, who)


def shown(text: str) -> str:
    """A text from an OS, fit for a line of the log: short, and in one line."""
    cut = text if len(text) <= SHOWN else text[:SHOWN] + "..."
    return cut if cut.isprintable() else ascii(cut)
