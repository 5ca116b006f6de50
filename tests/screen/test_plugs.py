# SPDX-License-Identifier: Apache-2.0
"""Screens that are plugged in and taken off while OSes flip, and pictures of a connector that is no
more."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from help.rig import DEADLINE
from help.stage import BLACK, GREEN, RED, Stage
from help.waiting import until
from hostsim.kmc.screen import Screens
from netns.card import Snapshot, Values
from netns.process import Process

pytestmark = [pytest.mark.screen, pytest.mark.timeout(240)]

CARD = Path("/sys/class/drm/card0")
TURNS = 6
NOBODY = 0xFFFF
"""The number of a connector that is no more."""


class Listener:
    """udevadm in an OS: what it hears of cards."""

    def __init__(self, stage: Stage, name: str, folder: Path) -> None:
        self.out = folder / f"{name}.udev"
        with self.out.open("wb") as out:
            words = ("udevadm", "monitor", "--udev", "--property", "--subsystem-match=drm")
            self.process: Process = stage.rig.popen(name, *words, stdout=out)
        until(lambda: "monitor will print" in self.out.read_text(), DEADLINE, f"{name} listens")

    def heard(self) -> int:
        """How often it was told that something was plugged in or taken off."""
        return self.out.read_text().count("HOTPLUG=1\n")


@pytest.fixture
def listeners(stage: Stage, tmp_path: Path) -> Iterator[dict[str, Listener]]:
    made = {name: Listener(stage, name, tmp_path) for name in stage.rig.vms}
    yield made
    for one in made.values():
        one.process.close()


@pytest.fixture
def plug() -> Iterator[Callable[[bool], None]]:
    """Plugs the card's screen in, or takes it off: the kernel is made to believe it."""
    (status,) = CARD.glob("card0-*/status")

    def do(there: bool) -> None:
        status.write_text("detect" if there else "off")
        (CARD / "uevent").write_text("change")

    yield do
    do(True)


def screens(stage: Stage) -> Screens:
    found = stage.rig.kmc._screens
    assert found is not None
    return found


def test_the_foreground_hears_of_a_plug_at_once_and_others_in_their_turn(
    stage: Stage, listeners: dict[str, Listener], plug: Callable[[bool], None]
) -> None:
    plug(False)
    until(lambda: listeners["work"].heard() == 1, DEADLINE, "work hears of it")
    plug(True)
    until(lambda: listeners["work"].heard() == 2, DEADLINE, "work hears of that too")
    assert listeners["play"].heard() == 0
    stage.flip("play")
    until(lambda: listeners["play"].heard() == 1, DEADLINE, "play hears that something changed")
    stage.flip("work")
    stage.flip("play")
    plug(True)
    until(lambda: listeners["play"].heard() == 2, DEADLINE, "play hears of it")
    assert listeners["work"].heard() == 2  # it has not had its turn


def test_flips_go_on_while_a_screen_comes_and_goes(
    stage: Stage, plug: Callable[[bool], None]
) -> None:
    clients = {"work": stage.painted("work", GREEN)}
    stage.flip("play")
    clients["play"] = stage.painted("play", RED)
    files = len(os.listdir("/proc/self/fd"))
    for turn in range(TURNS):
        plug(turn % 2 == 1)
        stage.flip(("work", "play")[turn % 2])
    plug(True)
    for name, colour in (("work", GREEN), ("play", RED)):
        stage.flip(name)
        stage.shows(colour)
        assert clients[name].process.poll() is None
    until(
        lambda: len(os.listdir("/proc/self/fd")) <= files, DEADLINE, f"no more than {files} files"
    )


@pytest.mark.parametrize("defended", [True, False])
def test_a_picture_is_shown_without_a_connector_that_has_gone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """As with a dock's. Defence: what is not there any more is left out."""
    if not defended:
        monkeypatch.setattr("netns.card.left", lambda values, there: values)
    work = stage.painted("work", GREEN)
    stage.flip("play")
    stage.painted("play", RED)
    screen = screens(stage)._screens["card0"]

    def dock(picture: Snapshot) -> None:
        crtc = next(one for one in picture.values if one[2] == "CRTC_ID" and one[3])
        gone: Values = [(NOBODY, crtc[1], "CRTC_ID", 0)]
        picture.values, picture.packed = gone + picture.values, None

    stage.rig.now(lambda: dock(screen.kept["work"]))
    os.kill(work.process.pid, signal.SIGSTOP)  # the picture is the KMC's
    try:
        stage.flip("work")
        stage.shows(GREEN if defended else BLACK)
    finally:
        os.kill(work.process.pid, signal.SIGCONT)
