"""A large machine takes the memory of its flows at once, a small one as they come."""

import re
from pathlib import Path

from hostsim.routing import tables

GIB = 1 << 30
MAPS = Path(__file__).parents[2] / "cext" / "maps.bpf.h"


def test_a_large_machine_takes_it_at_once() -> None:
    assert tables.flags(24 * GIB) == {"flows": 0, "conns": 0}


def test_a_small_one_as_it_is_needed() -> None:
    assert tables.flags(2 * GIB) == {"flows": tables.NO_PREALLOC, "conns": tables.NO_PREALLOC}


def test_the_limit_is_a_share_of_the_memory() -> None:
    limit = tables.TAKEN * tables.SHARE
    assert tables.flags(limit)["flows"] == 0
    assert tables.flags(limit - 1)["flows"] == tables.NO_PREALLOC


def test_the_maps_are_as_large_as_is_said() -> None:
    entries = {
        name: 1 << int(bits)
        for bits, name in re.findall(
            r"max_entries, 1 << (\d+)\);(?:[^}]*)\} (flows|conns) ", MAPS.read_text()
        )
    }
    assert entries == {"flows": 1 << 20, "conns": 1 << 18}
    assert entries["flows"] * 200 + entries["conns"] * 120 == tables.TAKEN
