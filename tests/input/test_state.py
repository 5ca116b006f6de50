# SPDX-License-Identifier: Apache-2.0
"""What each OS has of its own on one device, in both modes: modifiers that are carried, autorepeat,
key map, calibration, sounds, gain, LEDs of a device that comes back. What is down or touched when a
device changes hands."""

import fcntl
import json
import os
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from evdev import AbsInfo, InputDevice, UInput, ecodes

from help.programs import program
from help.rig import DEADLINE, Rig, spec
from help.waiting import becomes, until
from hostsim.model import DeviceMode, DeviceSpec, KmcSpec

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

E = ecodes
A, ENTER, SHIFT = E.KEY_A, E.KEY_ENTER, E.KEY_LEFTSHIFT
GET_KEYCODE = 0x80084504  # the old one: two words, by scan code

AXIS = AbsInfo(0, -128, 127, 0, 0, 0)
SLOT = AbsInfo(0, 0, 3, 0, 0, 0)
RANGE = AbsInfo(0, 0, 1000, 0, 0, 0)
KINDS: dict[str, dict[int, Any]] = {
    "pad": {
        E.EV_KEY: [E.BTN_SOUTH],
        E.EV_ABS: [(E.ABS_X, AXIS)],
        E.EV_FF: [E.FF_RUMBLE, E.FF_GAIN],
    },
    "beeper": {E.EV_SND: [E.SND_BELL, E.SND_TONE]},
    "touch": {
        E.EV_KEY: [E.BTN_TOUCH],
        E.EV_ABS: [
            (E.ABS_MT_SLOT, SLOT),
            (E.ABS_MT_TRACKING_ID, AbsInfo(0, 0, 65535, 0, 0, 0)),
            (E.ABS_MT_POSITION_X, RANGE),
            (E.ABS_MT_POSITION_Y, RANGE),
        ],
    },
}


@contextmanager
def plugged(kind: str) -> Iterator[UInput]:
    effects = 4 if E.EV_FF in KINDS[kind] else 0
    with UInput(KINDS[kind], name=f"Test Mouse {kind}", max_effects=effects) as device:
        yield device


def ask(rig: Rig, name: str, *words: object) -> Any:
    """What a command of evdevs.py answers, for the OS's first device."""
    done = rig.vms[name].run(program("evdevs", *words))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def held(rig: Rig, name: str) -> list[int]:
    return list(ask(rig, name, "held"))


@pytest.fixture
def carrying(mode: DeviceMode, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(spec(mode, kmc=KmcSpec("work", held="carry-modifiers")), tmp_path)
    yield made
    made.stop()


def test_shift_is_carried_and_lifted_in_both(carrying: Rig, mode: DeviceMode) -> None:
    rig = carrying
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    work, play = rig.reader("work"), rig.reader("play")
    becomes(work.opened, 1, DEADLINE, "work has the keyboard")
    keyboard("down KEY_LEFTSHIFT", "down KEY_A")
    until(lambda: (A, 1) in work.pressed(), DEADLINE, "work sees the keys")
    rig.flip("play")
    becomes(play.opened, 1, DEADLINE, "play has the keyboard")
    before = [(SHIFT, 1)] if mode == "mirror" else [(SHIFT, 0), (SHIFT, 1)]
    becomes(play.pressed, before, DEADLINE, "play sees Shift held")
    assert held(rig, "play") == [SHIFT]
    keyboard("up KEY_A", "up KEY_LEFTSHIFT")
    becomes(lambda: play.pressed()[-1], (SHIFT, 0), DEADLINE, "play sees Shift released")
    assert held(rig, "play") == []
    # in direct mode the node was opened after its press: it is pressed again
    assert play.pressed() == [*before, (SHIFT, 0)]
    if mode == "mirror":
        released = [(A, 0), (SHIFT, 0)]
        becomes(lambda: sorted(work.pressed()[-2:]), released, DEADLINE, "work sees both released")
        assert held(rig, "work") == []
    rig.flip("work")
    assert held(rig, "work") == []


def test_keys_down_at_up_are_stuck_nowhere(rig: Rig) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    with closing(InputDevice(keyboard.node)) as machine:
        keyboard("down KEY_ENTER")
        rig.start()
        seen: list[tuple[int, int]] = []

        def released() -> bool:
            while (event := machine.read_one()) is not None:
                seen.append((event.code, event.value))
            return (ENTER, 0) in seen

        until(released, DEADLINE, "the machine sees Enter released")
    work = rig.reader("work")
    becomes(work.opened, 1, DEADLINE, "work has the keyboard")
    assert held(rig, "work") == []
    keyboard("up KEY_ENTER", "tap KEY_A")
    until(lambda: (A, 0) in work.pressed(), DEADLINE, "work reads")
    assert work.pressed() == [(A, 1), (A, 0)]


def test_keys_down_at_hotplug_are_stuck_nowhere(rig: Rig) -> None:
    rig.start()
    work = rig.reader("work")
    go = Event()

    async def wait() -> None:
        go.wait(DEADLINE)  # nothing is plugged for the KMC meanwhile

    blocked = rig.begin(wait())
    keyboard = rig.typist("keyboard", "Test Keyboard")
    keyboard("down KEY_ENTER")
    go.set()
    blocked.result(DEADLINE)
    becomes(work.opened, 1, DEADLINE, "work has the keyboard")
    assert held(rig, "work") == []
    keyboard("up KEY_ENTER", "tap KEY_A")
    until(lambda: (A, 0) in work.pressed(), DEADLINE, "work reads")
    assert work.pressed() == [(A, 1), (A, 0)]


def test_a_touch_is_lifted_for_the_old_and_unknown_to_the_new(rig: Rig, mode: DeviceMode) -> None:
    with plugged("touch") as pad:
        rig.start()
        work, play = rig.reader("work"), rig.reader("play")
        becomes(work.opened, 1, DEADLINE, "work has the pad")
        touch(pad, 1, 77)
        until(
            lambda: (3, E.ABS_MT_TRACKING_ID, 77) in work.events(), DEADLINE, "work sees the touch"
        )
        rig.flip("play")
        becomes(play.opened, 1, DEADLINE, "play has the pad")
        if mode == "mirror":
            lifted = (3, E.ABS_MT_TRACKING_ID, -1)
            until(lambda: lifted in work.events(), DEADLINE, "work sees it lifted")
        assert contacts(rig, "play") == [-1] * 4
        touch(pad, 1, -1)
        touch(pad, 0, 78)
        until(
            lambda: (3, E.ABS_MT_TRACKING_ID, 78) in play.events(),
            DEADLINE,
            "play sees a new touch",
        )
        ids = [value for kind, code, value in play.events() if code == E.ABS_MT_TRACKING_ID]
        assert ids == [78]
        touch(pad, 0, -1)


def test_a_touch_at_up_is_stuck_nowhere(rig: Rig) -> None:
    with plugged("touch") as pad, closing(InputDevice(pad.device.path)) as machine:
        touch(pad, 1, 77)
        rig.start()
        seen: list[int] = []

        def lifted() -> bool:
            while (event := machine.read_one()) is not None:
                if (event.type, event.code) == (E.EV_ABS, E.ABS_MT_TRACKING_ID):
                    seen.append(event.value)
            return seen == [77, -1]

        until(lifted, DEADLINE, "the machine sees the touch end")
        work = rig.reader("work")
        becomes(work.opened, 1, DEADLINE, "work has the pad")
        assert contacts(rig, "work") == [-1] * 4
        touch(pad, 1, -1)
        touch(pad, 0, 78)
        until(
            lambda: (3, E.ABS_MT_TRACKING_ID, 78) in work.events(),
            DEADLINE,
            "work sees a new touch",
        )
        ids = [value for kind, code, value in work.events() if code == E.ABS_MT_TRACKING_ID]
        assert ids == [78]


def touch(pad: UInput, slot: int, tracking: int) -> None:
    pad.write(E.EV_ABS, E.ABS_MT_SLOT, slot)
    pad.write(E.EV_ABS, E.ABS_MT_TRACKING_ID, tracking)
    pad.write(E.EV_KEY, E.BTN_TOUCH, int(tracking >= 0))
    pad.syn()


def contacts(rig: Rig, name: str) -> list[int]:
    return list(ask(rig, name, "slots"))


def test_autorepeat_belongs_to_its_os(rig: Rig) -> None:
    rig.typist("keyboard", "Test Keyboard")
    rig.start()
    found = ask(rig, "work", "repeat")
    assert ask(rig, "work", "repeat", 321, 54) == [321, 54]
    rig.flip("play")
    assert ask(rig, "play", "repeat") == found
    rig.flip("work")
    assert ask(rig, "work", "repeat") == [321, 54]


def test_calibration_belongs_to_its_os(rig: Rig) -> None:
    with plugged("pad") as pad:
        rig.start()
        found = ask(rig, "work", "calibrate")
        mine = ask(rig, "work", "calibrate", -100, 90, 3, 4)
        assert mine == [-100, 90, 3, 4, 0]
        rig.flip("play")
        assert ask(rig, "play", "calibrate") == found
        rig.flip("work")
        assert ask(rig, "work", "calibrate") == mine
        rig.now(rig.kmc._drivers()[0].close)
        rig.now(rig.kmc._drivers()[1].close)
        assert list(pad.device.absinfo(0))[1:] == found


def test_sounds_and_gain_stay_with_their_os(rig: Rig, mode: DeviceMode) -> None:
    with plugged("beeper") as beeper:
        rig.start()
        ask(rig, "work", "write", E.EV_SND, E.SND_TONE, 440)
        becomes(lambda: told(beeper, E.EV_SND), [(E.SND_TONE, 440)], DEADLINE, "the tone sounds")
        rig.flip("play")
        becomes(lambda: told(beeper, E.EV_SND), [(E.SND_TONE, 0)], DEADLINE, "the tone is off")
        rig.flip("work")
        if mode == "mirror":  # the kernel does not tell a tone's pitch
            becomes(
                lambda: told(beeper, E.EV_SND), [(E.SND_TONE, 440)], DEADLINE, "it sounds again"
            )


def test_the_gain_of_one_os_is_not_the_next_ones(rig: Rig) -> None:
    with plugged("pad") as pad:
        rig.start()
        told(pad, E.EV_FF)
        ask(rig, "work", "write", E.EV_FF, E.FF_GAIN, 0x2000)
        until(lambda: (E.FF_GAIN, 0x2000) in told(pad, E.EV_FF), DEADLINE, "work sets the gain")
        rig.flip("play")
        until(lambda: (E.FF_GAIN, 0xFFFF) in told(pad, E.EV_FF), DEADLINE, "play has full gain")


def told(device: UInput, kind: int) -> list[tuple[int, int]]:
    """(code, value) of what the device was told since."""
    found = []
    while (event := device.read_one()) is not None:
        if event.type == kind:
            found.append((event.code, event.value))
    return found


def keycode(rig: Rig, name: str, change: int | None = None) -> int:
    """The key of A's scan code on the AT keyboard, once it was changed to another."""
    return int(ask(rig, name, "keycode", *([] if change is None else [change])))


@pytest.mark.parametrize("mode", ["direct"])
def test_the_key_map_belongs_to_its_os(tmp_path: Path, mode: DeviceMode) -> None:
    """On a keyboard with a real driver: uinput's have no key map."""
    nodes = [InputDevice(f"/dev/input/{name}") for name in event_nodes()]
    keyboard = next((node for node in nodes if node.name.startswith("AT ")), None)
    assert keyboard is not None, "the test VM has an AT keyboard"
    made = replace(spec(mode), devices=(DeviceSpec(0, {"name": "AT *"}, "direct"),))
    rig = Rig(made, tmp_path)
    try:
        rig.start()
        assert keycode(rig, "work") == A
        assert keycode(rig, "work", E.KEY_B) == E.KEY_B
        rig.flip("play")
        assert keycode(rig, "play") == A
        assert keycode(rig, "play", E.KEY_Z) == E.KEY_Z
        rig.flip("work")
        assert keycode(rig, "work") == E.KEY_B
        rig.flip("play")
        assert keycode(rig, "play") == E.KEY_Z
    finally:
        rig.stop()
        found = bytearray(struct.pack("II", 30, 0))
        fcntl.ioctl(keyboard.fd, GET_KEYCODE, found)
        assert struct.unpack("II", found) == (30, A), "the machine has its own again"
        for node in nodes:
            node.close()


def event_nodes() -> list[str]:
    return [path.name for path in Path("/dev/input").glob("event*")]


@pytest.mark.parametrize("mode", ["mirror"])
def test_a_clone_has_no_key_map_of_its_own(rig: Rig) -> None:
    rig.typist("keyboard", "Test Keyboard")
    rig.start()
    with pytest.raises(AssertionError, match="Invalid argument"):
        keycode(rig, "work", E.KEY_B)


def test_a_device_that_comes_back_is_as_each_os_had_it(rig: Rig) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    assert ask(rig, "work", "repeat", 321, 54) == [321, 54]
    assert ask(rig, "work", "light") == [E.LED_CAPSL]
    rig.flip("play")
    fresh = [ask(rig, "play", "repeat"), ask(rig, "play", "leds")]
    keyboard.unplug()
    becomes(rig.devices, [], DEADLINE, "the KMC has forgotten it")
    keyboard = rig.typist("keyboard", "Test Keyboard")
    until(rig.devices, DEADLINE, "the KMC has it again")
    assert [ask(rig, "play", "repeat"), ask(rig, "play", "leds")] == fresh
    assert keyboard("leds") == ""
    rig.flip("work")
    assert ask(rig, "work", "repeat") == [321, 54]
    assert ask(rig, "work", "leds") == [E.LED_CAPSL]
    becomes(lambda: keyboard("leds"), "LED_CAPSL", DEADLINE, "lit on the device")


def test_the_leds_of_an_os_are_not_the_consoles(rig: Rig) -> None:
    """The console sets all keyboards' LEDs when CapsLock is pressed on one, or one comes."""
    with UInput({E.EV_KEY: range(1, 120)}, name="of the machine"):
        keyboard = rig.typist("keyboard", "Test Keyboard")
        rig.start()
        assert ask(rig, "work", "light", "LED_NUML") == [E.LED_NUML]
        becomes(lambda: keyboard("leds"), "LED_NUML", DEADLINE, "lit on the device")
        work = rig.reader("work")
        becomes(work.opened, 1, DEADLINE, "work has the keyboard")
        keyboard("tap KEY_CAPSLOCK")
        until(lambda: (E.KEY_CAPSLOCK, 0) in work.pressed(), DEADLINE, "work reads")
        with UInput({E.EV_KEY: range(1, 120)}, name="of the machine too"):
            assert keyboard("leds") == "LED_NUML"
            rig.flip("play")
            assert ask(rig, "play", "leds") == []
            rig.typist("keyboard", "Test Keyboard 2")
            becomes(lambda: len(rig.devices()), 2, DEADLINE, "the KMC has another")
            assert keyboard("leds") == ""
            rig.flip("work")
            assert keyboard("leds") == "LED_NUML"


@contextmanager
def before_others() -> Iterator[None]:
    """On one processor, the forwarder's thread reads nothing in between."""
    was, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    most = os.sched_param(os.sched_get_priority_max(os.SCHED_FIFO))
    os.sched_setscheduler(0, os.SCHED_FIFO, most)
    try:
        yield
    finally:
        os.sched_setscheduler(0, was, priority)


@pytest.mark.parametrize("mode", ["mirror"])
def test_an_overflow_is_resynchronised(rig: Rig) -> None:
    """More than the kernel keeps for the forwarder: it reads what is so, and the OS has it."""
    with UInput({E.EV_KEY: [A, ENTER]}, name="Test Keyboard burst") as keyboard:
        rig.start()
        until(rig.devices, DEADLINE, "the KMC has the keyboard")
        event = struct.Struct("llHHi")
        report = event.pack(0, 0, 0, 0, 0)

        def resyncs() -> int:
            return int(rig.devices()[0]["counters"]["resyncs"])

        down = 0
        for _ in range(100):
            taps = [event.pack(0, 0, 1, A, n % 2) + report for n in range(1, 4000)]
            down = 1 - down
            last = event.pack(0, 0, 1, ENTER, down) + report
            with before_others():
                os.write(keyboard.fd, b"".join([*taps, last]))
            want = [A, ENTER] if down else [A]
            becomes(
                lambda: sorted(held(rig, "work")),
                sorted(want),
                DEADLINE,
                "work has what is so",
            )
            if resyncs() > 0 and not down:
                break
        assert resyncs() > 0
