# SPDX-License-Identifier: Apache-2.0
"""An OS that joins a running host shares its input devices, and takes nothing with it when it
leaves: keyboards in both modes, a pad for old programs, and devices of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evdev import AbsInfo, UInput, ecodes

from help import cli
from help.cli import ask, hostsim
from help.programs import PROGRAMS
from help.rig import DEADLINE, Old, Rig, Typist
from help.waiting import becomes, until
from hostsim.model import DeviceMode, OsSpec
from hostsim.vm import Vm

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

E = ecodes
A, CAPS = E.KEY_A, E.LED_CAPSL
AXIS = AbsInfo(0, -128, 127, 0, 0, 0)
PAD: dict[int, Any] = {E.EV_KEY: [E.BTN_SOUTH], E.EV_ABS: [(E.ABS_X, AXIS), (E.ABS_Y, AXIS)]}
DOWN, UP = "event 1 0 1", "event 1 0 0"
FILE = """
[host]
name = "hsij"
{oses}
[[device]]
match = {{ name = "Test Keyboard" }}
mode = "{mode}"
"""


def file(folder: Path, mode: str, *oses: str) -> Path:
    made = folder / "hsij.toml"
    text = "".join(f'[[vm]]\nname = "{name}"\n[vm.os]\n' for name in oses)
    made.write_text(FILE.format(oses=text, mode=mode))
    return made


def test_one_that_joins_reads_in_its_turn_alone(rig: Rig, mode: DeviceMode) -> None:
    """And one that comes after it with its name has nothing of it: its LEDs are out."""
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    work = rig.reader("work")
    until(lambda: work.opened() == 1, DEADLINE, "work reads")
    for _ in range(2):
        vm = rig.join("rest", OsSpec())
        (device,) = rig.devices()
        assert device["states"].keys() == {"work", "play", "rest"}
        assert device["states"]["rest"]["leds"] == []
        rest = rig.reader("rest")
        names = os.listdir(f"/proc/{vm.pid}/root/dev/input")
        assert sum(one.startswith("event") for one in names) == (mode == "mirror")
        keyboard("tap KEY_A")
        until(lambda: work.pressed()[-2:] == [(A, 1), (A, 0)], DEADLINE, "work reads")
        rig.flip("rest")
        until(lambda: rest.opened() == 1, DEADLINE, "rest has it")  # noqa: B023
        keyboard("tap KEY_A")
        becomes(lambda: rest.pressed(), [(A, 1), (A, 0)], DEADLINE, "rest reads")  # noqa: B023
        light(vm)
        becomes(lambda: lit(rig), ["LED_CAPSL"], DEADLINE, "its LED")
        rig.flip("work")
        until(lambda: work.opened() == 1, DEADLINE, "work has it again")
        rig.leave("rest").stop()
        (device,) = rig.devices()
        assert device["states"].keys() == {"work", "play"}
    keyboard("tap KEY_A")
    rig.flip("play")
    assert work.pressed() == [(A, 1), (A, 0)] * 3


def light(vm: Vm) -> None:
    """Something in the OS sets an LED of its keyboard."""
    code = (
        "import os, struct, glob; fd = os.open(glob.glob('/dev/input/event*')[0], os.O_RDWR);"
        f"os.write(fd, struct.pack('llHHillHHi', 0, 0, 17, {CAPS}, 1, 0, 0, 0, 0, 0))"
    )
    assert vm.run([sys.executable, "-I", "-S", "-c", code], timeout=DEADLINE).returncode == 0


def lit(rig: Rig) -> Any:
    """The LEDs of rest, as they are now or were at its release."""
    (device,) = rig.devices()
    if device["mode"] == "direct":
        return ["LED_CAPSL"]  # they are known at its release
    return device["states"]["rest"]["leds"]


def test_a_keyboard_that_is_plugged_in_later_is_everybodys(rig: Rig) -> None:
    rig.start()
    rig.join("rest", OsSpec())
    rig.flip("rest", seen=False)
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rest = rig.reader("rest")
    until(lambda: rest.opened() == 1, DEADLINE, "rest has it")
    keyboard("tap KEY_A")
    becomes(lambda: rest.pressed(), [(A, 1), (A, 0)], DEADLINE, "rest reads")
    rig.flip("work")
    rig.leave("rest").stop()


def test_a_pad_is_js0_in_one_that_joins(rig: Rig) -> None:
    subprocess.run(["modprobe", "joydev"], check=True)
    with UInput(PAD, name="Test Mouse pad") as pad:
        rig.start()
        programs = {"work": Old(rig, "work", "js0")}
        until(programs["work"].reads, DEADLINE, "work has js0")
        rig.join("rest", OsSpec())
        programs["rest"] = Old(rig, "rest", "js0")
        until(programs["rest"].reads, DEADLINE, "rest has js0")
        rig.flip("rest", seen=False)
        for value in (1, 0):
            pad.write(E.EV_KEY, E.BTN_SOUTH, value)
            pad.syn()
        becomes(lambda: programs["rest"].read("event"), [DOWN, UP], DEADLINE, "rest reads js0")
        assert programs["work"].read("event") == []
        rig.flip("work", seen=False)
        rig.leave("rest").stop()


def test_what_one_that_joins_makes_is_its_own(rig: Rig) -> None:
    """Once it leaves, what it goes on to make is nobody's: not the machine's."""
    rig.start()
    vm = rig.join("rest", OsSpec(uinput=True))
    own = Own(vm)
    until(lambda: ("rest", own.sysname) in made(rig), DEADLINE, "it is rest's")
    assert not Path("/dev/input", own.sysname).exists()
    rig.leave("rest")
    late = Own(vm)
    until(lambda: ("-", late.sysname) in made(rig), DEADLINE, "it is nobody's")
    assert not Path("/dev/input", late.sysname).exists()
    vm.stop()
    becomes(lambda: made(rig), [], DEADLINE, "they are gone")


class Own:
    """own.py in an OS, until that ends."""

    def __init__(self, vm: Vm) -> None:
        argv = [sys.executable, "-I", "-S", str(PROGRAMS / "own.py"), "Test Keyboard of rest"]
        self.process = vm.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.sysname = self.process.stdout.readline().decode().strip()


def made(rig: Rig) -> list[tuple[str, str]]:
    return [
        (one["owner"], Path(one["node"]).name) for one in rig.devices() if one["mode"] == "uinput"
    ]


@pytest.fixture
def keyboard() -> Iterator[Typist]:
    made = Typist("keyboard", "Test Keyboard")
    yield made
    made.unplug()


def test_the_machine_has_its_keyboard_after_down_and_after_clean(
    mode: DeviceMode, keyboard: Typist, tmp_path: Path
) -> None:
    """By the command line, with the equipment of a host that had no OS before, and with an OS that
    has joined and one that has left."""
    for killed in (False, True):
        empty = tmp_path / "hsij.toml"
        empty.write_text('[host]\nname = "hsij"\n')
        with cli.up(empty):
            hostsim("apply", str(file(tmp_path, mode, "work")))
            becomes(lambda: ask("status")["foreground"], "work", DEADLINE, "work has it")
            hostsim("apply", str(file(tmp_path, mode, "work", "rest")))
            hostsim("flip", "rest")
            (device,) = ask("devices")
            assert device["owner"] == "rest"
            hostsim("apply", str(file(tmp_path, mode, "rest", "play")))
            hostsim("flip", "play")
            (device,) = ask("devices")
            assert (device["owner"], sorted(device["states"])) == ("play", ["play", "rest"])
            if killed:
                cli.kill_daemon("hsij")
                hostsim("clean")
                until(lambda: Path(keyboard.node).exists(), DEADLINE, "it is back")
                hostsim("up", str(empty))
        until(lambda: Path(keyboard.node).exists(), DEADLINE, "it is back")
