# SPDX-License-Identifier: Apache-2.0
"""What becomes of each event while two OSes flip: every one is numbered, and is looked for at both
readers afterwards.

    sent       events
    rate       sent each second
    none       read in no OS: they came while a flip was under way, or before its reader had opened
               the node
    lost       of those in none: that came when a flip was complete and its reader had the device,
               and before the next one was asked for; but for
    overflowed of those in none: that were, or may have been, in a buffer that overflowed
    unread     of those in none, in direct mode: that came after that, and were in the file which
               the OS lost, as the KMC has counted them
    dropped    times that a reader was so slow that the kernel's buffer for it overflowed
    uncounted  of those in none: that the KMC's counters do not have, or have too much, but for what
               `overflowed` leaves open. In mirror mode only, where events come by the KMC
    resyncs    times that the KMC was so slow itself, in mirror mode: such events are `uncounted`
    leaked     read in both OSes
    doubled    read twice in one OS
    stuck      buttons whose release an OS never saw, or whose press it did not see before that

The flips are asked for by the machine's owner, one as soon as the one before is complete and its
reader has read three events more. The button of the device goes down and up all the while.
"""

import contextlib
import time
from collections.abc import Sequence

from hostsim.bench import common
from hostsim.bench.seats import DEADLINE, HOST, NAME, Client, Mover, oses
from hostsim.cli import client
from hostsim.errors import HostsimError
from netns.evdevices import Feeder

MODES = ("mirror", "direct")
KINDS = {
    "leaked": "events",
    "doubled": "events",
    "lost": "events",
    "uncounted": "events",
    "unread": "events",
    "stuck": "buttons",
    "dropped": "overflows",
    "overflowed": "events",
    "resyncs": "overflows",
    "none": "events",
    "sent": "events",
    "rate": "events/s",
}
MODES_OF = {kind: ("mirror",) if kind in ("uncounted", "resyncs") else MODES for kind in KINDS}
BUTTON = 8  # moves from one change of the button to the next (cext/bench/client.c)
LEAST = 3  # events that come between two flips
LATE = 2  # events at once, if the machine is too busy for RATE: more might overflow a reader


class Losses:
    """One run of a mode serves all its cases. flips: of each mode; rate: events a second."""

    def __init__(self, flips: int, rate: int) -> None:
        self._flips, self._rate = flips, rate
        self._runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}

    def measure(self, kind: str, modes: Sequence[str] = MODES) -> common.Measure:
        """The measure of one case: the sum over the modes, of the rate the mean."""
        done = 0

        def run() -> float:
            nonlocal done
            done += 1
            found = []
            for mode in modes:
                runs = self._runs[mode]
                if len(runs) < done:
                    runs.append(self._run(mode))
                found.append(runs[done - 1][kind])
            return sum(found) / (len(found) if kind == "rate" else 1)

        return run

    def _run(self, mode: str) -> dict[str, float]:
        due: tuple[list[range], list[range]] = ([], [])
        with contextlib.ExitStack() as stack:
            feeder = Feeder(f"{NAME} 0")
            stack.callback(feeder.close)
            pair = stack.enter_context(oses(mode))
            mover = Mover([feeder], self._rate, LATE)
            stack.callback(mover.close)
            begun = time.monotonic()
            for number in range(self._flips):
                if number % 100 == 0:
                    common.progress(f"events, {mode}: flip {number} of {self._flips}")
                pair.flip_as_owner(number)
                first = mover.sent() + 2  # one may have been on its way
                _has_read(pair.clients[1 - number % 2], first + LEAST)
                due[1 - number % 2].append(range(first, mover.sent() + 1))
            sent = mover.calm()
            took = time.monotonic() - begun
            _has_read(pair.clients[self._flips % 2], sent)
            a, b = pair.clients
            found = count(
                sent, (a.values("numbers"), b.values("numbers")), due, (a.gaps(), b.gaps())
            )
            found["rate"] = sent / took
            for kind in ("stuck", "dropped"):
                found[kind] = sum(one.ask(kind) for one in pair.clients)
            counters = client.ask(HOST, "devices")[0]["counters"]
            least, most = found.pop("unowned"), found.pop("at most unowned")
            if mode == "mirror":
                has = counters["unowned"]
                found["uncounted"] = max(least - has, has - most, 0)
                found["resyncs"] = counters["resyncs"]
            found["unread"] = counters.get("unread", 0)
        return found


def count(
    sent: int,
    read: tuple[list[int], list[int]],
    due: tuple[list[range], list[range]],
    gaps: tuple[list[range], list[range]] = ([], []),
) -> dict[str, float]:
    """The figures of the module's docstring, from what both sides read, in order, what each had to
    read, and between what its buffer overflowed. `unowned`: the events of the moves in none, with
    those of the button, without those that overflowed; `at most unowned`: with them."""
    over = [{number for gap in side for number in gap} for side in gaps]
    sides = set(read[0]), set(read[1])
    none = set(range(1, sent + 1)) - sides[0] - sides[1]
    return {
        "sent": sent,
        "none": len(none),
        "unowned": _events(none - over[0] - over[1]),
        "at most unowned": _events(none),
        "lost": sum(
            len(set(numbers) - side - gone)
            for ranges, side, gone in zip(due, sides, over, strict=True)
            for numbers in ranges
        ),
        "overflowed": len(none & (over[0] | over[1])),
        "leaked": len(sides[0] & sides[1]),
        "doubled": sum(len(numbers) - len(set(numbers)) for numbers in read),
    }


def _events(moves: set[int]) -> int:
    """Those of the moves, and of the button that came with them."""
    return len(moves) + sum(number % BUTTON == 0 for number in moves)


def _has_read(reader: Client, number: int) -> None:
    """Wait until it has read that move or a later one. Raises HostsimError."""
    deadline = time.monotonic() + DEADLINE
    while reader.ask("last") < number:
        if time.monotonic() > deadline:
            raise HostsimError("bench flip", f"event {number} was not read within {DEADLINE:g} s")
