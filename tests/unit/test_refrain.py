# SPDX-License-Identifier: Apache-2.0
"""Which lines of a crowd are logged, and that none is lost from the count."""

import logging

import pytest

from hostsim.kmc.refrain import AN_AGENT, BURST, PERIOD, AgentLog, Refrain, shown


def test_the_first_ones_are_admitted_and_the_rest_is_counted() -> None:
    one = Refrain(burst=3, period=10.0)
    assert [one.admit("play", "refusals", n / 10) for n in range(5)] == [True] * 3 + [False] * 2
    assert one.admit("work", "refusals", 1.0)  # others have their own
    assert one.admit("play", "offences", 1.0)
    assert one.over(9.9) == []
    assert one.over(10.0) == [("play", "refusals", 2)]
    assert one.over(10.0) == []  # told once
    assert one.admit("play", "refusals", 10.0)


def test_nobody_is_named_who_has_nothing_left_out() -> None:
    one = Refrain()
    assert one.admit("play", "refusals", 0.0)
    assert one.over(PERIOD) == []


def test_a_flood_costs_a_few_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr("hostsim.kmc.refrain.time.monotonic", lambda: now)
    caplog.set_level(logging.INFO)
    written = AgentLog()
    for n in range(10_000):
        now = n / 1000
        written.say(f"{AN_AGENT}play", "refusals", f"no {n}")
        if n % 1000 == 0:
            written.say("cli", "refusals", "by the machine's owner")
    assert sum(line.startswith("no ") for line in caplog.messages) == BURST
    assert caplog.messages.count("by the machine's owner") == 10
    now = PERIOD
    written.tell()
    assert caplog.messages[-1] == f"and {10_000 - BURST:,} more refusals from play"


def test_what_is_left_at_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    written = AgentLog()
    for _ in range(BURST + 2):
        written.say(f"{AN_AGENT}play", "offences", "x")
    written.tell(everything=True)
    assert caplog.messages[-1] == "and 2 more offences from play"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("play", "play"),
        ("x\n2026-11-25 INFO play is foreground", "'x\\n2026-11-25 INFO play is foreground'"),
        ("\x1b[2J", "'\\x1b[2J'"),
        ("a" * 4000, "a" * 40 + "..."),
    ],
)
def test_what_an_os_sends_is_one_short_line(text: str, line: str) -> None:
    assert shown(text) == line
