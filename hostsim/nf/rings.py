# SPDX-License-Identifier: Apache-2.0
"""Which packet functions have rings to each other, and which share their packet memory. Pure.

Two functions that follow each other in a route have a pair of rings, one pair for all routes; it
is a shared one if any of these routes says `ring = "shared"`. Functions that shared rings join,
directly or through others, are a group: they map one umem, and each can read the packets of all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hostsim.model import RouteSpec

Pair = frozenset[int]


@dataclass(frozen=True)
class Plan:
    """pairs: VMs by number that have rings; groups: those that share memory, each sorted."""

    pairs: frozenset[Pair]
    groups: tuple[tuple[int, ...], ...]

    def shared(self, pair: Pair) -> bool:
        """Whether the two are in one group."""
        return any(pair <= set(group) for group in self.groups)


def plan(routes: Sequence[RouteSpec], functions: Mapping[str, int]) -> Plan:
    """What routes want. functions: the numbers of the VMs that have one, by name."""
    pairs, joined = set(), []
    for route in routes:
        if route.bypass not in ("auto", "ring"):
            continue
        for a, b in zip(route.through, route.through[1:], strict=False):
            if a in functions and b in functions:
                pair = frozenset((functions[a], functions[b]))
                pairs.add(pair)
                if route.ring == "shared":
                    joined.append(pair)
    return Plan(frozenset(pairs), _groups(joined))


def _groups(pairs: Iterable[Pair]) -> tuple[tuple[int, ...], ...]:
    groups: list[set[int]] = []
    for pair in pairs:
        touched = [group for group in groups if group & pair]
        groups = [group for group in groups if not group & pair]
        groups.append(set(pair).union(*touched))
    return tuple(sorted(tuple(sorted(group)) for group in groups))
