# SPDX-License-Identifier: Apache-2.0
"""The machine does not listen in: a program of it that opens every node as soon as it is there, as
a compositor does, hears nothing of what is typed for an OS."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from evdev import AbsInfo, UInput, ecodes

from help.rig import DEADLINE, Reader, Rig
from help.waiting import becomes, until
from netns.nodes import AWAY

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

E = ecodes
A = E.KEY_A


def taps(reader: Reader, count: int) -> None:
    becomes(lambda: reader.pressed().count((A, 0)), count, DEADLINE, f"{count} taps")


@pytest.mark.timeout(2400)
def test_a_reader_on_the_machine_hears_nothing(
    heard: Path, rig: Rig, pytestconfig: pytest.Config
) -> None:
    """`--unheard-flips N` sets how often it flips; five hundred take minutes."""
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    readers = {name: rig.reader(name) for name in ("work", "play")}
    for number in range(int(pytestconfig.getoption("--unheard-flips"))):
        name = ("work", "play")[number % 2]
        if rig.status()["foreground"] != name:
            rig.flip(name)
        becomes(readers[name].opened, 1, DEADLINE, f"{name} has it")
        keyboard("tap KEY_A")
        taps(readers[name], number // 2 + 1)
    assert "event" not in [line.split()[0] for line in heard.read_text().splitlines()]


def test_it_hears_nothing_of_one_that_comes_later(heard: Path, rig: Rig) -> None:
    rig.start()
    reader = rig.reader("work")
    keyboard = rig.typist("keyboard", "Test Keyboard")
    becomes(lambda: [one["owner"] for one in rig.devices()], ["work"], DEADLINE, "it is taken")
    becomes(reader.opened, 1, DEADLINE, "work has the clone")
    keyboard("tap KEY_A")
    until(lambda: (A, 0) in reader.pressed(), DEADLINE, "work hears it")
    nodes = [state["node"] for state in rig.devices()[0]["states"].values()]
    assert not [node for node in nodes if Path(node).exists()]
    assert "event" not in [line.split()[0] for line in heard.read_text().splitlines()]
    keyboard.unplug()
    becomes(rig.devices, [], DEADLINE, "it is gone")


def test_a_driver_of_the_kernel_that_comes_late_gives_the_machine_no_node(rig: Rig) -> None:
    """joydev, which udev loads with the first gamepad, after we may have taken it."""
    axis = AbsInfo(0, -128, 127, 0, 0, 0)
    able: dict[int, Any] = {E.EV_KEY: [E.BTN_SOUTH], E.EV_ABS: [(E.ABS_X, axis), (E.ABS_Y, axis)]}
    with UInput(able, name="Test Mouse pad") as pad:
        rig.start()
        until(rig.devices, DEADLINE, "it is taken")
        work = rig.reader("work")
        becomes(work.opened, 1, DEADLINE, "work has it")
        subprocess.run(["udevadm", "settle"], check=True)
        subprocess.run(["modprobe", "-r", "joydev"], check=True)
        assert joysticks() == set()
        subprocess.run(["modprobe", "joydev"], check=True)
        ours = 2 if rig.spec.devices[0].mode == "mirror" else 3  # the clones', and its own
        becomes(lambda: len(joysticks() - nodes()), ours, DEADLINE, "they are not the machine's")
        pad.write(E.EV_KEY, E.BTN_SOUTH, 1)
        pad.syn()
        until(lambda: (E.BTN_SOUTH, 1) in work.pressed(), DEADLINE, "work reads on")
    becomes(rig.devices, [], DEADLINE, "it is gone")
    assert joysticks() == set() == nodes()


def joysticks() -> set[str]:
    """That the kernel has."""
    return {path.name for path in Path("/sys/class/input").glob("js*")}


def nodes() -> set[str]:
    """Of joysticks, that the machine's programs can open."""
    return {path.name for path in Path("/dev/input").glob("js*")}


@pytest.mark.parametrize("mode", ["mirror"])
def test_the_nodes_of_a_clone_are_gone_with_it(rig: Rig) -> None:
    """The kernel takes a device down whose node somebody else has removed."""
    before = set(Path("/dev/input").iterdir())
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    clones = [Path(state["node"]).name for state in rig.devices()[0]["states"].values()]
    assert all(Path("/sys/class/input", name).exists() for name in clones)
    keyboard.unplug()
    until(lambda: not any(Path("/sys/class/input", n).exists() for n in clones), DEADLINE, "gone")
    assert set(Path("/dev/input").iterdir()) == before


@pytest.mark.parametrize("mode", ["direct"])
@pytest.mark.parametrize("gone", [False, True], ids=["given back", "unplugged"])
def test_the_nodes_of_a_device_come_back_or_go_with_it(heard: Path, rig: Rig, gone: bool) -> None:
    before = set(Path("/dev/input").iterdir())
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    assert not Path(keyboard.node).exists()
    if gone:
        keyboard.unplug()
        becomes(rig.devices, [], DEADLINE, "it is gone")
        assert set(Path("/dev/input").iterdir()) == before
    else:
        rig.now(rig.kmc._drivers()[1].close)
        assert Path(keyboard.node).stat().st_rdev == keyboard.rdev
        name = Path(keyboard.node).name
        lost = f"gone {name}"
        until(lambda: f"open {name}" in heard.read_text().rpartition(lost)[2], DEADLINE, "open")
        keyboard("tap KEY_A")
        until(lambda: f"event {name} 1 {A} 0" in heard.read_text(), DEADLINE, "it is heard again")
    assert not AWAY.exists()
