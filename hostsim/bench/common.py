# SPDX-License-Identifier: Apache-2.0
"""What the benches share: runs that alternate, medians, and the document they print.

A case measures one thing with hostsim and with each peer that is installed. The runs alternate
(ours, peer, ours, peer, ...), so that what the machine does besides hits both; the ratio is the
median of the runs' own ratios, ours divided by the peer's.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hostsim.errors import HostsimError, UsageError
from hostsim.model import Json

Measure = Callable[[], float]
"""One run; returns the value in the case's unit. Raises HostsimError if it cannot be had."""

RUNS = 3
PAUSE = 0.002
"""Seconds between two looks at a condition, of which some are measured."""


@dataclass(frozen=True)
class Case:
    """One line of a bench. peers: only what is installed."""

    name: str
    unit: str
    ours: Measure
    peers: Mapping[str, Measure] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str], runs: int = RUNS) -> None:
    """`--case` and `--runs`, as every bench has them."""
    parser.add_argument(
        "--case",
        action="append",
        metavar="CASE",
        help=f"only this one; may be given again (there are: {', '.join(names)})",
    )
    parser.add_argument(
        "--runs", type=int, default=runs, metavar="N", help=f"runs of each (default {runs})"
    )


def run(bench: str, cases: Sequence[Case], options: argparse.Namespace) -> Json:
    """Run the cases that the options choose; the document of the contract. Raises UsageError."""
    if options.runs < 1:
        raise UsageError(f"bench {bench}", "--runs must be 1 or more")
    wanted = options.case or [case.name for case in cases]
    unknown = sorted(set(wanted) - {case.name for case in cases})
    if unknown:
        raise UsageError(
            f"bench {bench}",
            f"no case {', '.join(unknown)}",
            f"there are: {', '.join(case.name for case in cases)}",
        )
    chosen = [case for case in cases if case.name in wanted]
    return {
        "bench": bench,
        "cases": [compare(case, options.runs) for case in chosen],
        "machine": machine(),
    }


def compare(case: Case, runs: int) -> Json:
    """One case: ours and the peers in turn, `runs` times."""
    ours: list[float] = []
    peers: dict[str, list[float]] = {name: [] for name in case.peers}
    for number in range(runs):
        progress(f"{case.name}: run {number + 1} of {runs}")
        ours.append(case.ours())
        for name, measure in case.peers.items():
            peers[name].append(measure())
    progress("")
    return {
        "case": case.name,
        "unit": case.unit,
        "value": statistics.median(ours),
        "peers": {name: statistics.median(values) for name, values in peers.items()},
        "ratio": {
            name: statistics.median(our / its for our, its in zip(ours, values, strict=True))
            for name, values in peers.items()
        },
        "runs": {"hostsim": ours, **peers},
    }


def timed(bench: str, argv: Sequence[str], deadline: float | None = None) -> float:
    """Seconds a command takes; deadline: the most. Raises HostsimError if it fails."""
    begin = time.perf_counter()
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
    )
    took = time.perf_counter() - begin
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["nothing"]
        name = " ".join([Path(argv[0]).name, *argv[1:]]).splitlines()[0]
        raise HostsimError(
            f"bench {bench}: {name}", f"status {done.returncode}, it said: {said[-1]}"
        )
    return took


def until(bench: str, holds: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for a condition; what: is there, or ends, once it holds. Raises HostsimError after so
    many seconds."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not holds():
        if time.monotonic() > end:
            raise HostsimError(f"bench {bench}: {what}", f"not within {seconds:g} s")
        pause.wait(PAUSE)


def hostsim(*words: str) -> list[str]:
    """A command line of this hostsim's."""
    return [str(Path(sys.executable).with_name("hostsim")), *words]


def percentile(values: Sequence[float], which: int) -> float:
    """That percentile of the values, 1 to 99; of a single one, itself."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[which - 1]


def progress(text: str) -> None:
    """Show what is under way, in one line that the next one replaces; only to a person."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def machine() -> Json:
    """What the figures were taken on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    names = [
        line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line
    ]
    return {
        "kernel": platform.release(),
        "arch": platform.machine(),
        "cpu": names[0] if names else platform.machine(),
        "cpus": os.cpu_count(),
        "mhz": next(
            (
                round(float(line.partition(":")[2]))
                for line in cpuinfo.splitlines()
                if line.startswith("cpu MHz")
            ),
            None,
        ),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "virtual": "hypervisor" in cpuinfo,
        "load": round(os.getloadavg()[0], 2),
    }
