# SPDX-License-Identifier: Apache-2.0
"""A VM's network, as it was made and not: the moves of a hold, and what is unlike."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostsim.routing.holddown import CALM, LONGEST, SHORTEST, Holddown, Made, unlike

FILTER = "hostsim:transfer_out"
MADE = Made("02:00:00:00:00:01", 1500, False, (), ((16785410, "hsd2"),))


@dataclass(frozen=True)
class Link:
    up: bool = True
    mac: str = MADE.mac
    mtu: int = 1500
    qdisc: str = "noqueue"
    xdp: bool = False


UP = frozenset({16785410})


def test_what_was_made_is_like_itself() -> None:
    assert unlike(MADE, Link(), (), UP) == ""


@pytest.mark.parametrize(
    ("eth0", "why"),
    [
        (Link(mac="02:00:00:00:00:99"), "its eth0 has another MAC address, 02:00:00:00:00:99"),
        (Link(mtu=1400), "its eth0 has an MTU of 1400, and the switch's port one of 1500"),
        (Link(qdisc="tbf"), "its eth0 has a queueing discipline of its own, tbf"),
        (Link(xdp=True), "its eth0 has an XDP program of its own"),
        (Link(up=False, qdisc="noop"), ""),  # the switch sees that its port has no carrier
    ],
)
def test_an_eth0_that_is_unlike(eth0: Link, why: str) -> None:
    assert unlike(MADE, eth0, (), UP) == why


def test_filters_and_links() -> None:
    clsact = MADE._replace(transfer=(FILTER,))
    assert unlike(clsact, Link(), (FILTER,), UP) == ""
    assert "filters of its own" in unlike(clsact, Link(), (FILTER, "u32"), UP)
    assert "taken off" in unlike(clsact, Link(), ("u32",), UP)
    assert "filters of its own" in unlike(MADE, Link(), ("u32",), UP)
    assert unlike(MADE, Link(), (), frozenset()) == "its direct link hsd2 is down"


def test_a_packet_function_needs_its_program_and_no_more() -> None:
    made = MADE._replace(function=True)
    assert "taken off" in unlike(made, Link(), (), UP)
    shaped = replace(Link(), xdp=True, qdisc="tbf", mtu=9000)
    assert unlike(made, shaped, ("u32",), frozenset()) == ""


def test_it_is_away_at_once_and_back_after_the_hold() -> None:
    held = Holddown()
    assert not held.saw("", 0.0)
    assert held.saw("down", 100.0)
    assert (held.away, held.held, held.why) == (True, False, "down")
    assert not held.saw("down", 150.0)
    assert held.saw("", 200.0)
    assert (held.away, held.held, held.due) == (True, True, 200.0 + SHORTEST)
    assert not held.saw("", 200.0 + SHORTEST / 2)
    assert held.saw("", 200.0 + SHORTEST)
    assert (held.away, held.due, held.why) == (False, None, "")


def test_a_hold_grows_with_flapping_and_is_short_again_after_a_calm() -> None:
    held, now, holds = Holddown(), 1000.0, []
    for _ in range(12):
        held.saw("down", now)
        held.saw("", now)
        assert held.due is not None
        holds.append(held.due - now)
        now = held.due
        held.saw("", now)
        assert not held.away
    assert holds[:3] == [SHORTEST, 2 * SHORTEST, 4 * SHORTEST]
    assert holds[-1] == LONGEST
    held.saw("down", now + CALM + 1)
    assert held.hold == SHORTEST


@given(st.lists(st.tuples(st.sampled_from(["", "down", "mtu"]), st.floats(0, 5)), max_size=60))
def test_nobody_comes_back_without_a_hold(steps: list[tuple[str, float]]) -> None:
    """From away to plain it takes SHORTEST seconds in which nothing unlike was seen."""
    held, now, unlike_at = Holddown(), 0.0, float("-inf")
    for why, later in steps:
        now += later
        before = held.away
        held.saw(why, now)
        if why:
            unlike_at = now
            assert held.away
        elif before and not held.away:
            assert now >= unlike_at + SHORTEST  # a difference is rounded
