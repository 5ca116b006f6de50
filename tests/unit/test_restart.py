"""When an OS that died is started again."""

from hostsim.restart import LIMIT, LONGEST, STEADY, Backoff, failed


def test_each_end_in_a_row_waits_longer_and_then_it_is_given_up() -> None:
    backoff = Backoff()
    delays = []
    now = 0.0
    while (delay := backoff.died(now)) is not None:
        delays.append(delay)
        now += delay
        backoff.started(now)
    assert delays == [0, 0.25, 0.5, 1, 2]
    assert len(delays) == LIMIT == backoff.total
    assert max(delays) <= LONGEST
    assert backoff.died(now) is None


def test_one_that_ran_steadily_begins_anew() -> None:
    backoff = Backoff()
    for _ in range(LIMIT):
        assert backoff.died(0) is not None
        backoff.started(0)
    assert backoff.died(STEADY - 1) is None
    assert backoff.died(STEADY) == 0
    assert backoff.total == LIMIT


def test_only_a_failure_counts() -> None:
    assert failed(-9)
    assert failed(1)
    assert failed(None)
    assert not failed(0)
