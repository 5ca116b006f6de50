# SPDX-License-Identifier: Apache-2.0
"""Old programs, which know no evdev, have a pad as /dev/input/js0 and a mouse as mouse0: of their
OS alone, with events as long as it is the foreground."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evdev import AbsInfo, UInput, ecodes

from help.rig import DEADLINE, Old, Rig
from help.waiting import becomes, until

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

E = ecodes
AXIS = AbsInfo(0, -128, 127, 0, 0, 0)
ABLE: dict[int, Any] = {E.EV_KEY: [E.BTN_SOUTH], E.EV_ABS: [(E.ABS_X, AXIS), (E.ABS_Y, AXIS)]}
BUTTON = 1  # JS_EVENT_BUTTON
DOWN, UP = f"event {BUTTON} 0 1", f"event {BUTTON} 0 0"
OSES = ("work", "play")


@pytest.fixture(autouse=True)
def joydev() -> Iterator[None]:
    """Loaded as ever, whatever the test does to it."""
    subprocess.run(["modprobe", "joydev"], check=True)
    yield
    subprocess.run(["modprobe", "joydev"], check=True)


@pytest.fixture
def pad() -> Iterator[UInput]:
    with UInput(ABLE, name="Test Mouse pad") as made:
        yield made


def node(rig: Rig, name: str, old: str) -> Path:
    """A node of an OS, for us outside of it."""
    return Path(f"/proc/{rig.vms[name].pid}/root/dev/input/{old}")


def tap(pad: UInput) -> None:
    for value in (1, 0):
        pad.write(E.EV_KEY, E.BTN_SOUTH, value)
        pad.syn()


def test_a_pad_is_js0_in_the_foreground_and_silent_after_a_flip(rig: Rig, pad: UInput) -> None:
    rig.start()
    programs = {name: Old(rig, name, "js0") for name in OSES}
    for name in OSES:
        until(programs[name].reads, DEADLINE, f"{name} has js0")
    tap(pad)
    becomes(lambda: programs["work"].read("event"), [DOWN, UP], DEADLINE, "work reads js0")
    pad.write(E.EV_KEY, E.BTN_SOUTH, 1)
    pad.syn()
    becomes(lambda: programs["work"].read("event"), [DOWN, UP, DOWN], DEADLINE, "it is down")
    rig.flip("play")
    want = [DOWN, UP] * 2
    becomes(lambda: programs["work"].read("event"), want, DEADLINE, "it is released for work")
    pad.write(E.EV_KEY, E.BTN_SOUTH, 0)
    pad.syn()
    tap(pad)
    becomes(lambda: programs["play"].read("event"), [DOWN, UP], DEADLINE, "play reads js0")
    rig.flip("work")
    tap(pad)
    want += [DOWN, UP]
    becomes(lambda: programs["work"].read("event"), want, DEADLINE, "work reads on, and only that")
    assert programs["play"].read("event") == [DOWN, UP]
    pad.close()
    for name in OSES:
        until(lambda: not node(rig, name, "js0").exists(), DEADLINE, "js0 went")  # noqa: B023


def test_a_node_is_gone_when_the_kernel_has_it_no_more(rig: Rig, pad: UInput) -> None:
    """Its number may be another device's next."""
    rig.start()
    assert pad.device is not None
    nodes = [node(rig, name, "js0") for name in OSES]
    until(lambda: all(one.exists() for one in nodes), DEADLINE, "both have js0")
    numbers = {one.stat().st_rdev for one in nodes}
    assert len(numbers) == len(OSES)
    remove = ("modprobe", "-r", "joydev")  # udev may have one open for a moment
    until(lambda: subprocess.run(remove, check=False).returncode == 0, DEADLINE, "joydev has gone")
    until(lambda: not any(one.exists() for one in nodes), DEADLINE, "neither has it")
    subprocess.run(["modprobe", "joydev"], check=True)
    until(lambda: all(one.exists() for one in nodes), DEADLINE, "both have it again")
    program = Old(rig, "work", "js0")
    until(program.reads, DEADLINE, "work has js0")
    tap(pad)
    becomes(lambda: program.read("event"), [DOWN, UP], DEADLINE, "work reads js0")


@pytest.mark.parametrize("mode", ["mirror"])
def test_a_mouse_is_mouse0(rig: Rig) -> None:
    mouse = rig.typist("mouse", "Test Mouse")
    rig.start()
    programs = {name: Old(rig, name, "mouse0") for name in OSES}
    for name in OSES:
        until(programs[name].reads, DEADLINE, f"{name} has mouse0")
    mouse("down BTN_LEFT")
    until(lambda: "packet 1" in programs["work"].read("packet"), DEADLINE, "work reads mouse0")
    rig.flip("play")
    becomes(
        lambda: programs["work"].read("packet")[-1:], ["packet 0"], DEADLINE, "work has it released"
    )
    mouse("up BTN_LEFT", "down BTN_RIGHT", "up BTN_RIGHT")
    until(lambda: "packet 2" in programs["play"].read("packet"), DEADLINE, "play reads mouse0")
    assert "packet 2" not in programs["work"].read("packet")
    assert "packet 1" not in programs["play"].read("packet")
