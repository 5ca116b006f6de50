# SPDX-License-Identifier: Apache-2.0
"""Which cores the packet functions of a host run on, if they want more than there is. Pure.

The kernel's scheduler leaves one core idle while functions wait for the other: it does not look for
an idle core while all are busy most of the time (select_idle_cpu), and does not pull tasks that ran
within the last half millisecond (task_hot). A chain that does so for 20 us at a time loses a third.
So, if functions want most of the machine, each is told where it may run:

    they stand in the order of their routes, and each takes its share of all that they use; the
    cores divide this line into equal parts. A function runs on the core in whose part it lies, and
    one that lies across a border on both: so neighbours share a core, which makes waking cheap and
    keeps packets in its caches, the two ends of a chain do not, and what does not come out even is
    for the scheduler.

If they want less (CALM), or each can have a core of its own, every core is theirs.

Protects: `hostsim bench chain --path ring`, whose peer `unplaced` is the same chain without this.
Off: taskset(1) on a function's threads, which is then left alone; or `Functions(placed=False)` for
all of a host.
"""

from collections.abc import Mapping, Sequence

from hostsim.model import RouteSpec

LEAST = 0.02  # of a core: what uses less is not counted, and may run anywhere
SCARCE = 0.6  # of all cores: from this use on functions have places ...
CALM = 0.3  # ... until they use less than this
PART = 0.15  # of a function: what lies across a border by less, does not count as lying across


def line(routes: Sequence[RouteSpec], functions: Mapping[str, int]) -> list[int]:
    """The numbers of the functions as packets come to them. functions: numbers by name."""
    names = [name for route in routes for name in route.through if name in functions]
    return [functions[name] for name in dict.fromkeys([*names, *functions])]


def places(
    line: Sequence[int], use: Mapping[int, float], cores: Sequence[int], placed: bool
) -> dict[int, frozenset[int]]:
    """The cores of each function that has a place; no others have. use: cores' worth of time, by
    number. placed: whether they have places now."""
    busy = [one for one in line if use.get(one, 0.0) >= LEAST]
    total = sum(use[one] for one in busy)
    if len(busy) <= len(cores) or total < (CALM if placed else SCARCE) * len(cores):
        return {}
    found, at = {}, 0.0
    for one in busy:
        size = use[one] / total * len(cores)
        inside = [
            max(0.0, min(at + size, part + 1) - max(at, part)) / size for part in range(len(cores))
        ]
        most = max(inside)
        found[one] = frozenset(
            core for core, much in zip(cores, inside, strict=True) if much == most or much > PART
        )
        at += size
    return found
