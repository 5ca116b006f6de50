"""A large machine takes the memory of its flows at once, a small one as they come."""

import re
from pathlib import Path

from hostsim.routing import memory

GIB = 1 << 30
MAPS = Path(__file__).parents[2] / "cext" / "switch" / "maps.bpf.h"


def test_a_large_machine_takes_it_at_once() -> None:
    assert memory.flags(24 * GIB) == {"flows": 0, "conns": 0}


def test_a_small_one_as_it_is_needed() -> None:
    assert memory.flags(2 * GIB) == {"flows": memory.NO_PREALLOC, "conns": memory.NO_PREALLOC}


def test_the_limit_is_a_share_of_the_memory() -> None:
    limit = memory.TAKEN * memory.SHARE
    assert memory.flags(limit)["flows"] == 0
    assert memory.flags(limit - 1)["flows"] == memory.NO_PREALLOC


def test_the_maps_are_as_large_as_is_said() -> None:
    entries = {
        name: 1 << int(bits)
        for bits, name in re.findall(
            r"max_entries, 1 << (\d+)\);(?:[^}]*)\} (flows|conns) ", MAPS.read_text()
        )
    }
    assert entries == {"flows": 1 << 20, "conns": 1 << 18}
    assert entries["flows"] * 200 + entries["conns"] * 128 == memory.TAKEN
