# SPDX-License-Identifier: Apache-2.0
"""A large machine takes the memory of its flows at once, a small one as they come."""

import re
from pathlib import Path

from hostsim.routing import memory

GIB = 1 << 30
MAPS = Path(__file__).parents[2] / "cext" / "switch" / "maps.bpf.h"
LAYOUT = MAPS.parent / "layout.h"


def test_a_large_machine_takes_it_at_once() -> None:
    assert memory.flags(24 * GIB, boots=False) == {"flows": 0, "conns": 0}


def test_a_small_one_as_it_is_needed() -> None:
    assert memory.flags(2 * GIB, boots=False) == {
        "flows": memory.NO_PREALLOC,
        "conns": memory.NO_PREALLOC,
    }


def test_so_does_a_host_with_systems_that_boot() -> None:
    assert memory.flags(24 * GIB, boots=True)["flows"] == memory.NO_PREALLOC


def test_the_limit_is_a_share_of_the_memory() -> None:
    limit = memory.TAKEN * memory.SHARE
    assert memory.flags(limit, boots=False)["flows"] == 0
    assert memory.flags(limit - 1, boots=False)["flows"] == memory.NO_PREALLOC


def test_the_maps_are_as_large_as_is_said() -> None:
    entries = {
        name: 1 << int(bits)
        for name, bits in re.findall(r"HS_(FLOWS|CONNS)_MAX = 1 << (\d+)", LAYOUT.read_text())
    }
    assert entries == {"FLOWS": 1 << 20, "CONNS": 1 << 18}
    sized = re.findall(r"max_entries, HS_(\w+)_MAX\);", MAPS.read_text())
    assert sized == ["FLOWS", "CONNS", "EVENTS"]  # the ring buffer's are bytes, a MiB
    assert entries["FLOWS"] * 208 + entries["CONNS"] * 128 == memory.TAKEN
