# SPDX-License-Identifier: Apache-2.0
"""A flip as its users feel it: from an agent's message to the first event in the new OS.

Ours: a host of two OSes and N devices, brought up by `hostsim up`; a small C program in each OS
opens the nodes and asks for the flips. The peer: the same program as two clients of a seatd that
hold the same N devices by libseat, switching between each other. All devices move by themselves
all the time (RATE times a second), so the first event comes as soon as it can be read. `mirror/1`
and the like are p99, `mirror/1/p50` the median.

`screen/1` is the same for a screen: from a compositor's message to the first right picture on it,
in the test VM (scripts/testvm --display).

The other cases count what becomes of numbered events that come while the OSes flip, in both modes
together, and in each (`direct/leaked`); see `losses`. Needs /dev/uinput.
"""

import argparse
import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from hostsim.bench import common, screens
from hostsim.bench.losses import KINDS, MODES_OF, Losses
from hostsim.bench.seats import NAME, SEATD_SOCKET, Mover, oses, seat
from hostsim.errors import HostsimError, UsageError
from hostsim.model import Json
from netns import uinput
from netns.evdevices import Feeder

SCREEN = "screen/1"
SIZES = tuple(f"{mode}/{count}" for count in (1, 8) for mode in ("mirror", "direct"))
PERCENTILES = {"": 99, "/p50": 50}
COUNTED = {kind: (kind, modes) for kind, modes in MODES_OF.items()} | {
    f"{mode}/{kind}": (kind, (mode,)) for kind, modes in MODES_OF.items() for mode in modes
}
FLIPS = 100  # of one run; more, and an OS's agent would ask too often (hostsim/kmc/kmc.py)
UNCOUNTED = 2  # flips at first: programs begin
RATE = 1000  # moves a second of each device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench flip`."""
    names = [f"{size}{ending}" for size in (*SIZES, SCREEN) for ending in PERCENTILES]
    common.add_arguments(parser, [*names, *COUNTED])
    text = f"flips of a run (default {FLIPS}); more only with cases that count: {', '.join(KINDS)}"
    parser.add_argument("--flips", type=int, default=FLIPS, metavar="N", help=text)


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    if not uinput.available():
        raise HostsimError("bench flip", "this kernel has no /dev/uinput", "use scripts/testvm")
    flips: int = options.flips
    if flips < 1 or (flips > FLIPS and not set(options.case or ["all"]) <= set(COUNTED)):
        why = f"1 to {FLIPS}, or with --case any number for {', '.join(KINDS)}"
        raise UsageError("bench flip --flips", why)
    cases = []
    for size, ours, its in _sizes(flips, options.case or ()):
        for ending, percentile in PERCENTILES.items():
            peers: dict[str, common.Measure] = {}
            if shutil.which("seatd") and not SEATD_SOCKET.exists():
                peers["seatd"] = its.measure(percentile)
            cases.append(common.Case(f"{size}{ending}", "ms", ours.measure(percentile), peers))
    counted = Losses(flips, RATE)
    for name, (kind, modes) in COUNTED.items():
        cases.append(common.Case(name, KINDS[kind], counted.measure(kind, modes)))
    return common.run("flip", cases, options)


def _sizes(flips: int, asked: Sequence[str]) -> Iterator[tuple[str, "_Runs", "_Runs"]]:
    """Of each size that can be measured here: its name, our runs, and seatd's."""
    for size in SIZES:
        mode, _, count = size.partition("/")
        ours, its = (
            _Runs(partial(_inputs, side, int(count), flips + UNCOUNTED)) for side in (mode, "seat")
        )
        yield size, ours, its
    if screens.CARD.exists() or any(name.startswith(SCREEN) for name in asked):
        ours, its = (
            _Runs(partial(_pictures, side, flips + UNCOUNTED))
            for side in (screens.oses, screens.seat)
        )
        yield SCREEN, ours, its


class _Runs:
    """Runs of one side; each serves all percentiles. run: milliseconds of each flip."""

    def __init__(self, run: Callable[[], list[float]]) -> None:
        self._run = run
        self._found: dict[int, list[float]] = {each: [] for each in PERCENTILES.values()}

    def measure(self, percentile: int) -> common.Measure:
        """The measure of one case."""

        def run() -> float:
            if not self._found[percentile]:
                took = self._run()[UNCOUNTED:]
                for each, values in self._found.items():
                    values.append(common.percentile(took, each))
            return self._found[percentile].pop(0)

        return run


def _inputs(side: str, devices: int, flips: int) -> list[float]:
    with contextlib.ExitStack() as stack:
        feeders = [Feeder(f"{NAME} {number}") for number in range(devices)]
        for feeder in feeders:
            stack.callback(feeder.close)
        pair = stack.enter_context(seat(feeders) if side == "seat" else oses(side))
        stack.callback(Mover(feeders, RATE).close)
        return [pair.flip(number) for number in range(flips)]


def _pictures(
    side: Callable[[], contextlib.AbstractContextManager[screens.Stage]], flips: int
) -> list[float]:
    with side() as stage:
        return [stage.flip(number) for number in range(flips)]
