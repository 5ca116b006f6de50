# SPDX-License-Identifier: Apache-2.0
"""Packets a second, of two answers to the same question. Pure.

Counters of the host only grow, but a flow that is forgotten and comes again begins at 0: what
would be a negative rate is 0. A flow that the first answer does not have has all its packets since
then.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

PATHS = ("veth", "ring", "switch")
"""The fastest first."""


@dataclass(frozen=True)
class Hop:
    """What one flow did between a VM and its next."""

    key: str
    route: int | None
    vm: str
    to: str
    path: str
    packets: int
    per_s: float  # packets/s
    bytes_per_s: float
    reason: str


@dataclass(frozen=True)
class Lane:
    """All flows together that go from a VM to its next by one path."""

    vm: str
    to: str
    path: str
    packets: int
    per_s: float  # packets/s


def of(before: float, after: float, seconds: float) -> float:
    """The rate of a counter; 0 if there is no time between the two."""
    return max(0.0, after - before) / seconds if seconds > 0 else 0.0


def hops(before: Iterable[Row], after: Iterable[Row], seconds: float) -> list[Hop]:
    """Every hop of `flows`, in their order. seconds: between the two answers."""
    was = {(key, hop["vm"]): hop for key, hop in _hops(before)}
    found = []
    for row in after:
        for hop in row["hops"]:
            old = was.get((row["key"], hop["vm"]), {"packets": 0, "bytes": 0})
            found.append(
                Hop(
                    row["key"],
                    row["route"],
                    hop["vm"],
                    hop.get("to") or "bridge",
                    hop["path"],
                    hop["packets"],
                    of(old["packets"], hop["packets"], seconds),
                    of(old["bytes"], hop["bytes"], seconds),
                    hop["reason"],
                )
            )
    return found


def lanes(before: Iterable[Row], after: Iterable[Row], seconds: float) -> list[Lane]:
    """`flows`, summed by VM, next and path; paths without a packet are left out."""
    packets: dict[tuple[str, str, str], int] = {}
    rate: dict[tuple[str, str, str], float] = {}
    was = {(key, hop["vm"]): hop["paths"] for key, hop in _hops(before)}
    for key, hop in _hops(after):
        for path, count in hop["paths"].items():
            lane = hop["vm"], hop.get("to") or "bridge", path
            old = was.get((key, hop["vm"]), {}).get(path, {"packets": 0})
            packets[lane] = packets.get(lane, 0) + count["packets"]
            rate[lane] = rate.get(lane, 0.0) + of(old["packets"], count["packets"], seconds)
    return [Lane(*lane, packets[lane], rate[lane]) for lane in sorted(packets) if packets[lane]]


def _hops(flows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    for row in flows:
        for hop in row["hops"]:
            yield row["key"], hop


def said(rate: float) -> str:
    """A rate in few characters: `0`, `7`, `950`, `12.3k`, `1.25M`."""
    for least, unit in ((1e6, "M"), (1e4, "k")):
        if rate >= least:
            scaled = rate / (1e6 if unit == "M" else 1e3)
            return f"{scaled:.3g}{unit}"
    return f"{rate:.0f}" if rate >= 10 or rate == int(rate) else f"{rate:.1f}"
