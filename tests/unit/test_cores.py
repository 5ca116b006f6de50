# SPDX-License-Identifier: Apache-2.0
"""Where packet functions run: who stands where on the line, and what the kernel is told."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from help.waiting import until
from hostsim.hostfile.file import parse
from hostsim.nf.cores import CALM, LEAST, SCARCE, line, places
from hostsim.nf.placing import LOOK, Placing, _used

CORES = (0, 1)
HOST = """
[host]
name = "lined"
[[vm]]
name = "late"
nf = "forward"
[[vm]]
name = "last"
nf = "sink"
[[vm]]
name = "plain"
[[vm]]
name = "first"
nf = "forward"
[[vm]]
name = "apart"
nf = "forward"
[[route]]
match = { proto = "udp" }
through = ["first", "plain", "last"]
[[route]]
match = { proto = "tcp" }
through = ["first", "late", "last"]
"""


def test_the_line_is_as_packets_come(tmp_path: Path) -> None:
    spec = parse(HOST, tmp_path / "host.toml")
    assert line(spec.routes, {"late": 1, "last": 2, "first": 4, "apart": 5}) == [4, 2, 1, 5]


def test_the_ends_of_a_chain_are_apart_and_what_lies_across_may_run_on_both() -> None:
    use = {1: 0.7, 2: 0.2, 3: 0.2, 4: 0.2, 5: 0.7}
    assert places([1, 2, 3, 4, 5], use, CORES, False) == {
        1: {0},
        2: {0},
        3: {0, 1},
        4: {1},
        5: {1},
    }


def test_a_little_across_a_border_is_not_across() -> None:
    use = {1: 0.80, 2: 0.21, 3: 0.19, 4: 0.80}
    assert places([1, 2, 3, 4], use, CORES, False)[2] == {0}


def test_who_does_nothing_takes_no_part() -> None:
    use = {1: 0.7, 2: LEAST / 2, 3: 0.3, 4: 0.7}
    assert places([1, 2, 3, 4], use, CORES, False).keys() == {1, 3, 4}


def test_no_places_where_there_are_cores_enough() -> None:
    assert places([1, 2], {1: 1.0, 2: 1.0}, CORES, False) == {}
    assert places([1, 2, 3], dict.fromkeys((1, 2, 3), 1.0), (0, 1, 2, 3), True) == {}
    assert places([], {}, CORES, False) == {}


def test_no_places_where_little_is_used_and_they_are_kept_for_a_while() -> None:
    some = (CALM + SCARCE) / 2 * 2 / 3
    use = dict.fromkeys((1, 2, 3), some)
    assert places([1, 2, 3], use, CORES, placed=False) == {}
    assert places([1, 2, 3], use, CORES, placed=True) != {}
    calm = dict.fromkeys((1, 2, 3), CALM / 2)
    assert places([1, 2, 3], calm, CORES, placed=True) == {}


@given(st.lists(st.floats(LEAST, 1.0), min_size=1, max_size=12), st.integers(1, 6))
def test_everyone_has_a_core_and_neighbours_stay_together(sizes: list[float], cores: int) -> None:
    order = list(range(len(sizes)))
    found = places(order, dict(enumerate(sizes)), range(cores), True)
    if not found:
        assert len(sizes) <= cores or sum(sizes) < CALM * cores
        return
    assert found.keys() == set(order)
    for one in order:
        assert found[one]
        assert found[one] <= set(range(cores))
        assert max(found[one]) - min(found[one]) == len(found[one]) - 1  # no core left out
    for one, other in pairwise(order):
        assert max(found[one]) <= min(found[other]) or found[one] & found[other]
        assert min(found[one]) <= min(found[other])


@pytest.fixture
def busy() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Three processes that take what they can get."""
    made = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    yield made
    for one in made:
        one.kill()
        one.wait()


def look_until(placing: Placing, pids: dict[int, int], what: Callable[[], bool]) -> None:
    """Look as the daemon does, again and again, until it is so."""

    def looked() -> bool:
        if what():
            return True
        select.select([], [], [], 0.05)
        placing.look(pids)
        return False

    until(looked, 50)


def test_the_kernel_is_told_and_told_again(busy: list[subprocess.Popen[bytes]]) -> None:
    every = os.sched_getaffinity(0)
    pids = {number: one.pid for number, one in enumerate(busy, start=1)}
    seen = at = 0.0

    def clock() -> float:
        """Time as if the machine were theirs alone: else, they use less the more others do."""
        nonlocal seen, at
        used = sum(_used(one.pid) for one in busy if one.poll() is None)
        at += max(0.0, used - seen) / len(every)
        seen = used
        return at

    placing = Placing([1, 2, 3], clock)

    def where() -> list[set[int]]:
        return [os.sched_getaffinity(pid) for pid in pids.values()]

    if len(every) == 2:
        look_until(placing, pids, lambda: where() == [{min(every)}, every, {max(every)}])
    else:
        for _ in range(20):
            select.select([], [], [], 0.05)
            placing.look(pids)
        assert all(one <= every for one in where())
    os.sched_setaffinity(pids[1], {max(every)})  # somebody else's choice stays
    for one in busy[1:]:
        one.send_signal(signal.SIGSTOP)
    look_until(placing, pids, lambda: where()[1:] == [every, every])
    assert where()[0] == {max(every)}
    busy[2].kill()
    busy[2].wait()
    del pids[3]
    end = clock() + 2 * LOOK
    look_until(placing, pids | {3: busy[2].pid}, lambda: at > end)  # it has just ended
