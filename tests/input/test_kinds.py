# SPDX-License-Identifier: Apache-2.0
"""What users of other tools have tripped over: odd names, and one that two devices have; devices of
axes alone; pens that are near; hotkeys whose keyboards come and go while keys are down; programs
that grab what they read."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evdev import AbsInfo, UInput, ecodes

from help.rig import DEADLINE, Rig, spec
from help.waiting import becomes, until
from hostsim.model import DeviceMode, DeviceSpec

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

E = ecodes
A, LEFT, RIGHT = E.KEY_A, E.KEY_LEFTCTRL, E.KEY_RIGHTCTRL
PEN = E.BTN_TOOL_PEN
AXIS = AbsInfo(0, 0, 1000, 0, 0, 0)
AXES: dict[int, Any] = {E.EV_ABS: [(E.ABS_X, AXIS), (E.ABS_RZ, AXIS)]}
TABLET: dict[int, Any] = {
    E.EV_KEY: [E.BTN_TOUCH, PEN, E.BTN_STYLUS],
    E.EV_ABS: [(E.ABS_X, AXIS), (E.ABS_PRESSURE, AXIS), (E.ABS_DISTANCE, AXIS)],
}
NAMES = (
    "twice",
    "twice",
    " ",
    "Tastatur 鍵盤",
    "x" * 79,
    "a \"quoted\" 'name' $(id) %s",
    "two\nlines",
)
"""Of keyboards: a name of each kind, and one twice. The kernel has none without a name."""


@contextlib.contextmanager
def plugged(*made: UInput) -> Iterator[tuple[UInput, ...]]:
    yield made
    for device in made:
        device.close()


def put(device: UInput, *events: tuple[int, int, int]) -> None:
    """One frame."""
    for event in events:
        device.write(*event)
    device.syn()


@pytest.fixture
def any_name(mode: DeviceMode, tmp_path: Path) -> Iterator[Rig]:
    """Means devices by phys, whatever they are called."""
    made = spec(mode)
    rig = Rig(replace(made, devices=(DeviceSpec(0, {"phys": "kinds/*"}, mode),)), tmp_path)
    yield rig
    rig.stop()


def test_names_are_names_and_axes_do_alone(any_name: Rig) -> None:
    rig = any_name
    with plugged(
        *(UInput({E.EV_KEY: [A]}, name=name, phys=f"kinds/{n}") for n, name in enumerate(NAMES)),
        UInput(AXES, name="Axes", phys="kinds/axes"),
    ) as devices:
        rig.start()
        becomes(lambda: len(rig.devices()), len(devices), DEADLINE, "all are said")
        rows = rig.devices()
        assert [row.get("why") for row in rows] == [None] * len(devices)
        assert all(row["name"].isprintable() for row in rows)
        for owner in ("work", "play"):
            if owner == "play":
                rig.flip(owner)
            reader = rig.reader(owner)
            becomes(reader.opened, len(devices), DEADLINE, "all are open")
            for device in devices[:-1]:
                put(device, (E.EV_KEY, A, 1))
                put(device, (E.EV_KEY, A, 0))
            value = 100 + len(owner) + (owner == "play")
            put(devices[-1], (E.EV_ABS, E.ABS_RZ, value))
            until(
                lambda: (E.EV_ABS, E.ABS_RZ, value) in reader.events(),  # noqa: B023
                DEADLINE,
                "the axes arrive",
            )
            count = 2 * (len(devices) - 1)
            becomes(lambda: len(reader.pressed()), count, DEADLINE, "each key")  # noqa: B023


def test_a_pen_that_is_near_leaves_the_old_and_comes_to_the_new_when_it_comes(rig: Rig) -> None:
    with plugged(UInput(TABLET, name="Test Mouse tablet")) as (tablet,):
        rig.start()
        work, play = rig.reader("work"), rig.reader("play")
        becomes(work.opened, 1, DEADLINE, "work has the tablet")
        put(tablet, (E.EV_KEY, PEN, 1), (E.EV_ABS, E.ABS_X, 10))
        put(tablet, (E.EV_KEY, E.BTN_TOUCH, 1), (E.EV_ABS, E.ABS_PRESSURE, 500))
        until(lambda: (E.BTN_TOUCH, 1) in work.pressed(), DEADLINE, "the pen writes")
        rig.flip("play")
        becomes(play.opened, 1, DEADLINE, "play has the tablet")
        until(
            lambda: {(E.BTN_TOUCH, 0), (PEN, 0)} <= set(work.pressed()), DEADLINE, "it leaves work"
        )
        put(tablet, (E.EV_KEY, E.BTN_TOUCH, 0), (E.EV_KEY, PEN, 0))
        put(tablet, (E.EV_KEY, PEN, 1), (E.EV_ABS, E.ABS_X, 700))
        until(lambda: (PEN, 1) in play.pressed(), DEADLINE, "it comes to play")
        assert play.pressed()[-1:] == [(PEN, 1)]
        assert (E.BTN_TOUCH, 1) not in play.pressed()
        put(tablet, (E.EV_KEY, PEN, 0))
        becomes(lambda: play.pressed()[-1], (PEN, 0), DEADLINE, "and goes")


@pytest.fixture
def chording(mode: DeviceMode, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(spec(mode, hotkey=("KEY_LEFTCTRL", "KEY_RIGHTCTRL")), tmp_path)
    yield made
    made.stop()


def test_a_hotkeys_keyboards_come_and_go_while_keys_are_down(chording: Rig) -> None:
    rig = chording
    first = rig.typist("keyboard", "Test Keyboard 1")
    rig.start()
    work = rig.reader("work")
    becomes(work.opened, 1, DEADLINE, "work has the keyboard")
    first("down KEY_LEFTCTRL")
    until(lambda: (LEFT, 1) in work.pressed(), DEADLINE, "it is down")
    second = rig.typist("keyboard", "Test Keyboard 2")
    becomes(work.opened, 2, DEADLINE, "work has another")
    first.unplug()
    becomes(lambda: len(rig.devices()), 1, DEADLINE, "the first is gone")
    second("down KEY_RIGHTCTRL", "tap KEY_A")
    until(lambda: (A, 0) in work.pressed(), DEADLINE, "no hotkey: the other key went")
    assert rig.status()["foreground"] == "work"
    third = rig.typist("keyboard", "Test Keyboard 3")
    becomes(lambda: len(rig.devices()), 2, DEADLINE, "there are two again")
    third("down KEY_LEFTCTRL")
    becomes(lambda: rig.status()["foreground"], "play", DEADLINE, "the hotkey is whole")
    third("up KEY_LEFTCTRL")
    second("up KEY_RIGHTCTRL")
    assert rig.vms["play"].alive


def test_who_grabs_in_an_os_keeps_nothing_from_the_next(chording: Rig) -> None:
    rig = chording
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    play = rig.reader("play")
    node = rig.vms["work"].run(["sh", "-c", "echo /dev/input/event*"]).stdout.decode().strip()
    log = rig.folder / "evtest"
    with log.open("wb") as out:
        rig.popen("work", "stdbuf", "-oL", "evtest", "--grab", node, stdout=out)
    until(lambda: "Testing" in log.read_text(), DEADLINE, "it grabs")
    keyboard("down KEY_LEFTCTRL", "down KEY_RIGHTCTRL")
    becomes(lambda: rig.status()["foreground"], "play", DEADLINE, "the hotkey is heard")
    keyboard("up KEY_LEFTCTRL", "up KEY_RIGHTCTRL")
    becomes(play.opened, 1, DEADLINE, "play has the keyboard")
    keyboard("tap KEY_A")
    becomes(lambda: play.pressed()[-1:], [(A, 0)], DEADLINE, "play reads")
