# SPDX-License-Identifier: Apache-2.0
"""When what died is started again: the pace of operating systems, and that of packet functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostsim.restart import FUNCTION, VM, Backoff, Pace, failed

PACES = pytest.mark.parametrize("pace", [VM, FUNCTION])


@PACES
def test_each_end_in_a_row_waits_longer_and_then_it_is_given_up(pace: Pace) -> None:
    backoff = Backoff(pace)
    delays = []
    now = 0.0
    while (delay := backoff.died(now)) is not None:
        delays.append(delay)
        now += delay
        backoff.started(now)
    assert delays == [0, *(pace.first * 2**nth for nth in range(pace.limit - 1))]
    assert len(delays) == pace.limit == backoff.total
    assert max(delays) <= pace.longest
    assert backoff.died(now) is None


@PACES
def test_one_that_ran_steadily_begins_anew(pace: Pace) -> None:
    backoff = Backoff(pace)
    for _ in range(pace.limit):
        assert backoff.died(0) is not None
        backoff.started(0)
    assert backoff.died(pace.steady - 0.001) is None
    backoff.started(0)
    assert backoff.died(pace.steady) == 0
    assert backoff.total == pace.limit + 1


def test_a_function_that_is_killed_is_steady_sooner() -> None:
    """Whoever kills it is outside; one that ends itself is not believed so soon."""
    backoff = Backoff(FUNCTION)
    for nth in range(3 * FUNCTION.limit):
        backoff.started(nth)
        assert backoff.died(nth + FUNCTION.killed, killed=True) == 0
    backoff.started(0)
    assert backoff.died(FUNCTION.killed) == FUNCTION.first


@PACES
def test_what_ran_steadily_but_cannot_be_started_any_more_is_given_up(pace: Pace) -> None:
    """Its old start is no reason to try for ever."""
    backoff = Backoff(pace)
    backoff.started(0)
    tries = 0
    while backoff.died(10 * pace.steady) is not None:
        tries += 1
        assert tries <= pace.limit


@PACES
@given(st.lists(st.tuples(st.floats(0, 1000), st.booleans(), st.booleans()), max_size=60))
def test_no_pause_is_longer_than_the_longest(
    pace: Pace, steps: list[tuple[float, bool, bool]]
) -> None:
    """Nor are there more than `limit` starts in a row, whatever happens when."""
    backoff, now, row = Backoff(pace), 0.0, 0
    for passed, killed, starts in steps:
        now += passed
        delay = backoff.died(now, killed)
        if delay is None:
            assert row == pace.limit
            return
        row = 1 if delay == 0 else row + 1
        assert delay <= pace.longest
        assert row <= pace.limit
        now += delay
        if starts:
            backoff.started(now)


def test_only_a_failure_counts() -> None:
    assert failed(-9)
    assert failed(1)
    assert failed(None)
    assert not failed(0)
