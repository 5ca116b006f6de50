# SPDX-License-Identifier: Apache-2.0
"""Compositors that are frozen or killed, and OSes that end: the next OS has the screen, and who
comes back has its picture and its mode."""

import os
import signal

import pytest

from help.rig import DEADLINE
from help.stage import BLACK, GREEN, RED, Stage
from help.waiting import until
from netns import freezer

pytestmark = [pytest.mark.screen, pytest.mark.timeout(240)]


SOON = pytest.mark.parametrize("stage", [0.3], indirect=True)
"""Seconds until clients that do not let go are overruled."""


@SOON
def test_a_frozen_os_has_its_picture_before_it_runs(stage: Stage) -> None:
    work = stage.painted("work", GREEN)
    stage.client("play", RED)
    group = stage.rig.vms["work"].cgroup
    (group / "cgroup.freeze").write_text("1")
    events = group / "cgroup.events"
    until(lambda: "frozen 1" in events.read_text(), DEADLINE, "nothing of work runs")
    stage.flip("play")  # after release_timeout
    until(lambda: stage.desk.only(RED), DEADLINE, "the next OS has the screen")
    stage.flip("work")
    stage.shows(GREEN)
    stage.flip("play")
    stage.shows(RED)
    freezer.thaw(group)
    work.heard("disabled", 2)
    before = work.lines.count("painted")
    stage.flip("work")
    work.heard("painted", before + 1)
    stage.shows(GREEN)


@SOON
def test_a_killed_compositor_leaves_black_and_the_next_one_begins_anew(stage: Stage) -> None:
    work = stage.painted("work", GREEN)
    stage.flip("play")
    play = stage.painted("play", RED)
    os.kill(play.process.pid, signal.SIGKILL)
    until(lambda: stage.desk.only(BLACK), DEADLINE, "nobody's picture")
    stage.flip("work")
    stage.shows(GREEN)
    os.kill(work.process.pid, signal.SIGSTOP)
    stage.flip("play")
    stage.shows(BLACK)
    os.kill(work.process.pid, signal.SIGKILL)  # in the background, and stopped
    stage.painted("play", RED)
    stage.flip("work")
    until(lambda: stage.desk.only(BLACK), DEADLINE, "work's picture went with its compositor")
    stage.painted("work", GREEN)


def test_the_screen_of_an_os_that_ends_goes_to_the_next(stage: Stage) -> None:
    stage.painted("work", GREEN)
    stage.flip("play")
    stage.painted("play", RED)
    vm = stage.rig.vms["play"]
    os.kill(vm.pid, signal.SIGKILL)
    stage.rig.now(lambda: stage.rig.kmc.vm_gone("play"))  # as the daemon does at once
    until(lambda: stage.desk.only(GREEN), DEADLINE, "work has the screen")


def test_each_os_has_its_own_mode(stage: Stage) -> None:
    work = stage.painted("work", GREEN)
    found = stage.desk.size()
    work.order("size 1024 768")
    assert work.asked("paint") == "painted"
    until(lambda: stage.desk.size() == [1024, 768], DEADLINE, "another mode")
    stage.shows(GREEN)
    stage.flip("play")
    assert stage.desk.size() == found
    stage.painted("play", RED)
    os.kill(work.process.pid, signal.SIGSTOP)
    stage.flip("work")
    stage.shows(GREEN)
    assert stage.desk.size() == [1024, 768]
    os.kill(work.process.pid, signal.SIGCONT)
    stage.flip("play")
    assert stage.desk.size() == found
    stage.shows(RED)
