# SPDX-License-Identifier: Apache-2.0
"""A flip moves the equipment: who reads what, before and after, in both modes."""

import sys

import pytest

from help.programs import program
from help.rig import DEADLINE, Rig
from help.waiting import becomes, until
from hostsim.errors import HostsimError

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

A, B, LEFTSHIFT = 30, 48, 42


def test_a_key_is_read_in_the_foreground_only(rig: Rig) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    work, play = rig.reader("work"), rig.reader("play")
    becomes(work.opened, 1, DEADLINE, "work has opened the keyboard")
    keyboard("tap KEY_A")
    becomes(work.pressed, [(A, 1), (A, 0)], DEADLINE, "work reads the key")
    done = rig.flip("play")
    assert (done["foreground"], done["previous"]) == ("play", "work")
    becomes(play.opened, 1, DEADLINE, "play has opened the keyboard")
    keyboard("tap KEY_B")
    becomes(play.pressed, [(B, 1), (B, 0)], DEADLINE, "play reads the key")
    assert work.pressed() == [(A, 1), (A, 0)]
    rig.flip("work")
    becomes(work.opened, 1, DEADLINE, "work has opened the keyboard again")
    keyboard("tap KEY_B")
    becomes(lambda: work.pressed()[2:], [(B, 1), (B, 0)], DEADLINE, "work reads again")
    assert play.pressed() == [(B, 1), (B, 0)]


def test_a_held_key_is_released_for_the_old_and_not_pressed_for_the_new(rig: Rig) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    work, play = rig.reader("work"), rig.reader("play")
    becomes(work.opened, 1, DEADLINE, "work has opened the keyboard")
    keyboard("down KEY_LEFTSHIFT")
    until(lambda: (LEFTSHIFT, 1) in work.pressed(), DEADLINE, "work sees Shift")
    rig.flip("play")
    becomes(play.opened, 1, DEADLINE, "play has opened the keyboard")
    until(lambda: (LEFTSHIFT, 0) in work.pressed(), DEADLINE, "work sees Shift released")
    if rig.spec.devices[0].mode == "direct":
        becomes(work.opened, 0, DEADLINE, "work's descriptor is revoked")
    held = program("evdevs", "held")
    seen = rig.vms["play"].run(held).stdout
    assert seen.split() == [b"[]"]
    keyboard("up KEY_LEFTSHIFT", "tap KEY_B")
    until(lambda: (B, 0) in play.pressed(), DEADLINE, "play reads a key")
    assert play.pressed() == [(B, 1), (B, 0)]
    rig.flip("work")
    becomes(work.opened, 1, DEADLINE, "work has opened the keyboard again")
    seen = rig.vms["work"].run(held).stdout
    assert seen.split() == [b"[]"]


def test_caps_lock_led_follows_each_os(rig: Rig) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    assert rig.vms["work"].run(program("evdevs", "light")).stdout.split() == [b"[1]"]
    becomes(lambda: keyboard("leds"), "LED_CAPSL", DEADLINE, "lit on the device")
    rig.flip("play")
    assert keyboard("leds") == ""
    rig.flip("work")
    assert keyboard("leds") == "LED_CAPSL"


def test_evtest_and_python_evdev_read_what_is_typed(rig: Rig) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    node = rig.vms["work"].run(["ls", "/dev/input"]).stdout.decode().split()
    assert len(node) == 1
    evtest_log, evdev_log = rig.folder / "evtest", rig.folder / "evdev"
    with evtest_log.open("wb") as one, evdev_log.open("wb") as two:
        rig.popen("work", "stdbuf", "-oL", "evtest", f"/dev/input/{node[0]}", stdout=one)
        rig.popen("work", *program("evdevs", "follow", f"/dev/input/{node[0]}"), stdout=two)
    until(lambda: "Testing" in evtest_log.read_text(), DEADLINE, "evtest has begun")
    until(lambda: "ready" in evdev_log.read_text(), DEADLINE, "python-evdev has begun")
    keyboard("tap KEY_A")
    until(
        lambda: "code 30 (KEY_A), value 0" in evtest_log.read_text(), DEADLINE, "evtest reads KEY_A"
    )
    until(lambda: "1 30 0" in evdev_log.read_text(), DEADLINE, "python-evdev reads KEY_A")
    rig.flip("play")
    keyboard("tap KEY_B")
    rig.flip("work")
    assert "KEY_B" not in evtest_log.read_text().partition("Testing")[2]
    assert "1 48" not in evdev_log.read_text()


def test_refused_flips_change_nothing(rig: Rig) -> None:
    rig.start()
    with pytest.raises(HostsimError, match="foreground OS already"):
        rig.flip("work")
    with pytest.raises(HostsimError, match="no such OS; there are work, play"):
        rig.flip("mars")
    assert rig.status()["foreground"] == "work"


def test_the_agent_asks(rig: Rig) -> None:
    rig.start()
    agent = [sys.executable, "-I", "-m", "hostsim.cli.agent"]
    done = rig.vms["work"].run([*agent, "flip", "play"])
    assert done.returncode == 0
    assert done.stdout.startswith(b"play is foreground after work")
    assert rig.status()["foreground"] == "play"
    done = rig.vms["play"].run([*agent, "flip", "play"])
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"hostsim-agent: flip to play: it is the foreground OS already" in done.stderr
    assert rig.vms["play"].run([*agent, "next"]).returncode == 0
    assert rig.status()["foreground"] == "work"
    done = rig.vms["play"].run([*agent, "status"])
    assert done.stdout == b"this is play (background); foreground: work\n"
