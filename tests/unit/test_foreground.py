# SPDX-License-Identifier: Apache-2.0
"""The foreground state machine: the rules hold after any sequence of events."""

import contextlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hostsim.kmc.foreground import (
    ACTIVE,
    MOVES,
    Abandoned,
    Action,
    AskRelease,
    Done,
    Foreground,
    Refused,
    Release,
    State,
    Superseded,
    Take,
    Tell,
)

NAMES = ("work", "play", "kiosk")


def started(*names: str) -> Foreground:
    machine = Foreground(names or NAMES)
    first = names[0] if names else NAMES[0]
    assert machine.flip(first) == [Take(first)]
    machine.taken(first)
    return machine


def test_a_flip_step_by_step() -> None:
    machine = started()
    assert machine.flip("play") == [AskRelease("work")]
    assert machine.foreground is None
    assert machine.state("work") is State.RELEASING
    assert machine.agent_released("work") == [Release("work")]
    assert machine.released("work") == [Take("play"), Tell("work", State.BACKGROUND)]
    assert machine.state("play") is State.TAKING
    assert machine.taken("play") == [Tell("play", State.FOREGROUND), Done("play", "work")]
    assert machine.foreground == "play"


def test_refusals_change_nothing() -> None:
    machine = started()
    for name, why in (("work", "already"), ("mars", "no such OS")):
        with pytest.raises(Refused, match=why):
            machine.flip(name)
    machine.gone("play")
    with pytest.raises(Refused, match="not running"):
        machine.flip("play")
    assert machine.foreground == "work"
    assert not machine.flipping


def test_a_request_during_a_flip_waits_and_the_newest_wins() -> None:
    machine = started()
    machine.flip("play")
    assert machine.flip("kiosk") == []
    assert machine.flip("work") == [Superseded("kiosk", "work")]
    machine.agent_released("work")
    machine.released("work")
    actions = machine.taken("play")
    assert actions == [Tell("play", State.FOREGROUND), Done("play", "work"), AskRelease("play")]
    assert machine.target == "work"


def test_a_request_for_the_running_target_joins_it() -> None:
    machine = started()
    machine.flip("play")
    assert machine.flip("kiosk") == []
    assert machine.flip("play") == [Superseded("kiosk", "play")]
    machine.agent_released("work")
    machine.released("work")
    assert machine.taken("play") == [Tell("play", State.FOREGROUND), Done("play", "work")]
    assert not machine.flipping


def test_the_foreground_dies_and_the_fallback_follows() -> None:
    machine = Foreground(NAMES, fallback=("kiosk",))
    machine.flip("work")
    machine.taken("work")
    assert machine.gone("work") == [Release("work")]
    assert machine.released("work") == [Take("kiosk")]
    assert machine.taken("kiosk") == [Tell("kiosk", State.FOREGROUND), Done("kiosk", "work")]


def test_the_target_dies_while_the_old_one_releases() -> None:
    machine = started()
    machine.flip("play")
    assert machine.gone("play") == [Abandoned("play")]
    assert machine.agent_released("work") == [Release("work")]
    assert machine.released("work") == [Tell("work", State.BACKGROUND), Take("work")]


def test_an_overruled_agent_that_answers_late_is_ignored() -> None:
    machine = started()
    machine.flip("play")
    machine.deadline("work")
    machine.released("work")
    assert machine.agent_released("work") == []
    machine.taken("play")
    assert machine.agent_released("work") == []


def test_next_goes_round_and_skips_the_dead() -> None:
    machine = started()
    assert machine.next() == "play"
    machine.gone("play")
    assert machine.next() == "kiosk"
    machine.gone("kiosk")
    with pytest.raises(Refused, match="no other"):
        machine.next()


def test_forbidden_moves_are_not_in_the_table() -> None:
    forbidden = {
        (State.BACKGROUND, State.FOREGROUND),
        (State.BACKGROUND, State.RELEASING),
        (State.TAKING, State.BACKGROUND),
        (State.TAKING, State.RELEASING),
        (State.FOREGROUND, State.BACKGROUND),
        (State.FOREGROUND, State.TAKING),
        (State.RELEASING, State.FOREGROUND),
        (State.RELEASING, State.TAKING),
        (State.FAILED, State.TAKING),
        (State.FAILED, State.FOREGROUND),
        (State.FAILED, State.RELEASING),
        (State.ABSENT, State.TAKING),
        (State.ABSENT, State.FOREGROUND),
        (State.ABSENT, State.RELEASING),
        (State.ABSENT, State.FAILED),
        (State.TAKING, State.ABSENT),
        (State.FOREGROUND, State.ABSENT),
        (State.RELEASING, State.ABSENT),
    }
    pairs = {(a, b) for a in State for b in State if a is not b}
    assert pairs - MOVES == forbidden


def test_one_joins_and_is_an_os_like_others_once_it_is_admitted() -> None:
    machine = started("work")
    machine.join("play")
    with pytest.raises(Refused, match="it joins or leaves"):
        machine.flip("play")
    with pytest.raises(Refused, match="no other"):
        machine.next()
    assert machine.admit(["play"]) == []
    assert machine.next() == "play"
    assert machine.flip("play") == [AskRelease("work")]


def test_one_that_leaves_gets_nothing_meanwhile() -> None:
    machine = started("work", "play", "kiosk")
    machine.bar("play")
    assert machine.next() == "kiosk"
    machine.gone("work")
    assert machine.released("work") == [Take("kiosk")]
    machine.taken("kiosk")
    machine.leave("play")
    assert machine.state("play") is State.ABSENT
    with pytest.raises(Refused, match="no such OS; there are work, kiosk"):
        machine.flip("play")


def test_one_that_stays_after_all_takes_what_nobody_has() -> None:
    machine = started("work", "play")
    machine.bar("play")
    machine.gone("work")
    assert machine.released("work") == []
    assert machine.admit(["play"]) == [Take("play")]


def test_who_has_or_gets_the_equipment_cannot_leave() -> None:
    machine = started()
    with pytest.raises(Refused, match="foreground OS"):
        machine.bar("work")
    machine.flip("play")
    machine.flip("kiosk")
    for name in NAMES:
        with pytest.raises(Refused, match="a flip to it or from it"):
            machine.bar(name)
    assert machine.barred == frozenset()


def test_the_order_of_a_new_file_holds() -> None:
    machine = started()
    machine.arrange(("kiosk", "play", "work"), ("play",))
    assert machine.next() == "kiosk"
    machine.gone("work")
    assert machine.released("work") == [Take("play")]


class Flips(RuleBasedStateMachine):
    """Any order of requests, answers, deadlines, deaths, restarts, of OSes that leave and join; the
    driver is modelled."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Foreground(NAMES)
        self.has: str | None = None  # who really has the equipment
        self.todo: list[Release | Take] = []
        self.asked: set[str] = set()
        self.waiting: list[str] = []  # requests not answered

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Release | Take):
                self.todo.append(action)
            elif isinstance(action, AskRelease):
                assert self.machine.state(action.os) is State.RELEASING
                self.asked.add(action.os)
            elif isinstance(action, Done | Superseded | Abandoned):
                self.waiting = [name for name in self.waiting if name != action.os]

    @rule(name=st.sampled_from((*NAMES, "mars")))
    def flip(self, name: str) -> None:
        try:
            actions = self.machine.flip(name)
        except Refused:
            return
        self.waiting.append(name)
        self.act(actions)

    @rule(name=st.sampled_from(NAMES))
    def answer(self, name: str) -> None:
        self.asked.discard(name)
        self.act(self.machine.agent_released(name))

    @rule(name=st.sampled_from(NAMES))
    def deadline(self, name: str) -> None:
        self.act(self.machine.deadline(name))

    @precondition(lambda self: self.todo)
    @rule()
    def drive(self) -> None:
        job = self.todo.pop(0)
        if isinstance(job, Release):
            if self.has == job.os:
                self.has = None
            self.act(self.machine.released(job.os))
            return
        assert self.has is None, f"{job.os} takes what {self.has} still has"
        if self.machine.state(job.os) is State.TAKING:
            self.has = job.os
            self.act(self.machine.taken(job.os))

    @rule(name=st.sampled_from(NAMES))
    def die(self, name: str) -> None:
        if self.machine.state(name) is State.ABSENT:
            return
        self.act(self.machine.gone(name))

    @rule(name=st.sampled_from(NAMES))
    def restart(self, name: str) -> None:
        if self.machine.state(name) is State.FAILED and self.machine.holder != name:
            self.act(self.machine.back(name))

    @rule(name=st.sampled_from(NAMES))
    def come_or_go(self, name: str) -> None:
        if self.machine.state(name) is State.ABSENT:
            self.machine.join(name)
            return
        with contextlib.suppress(Refused):
            self.machine.bar(name)

    @rule(name=st.sampled_from(NAMES), stays=st.booleans())
    def settle(self, name: str, stays: bool) -> None:
        if name not in self.machine.barred:
            return
        if stays:
            self.act(self.machine.admit([name]))
        else:
            self.machine.leave(name)

    @invariant()
    def who_is_barred_has_nothing(self) -> None:
        for name in self.machine.barred:
            assert self.machine.state(name) in (State.BACKGROUND, State.FAILED)
            assert name not in (self.machine.holder, self.machine.target, self.machine.waiting)

    @invariant()
    def at_most_one(self) -> None:
        assert sum(self.machine.state(name) in ACTIVE for name in NAMES) <= 1

    @invariant()
    def who_has_it_is_known(self) -> None:
        assert self.has in (None, self.machine.holder)
        if self.machine.foreground is not None:
            assert self.has == self.machine.foreground

    @invariant()
    def something_goes_on(self) -> None:
        """With an OS alive, the equipment is with one, or on its way."""
        alive = [
            n
            for n in NAMES
            if self.machine.state(n) not in (State.FAILED, State.ABSENT)
            and n not in self.machine.barred
        ]
        begun = self.machine.flipping or self.machine.foreground or self.todo
        if alive and self.begun_once:
            assert begun

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        if not self.machine.flipping:
            assert self.waiting == []

    @property
    def begun_once(self) -> bool:
        return self.has is not None or self.machine.flipping


TestFlips = Flips.TestCase
TestFlips.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
