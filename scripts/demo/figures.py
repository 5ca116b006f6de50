# SPDX-License-Identifier: Apache-2.0
"""The demo of the paths: what a hop costs by the switch, and past it.

Both are `hostsim bench`, which runs the two by turns in one call. A few runs of each say how it is;
more would say how well that is known.
"""

import json
import sys
from typing import Any

from stage import HOSTSIM, console, headline, main, note, run, saw, table

PATH = ("bench", "path", "--case", "udp64/veth", "--case", "cpu/veth", "--runs", "3")
CHAIN = ("bench", "chain", "--case", "2/ring", "--runs", "2")


def measured(*words: str) -> dict[str, dict[str, Any]]:
    """A bench's cases by name; the line is shown as a person would type it."""
    note(f"$ hostsim {' '.join(words)}")
    cases = json.loads(run(HOSTSIM, *words, "--json").stdout)["cases"]
    return {case["case"]: case for case in cases}


def row(case: dict[str, Any], what: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """A row of the table, and a line of the closing one."""
    value, peer, ratio = case["value"], case["peers"]["switch"], case["ratio"]["switch"]
    unit = case["unit"]
    said = f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"
    saw(what, said, f"hostsim {' '.join(words[:2])} --case {case['case']}")
    return what, f"{peer:.3g} {unit}", f"{value:.3g} {unit}", said


def figures() -> None:
    headline("a hop by the switch, and past it")
    path, chain = measured(*PATH), measured(*CHAIN)
    shown = table("", "by the switch", "past it", "ratio")
    shown.add_row(*row(path["udp64/veth"], "64-byte packets/s by a direct link", PATH))
    shown.add_row(*row(path["cpu/veth"], "processor time per packet by a direct link", PATH))
    shown.add_row(*row(chain["2/ring"], "1500-byte packets/s, two functions by ring", CHAIN))
    console.print(shown)
    note("medians of runs by turns; what else this machine does disturbs them")


if __name__ == "__main__":
    sys.exit(main(figures))
