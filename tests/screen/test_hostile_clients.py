# SPDX-License-Identifier: Apache-2.0
"""Clients that do all they can to stay on the screen, or to see what is not theirs: nothing but the
right OS's picture is on it. And each defence is needed: with it taken out, the attack succeeds."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from help.rig import DEADLINE
from help.stage import BLACK, GREEN, RED, Stage
from help.waiting import until
from hostsim.kmc.screen import Screens
from netns import card as drm
from netns.card import Card, Snapshot

pytestmark = [pytest.mark.screen, pytest.mark.timeout(240)]

TURNS, LOOKS = 6, 3
SOON = pytest.mark.parametrize("stage", [0.3], indirect=True)
"""Seconds until clients that do not let go are overruled."""
COLOURS = {"work": GREEN, "play": RED}
NO_RIGHT = f"errno {errno.EACCES}"


def screens(stage: Stage) -> Screens:
    found = stage.rig.kmc._screens
    assert found is not None
    return found


@SOON
def test_clients_that_race_for_the_card_are_seen_in_their_own_turn_only(stage: Stage) -> None:
    clients = {"work": stage.painted("work", GREEN)}
    stage.flip("play")
    clients["play"] = stage.painted("play", RED)
    for client in clients.values():
        assert client.asked("deaf") == "deaf"
        assert client.asked("race") == "races"
    for turn in range(TURNS):
        name, other = ("work", "play") if turn % 2 == 0 else ("play", "work")
        stage.flip(name)
        for look in range(LOOKS):
            assert COLOURS[other] not in stage.desk.colours(), (turn, look)
        stage.shows(COLOURS[name])
    for client in clients.values():
        assert int(client.asked("calm").removeprefix("raced ")) > TURNS


def test_a_card_that_is_passed_on_or_leased_is_of_no_use_after_the_turn(
    stage: Stage, tmp_path: Path
) -> None:
    work = stage.painted("work", GREEN)
    assert work.asked("lend") == "lent"
    stage.flip("play")
    stage.painted("play", RED)
    friend = stage.client("play")
    place = str(tmp_path / "socket")
    assert friend.asked(f"listen {place}") == "listens"
    work.order(f"pass {place}")
    friend.heard("card")
    assert friend.asked("paint") == NO_RIGHT
    assert friend.asked("master") == NO_RIGHT
    assert friend.asked("peek") == NO_RIGHT
    assert work.asked("lent") == NO_RIGHT
    stage.shows(RED)


def test_no_program_of_an_os_opens_the_card_in_the_moment_without_a_master(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = stage.painted("work", GREEN)
    stage.flip("play")
    answers = in_the_gap(monkeypatch, lambda: work.asked("own /dev/dri/card0"))
    stage.painted("play", RED)
    assert answers == [f"errno {errno.ENOENT}"]


# -- the same, with a defence taken out ----------------------------------------------------------


def in_the_gap(monkeypatch: pytest.MonkeyPatch, attack: Callable[[], str]) -> list[str]:
    """Have an attack made while the card has no master, at each hand-over; its answers."""
    answers: list[str] = []
    master = drm.master

    def late(fd: int) -> None:
        answers.append(attack())
        master(fd)

    monkeypatch.setattr("hostsim.kmc.screen.drm.master", late)
    return answers


def test_without_the_device_list_a_program_becomes_master_in_the_gap(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = stage.painted("work", GREEN)
    stage.flip("play")
    card = os.stat("/dev/dri/card0").st_rdev
    stage.rig.now(lambda: stage.rig.kmc._nodes["work"].keep("card0", card))
    answers = in_the_gap(monkeypatch, lambda: work.asked("own /dev/card0"))
    play = stage.client("play", RED)
    until(lambda: answers, DEADLINE, "an attack in the gap")
    play.heard(NO_RIGHT)
    assert answers[0] == "master"
    assert not stage.desk.only(RED)


def test_without_the_black_picture_the_next_os_shows_the_one_before(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.painted("work", GREEN)
    show = Card.show

    def no_black(self: Card, what: Snapshot | None = None) -> None:
        if what is not None:
            show(self, what)

    monkeypatch.setattr(Card, "show", no_black)
    stage.flip("play")
    play = stage.client("play")
    play.order("seat")
    play.heard("enabled")
    assert play.asked("open /dev/dri/card0").startswith("device")
    assert stage.desk.only(GREEN)


@SOON
def test_without_the_drop_an_os_draws_in_the_turn_of_another(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = stage.painted("work", GREEN)
    assert work.asked("deaf") == "deaf"
    kept = screens(stage)._screens["card0"].files["work"].fd
    drop = drm.drop
    monkeypatch.setattr(drm, "drop", lambda fd: None if fd == kept else drop(fd))
    stage.flip("play")
    assert work.asked("paint") == "painted"
    stage.shows(GREEN)


def test_the_card_without_the_kmc_as_master_goes_to_who_opens_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = stage.painted("work", GREEN)
    card = os.stat("/dev/dri/card0").st_rdev
    stage.rig.now(lambda: stage.rig.kmc._nodes["work"].keep("card0", card))
    assert work.asked("own /dev/card0") == NO_RIGHT
    work.order("close 1")
    work.heard("closed")
    until(lambda: stage.desk.only(BLACK), DEADLINE, "the KMC is master")
    assert work.asked("own /dev/card0") == NO_RIGHT
    stage.rig.now(screens(stage)._screens["card0"].card.drop)
    assert work.asked("own /dev/card0") == "master"
