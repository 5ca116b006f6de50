"""A flip as its users feel it: from an agent's message to the first event in the new OS.

Ours: a host of two OSes and N devices, brought up by `hostsim up`; a small C program in each OS
opens the nodes and asks for the flips. The peer: the same program as two clients of a seatd that
hold the same N devices by libseat, switching between each other. All devices move by themselves
all the time (RATE times a second), so the first event comes as soon as it can be read. `mirror/1`
and the like are p99, `mirror/1/p50` the median.

The other cases count what becomes of numbered events that come while the OSes flip, in both modes
together; see `losses`. Needs /dev/uinput.
"""

import argparse
import contextlib
import shutil
import statistics

from hostsim.bench import common
from hostsim.bench.losses import KINDS, Losses
from hostsim.bench.seats import NAME, SEATD_SOCKET, Mover, oses, seat
from hostsim.errors import HostsimError
from hostsim.model import Json
from netns.evdevices import Feeder, uinput_available

SIZES = tuple(f"{mode}/{count}" for count in (1, 8) for mode in ("mirror", "direct"))
PERCENTILES = {"": 99, "/p50": 50}
FLIPS = 50  # of one run
RATE = 1000  # moves a second of each device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench flip`."""
    names = [f"{size}{ending}" for size in SIZES for ending in PERCENTILES]
    common.add_arguments(parser, [*names, *KINDS])
    parser.add_argument("--flips", type=int, default=FLIPS, metavar="N", help="flips of a run")


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    if not uinput_available():
        raise HostsimError("bench flip", "this kernel has no /dev/uinput", "use scripts/testvm")
    flips: int = options.flips
    cases = []
    for size in SIZES:
        mode, _, count = size.partition("/")
        for ending, percentile in PERCENTILES.items():
            peers: dict[str, common.Measure] = {}
            if shutil.which("seatd") and not SEATD_SOCKET.exists():
                peers["seatd"] = _Run("seat", int(count), flips, percentile)
            ours = _Run(mode, int(count), flips, percentile)
            cases.append(common.Case(f"{size}{ending}", "ms", ours, peers))
    counted = Losses(flips, RATE)
    cases += [common.Case(kind, unit, counted.measure(kind)) for kind, unit in KINDS.items()]
    return common.run("flip", cases, options)


class _Run:
    """One run of one side: a measure of `common`."""

    def __init__(self, side: str, devices: int, flips: int, percentile: int) -> None:
        self._side, self._devices, self._flips = side, devices, flips
        self._percentile = percentile

    def __call__(self) -> float:
        with contextlib.ExitStack() as stack:
            feeders = [Feeder(f"{NAME} {number}") for number in range(self._devices)]
            for feeder in feeders:
                stack.callback(feeder.close)
            side = seat(feeders) if self._side == "seat" else oses(self._side)
            pair = stack.enter_context(side)
            stack.callback(Mover(feeders, RATE).close)
            took = [pair.flip(number) for number in range(self._flips + 2)][2:]
        if self._flips < 2:
            return took[0]
        return statistics.quantiles(took, n=100, method="inclusive")[self._percentile - 1]
