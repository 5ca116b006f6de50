# SPDX-License-Identifier: Apache-2.0
"""Looks how much the packet functions use, and tells the kernel their cores. cores.py says what
for, and how to switch it off.

By /proc/PID/stat (proc(5)) and sched_setaffinity(2), for each thread. A function may never run
where it could not before: its cores are among those that it had when it was first seen. One whose
cores somebody else has changed meanwhile (taskset(1)) is left alone.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostsim.nf.cores import places

LOOK = 0.25  # seconds between two looks at what they use
TICK = os.sysconf("SC_CLK_TCK")

Place = frozenset[int]


@dataclass
class _Process:
    pid: int
    all: Place  # where it could run when it was first seen
    told: Place  # where it was told to run
    used: float  # seconds, as of the last look
    share: float = 0.0  # of a core, with the past fading
    theirs: bool = False  # somebody else has told it where to run


class Placing:
    """Of one host's functions. `look` is to be called some ten times a second."""

    def __init__(self, line: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self.line = line
        """The functions as packets come to them."""
        self._clock = clock
        self._looked = clock()
        self._processes: dict[int, _Process] = {}
        self._placed = False

    def look(self, pids: Mapping[int, int]) -> None:
        """pids: of the functions that run, by number. Raises OSError, but not for one that ends."""
        now = self._clock()
        if now - self._looked < LOOK:
            return
        passed, self._looked = now - self._looked, now
        for number in [n for n, one in self._processes.items() if pids.get(n) != one.pid]:
            del self._processes[number]
        for number, pid in pids.items():
            try:
                self._measure(number, pid, passed)
            except (ProcessLookupError, FileNotFoundError):  # it ends: seen elsewhere
                self._processes.pop(number, None)
        ours = {number: one for number, one in self._processes.items() if not one.theirs}
        if not ours:
            return
        cores = sorted(frozenset.intersection(*(one.all for one in ours.values())))
        use = {number: one.share for number, one in ours.items()}
        found = places(self.line, use, cores, self._placed)
        self._placed = bool(found)
        for number, one in ours.items():
            place = found.get(number, one.all)
            if place != one.told:
                _tell(one.pid, place)
                one.told = place

    def _measure(self, number: int, pid: int, passed: float) -> None:
        used, on = _used(pid), frozenset(os.sched_getaffinity(pid))
        one = self._processes.get(number)
        if one is None:
            self._processes[number] = _Process(pid, on, on, used)
            return
        one.theirs = one.theirs or on != one.told
        share = (used - one.used) / passed
        one.share = (one.share + share) / 2 if one.share else share
        one.used = used


def _used(pid: int) -> float:
    """Seconds that its threads have run."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _tell(pid: int, place: Place) -> None:
    """A thread that ends meanwhile needs no place."""
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        for thread in threads:
            os.sched_setaffinity(thread, place)
    except (ProcessLookupError, FileNotFoundError):
        return
