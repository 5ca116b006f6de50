# SPDX-License-Identifier: Apache-2.0
"""Every kind of input device: a clone equals its original, libinput lives on across flips, effects
and switches belong to the foreground.

Seen with python-evdev, libinput and pyudev inside the OSes.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from evdev import AbsInfo, UInput, ecodes

from help.ff import answer, next_ff
from help.programs import program
from help.rig import DEADLINE, Rig, spec
from help.waiting import becomes, until
from hostsim.model import DeviceMode

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

E = ecodes


def axis(low: int, high: int, resolution: int = 0, fuzz: int = 0) -> AbsInfo:
    return AbsInfo(0, low, high, fuzz, 0, resolution)


def slots(count: int, width: int, height: int) -> list[tuple[int, AbsInfo]]:
    return [
        (E.ABS_MT_SLOT, axis(0, count - 1)),
        (E.ABS_MT_TRACKING_ID, axis(0, 65535)),
        (E.ABS_MT_POSITION_X, axis(0, width, 20)),
        (E.ABS_MT_POSITION_Y, axis(0, height, 20)),
    ]


LIBINPUT_FLIPS = 100

KINDS: dict[str, tuple[dict[int, Any], list[int]]] = {
    "keyboard": ({E.EV_KEY: range(1, 120), E.EV_LED: [0, 1, 2], E.EV_REP: [], E.EV_MSC: [4]}, []),
    "mouse": ({E.EV_KEY: [0x110, 0x111, 0x112], E.EV_REL: [0, 1, 8, 11]}, [E.INPUT_PROP_POINTER]),
    "touchpad": (
        {
            E.EV_KEY: [E.BTN_LEFT, E.BTN_TOUCH, E.BTN_TOOL_FINGER, E.BTN_TOOL_DOUBLETAP],
            E.EV_ABS: [
                (E.ABS_X, axis(0, 2000, 20)),
                (E.ABS_Y, axis(0, 1200, 20)),
                *slots(5, 2000, 1200),
            ],
        },
        [E.INPUT_PROP_POINTER, E.INPUT_PROP_BUTTONPAD],
    ),
    "tablet": (
        {
            E.EV_KEY: [E.BTN_TOUCH, E.BTN_TOOL_PEN, E.BTN_STYLUS],
            E.EV_ABS: [
                (E.ABS_X, axis(0, 20000, 100, 4)),
                (E.ABS_Y, axis(0, 15000, 100, 4)),
                (E.ABS_PRESSURE, axis(0, 2047)),
            ],
        },
        [E.INPUT_PROP_DIRECT],
    ),
    "gamepad": (
        {
            E.EV_KEY: [E.BTN_SOUTH, E.BTN_EAST, E.BTN_START],
            E.EV_ABS: [(E.ABS_X, axis(-128, 127)), (E.ABS_Z, axis(0, 255))],
            E.EV_FF: [E.FF_RUMBLE, E.FF_GAIN],
        },
        [],
    ),
    "lid": ({E.EV_SW: [E.SW_LID]}, []),
}


def plug(kind: str) -> UInput:
    events, props = KINDS[kind]
    return UInput(
        {t: list(codes) for t, codes in events.items()},
        name=f"Test Keyboard {kind}",
        vendor=0x1209,
        product=0x10 + list(KINDS).index(kind),
        version=0x111,
        phys=f"test/{kind}",
        input_props=props,
        max_effects=16 if E.EV_FF in events else 0,
    )


@pytest.fixture
def all_kinds(tmp_path: Path, mode: DeviceMode) -> object:
    rig = Rig(spec(mode), tmp_path)
    devices = {kind: plug(kind) for kind in KINDS}
    try:
        rig.start()
        becomes(lambda: len(rig.devices()), len(KINDS), DEADLINE, "all devices taken")
        yield rig, devices
    finally:
        rig.stop()
        for device in devices.values():
            device.close()


def describe(rig: Rig, name: str) -> dict[str, object]:
    done = rig.vms[name].run(program("evdevs", "describe"))
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_an_os_sees_what_the_machine_had(all_kinds: tuple[Rig, dict[str, UInput]]) -> None:
    rig, devices = all_kinds
    original = {}
    for device in devices.values():
        d = device.device
        caps = {
            str(t): [[c[0], list(c[1])] if isinstance(c, tuple) else c for c in codes]
            for t, codes in d.capabilities().items()
        }
        original[d.name] = [caps, list(d.info), d.phys, d.input_props(), d.ff_effects_count]
    seen = json.loads(json.dumps(original))
    assert describe(rig, "work") == seen
    if rig.spec.devices[0].mode == "mirror":
        assert describe(rig, "play") == seen
    else:
        assert describe(rig, "play") == {}


def test_libinput_lives_on_across_flips(all_kinds: tuple[Rig, dict[str, UInput]]) -> None:
    rig, devices = all_kinds
    logs = {name: rig.folder / f"libinput-{name}" for name in ("work", "play")}
    tools = {}
    for name, log in logs.items():
        with log.open("wb") as out:
            argv = ("stdbuf", "-oL", "libinput", "debug-events", "--show-keycodes")
            tools[name] = rig.popen(name, *argv, stdout=out, stderr=out)
    keyboard = devices["keyboard"]

    def presses(name: str) -> int:
        text = logs[name].read_text()
        assert tools[name].poll() is None, text
        return sum("KEY_" in line and "pressed" in line for line in text.splitlines())

    def count(name: str, word: str) -> int:
        return logs[name].read_text().count(word)

    until(lambda: count("work", "DEVICE_ADDED") >= 4, DEADLINE, "libinput has its devices")
    want = {"work": 0, "play": 0}
    owner = "work"
    for _ in range(LIBINPUT_FLIPS):
        if rig.spec.devices[0].mode == "direct":
            added = count(owner, "DEVICE_ADDED")
            until(
                lambda: count(owner, "DEVICE_ADDED") - count(owner, "DEVICE_REMOVED") >= 4,  # noqa: B023
                DEADLINE,
                f"libinput in {owner} has opened the devices ({added})",
            )
        keyboard.write(E.EV_KEY, E.KEY_A, 1)
        keyboard.syn()
        keyboard.write(E.EV_KEY, E.KEY_A, 0)
        keyboard.syn()
        want[owner] += 1
        becomes(lambda: presses(owner), want[owner], DEADLINE, f"libinput in {owner} reads")  # noqa: B023
        owner = "play" if owner == "work" else "work"
        rig.flip(owner)
    assert {name: presses(name) for name in logs} == want


@pytest.mark.parametrize("mode", ["mirror"])
def test_rumble_belongs_to_the_foreground(all_kinds: tuple[Rig, dict[str, UInput]]) -> None:
    """A program in `work` uploads an effect and plays it; at a flip it leaves the hardware, and at
    the flip back it is there again."""
    rig, devices = all_kinds
    pad = devices["gamepad"]
    out = rig.folder / "rumble"
    with out.open("wb") as file:
        rumble = rig.popen("work", *program("evdevs", "rumble", "gamepad"), stdin=-1, stdout=file)
    uploads = answer(pad, E.UI_FF_UPLOAD)
    assert uploads == [0x8000]
    until(lambda: "playing" in out.read_text(), DEADLINE, "the effect plays")
    assert next_ff(pad) == 1
    flip = rig.begin(rig.kmc.flip("play", "test"))
    answer(pad, E.UI_FF_ERASE)
    flip.result(DEADLINE)
    flip = rig.begin(rig.kmc.flip("work", "test"))
    assert answer(pad, E.UI_FF_UPLOAD) == [0x8000]
    flip.result(DEADLINE)
    assert rumble.poll() is None
    rumble.kill()  # the kernel erases what a program leaves behind
    answer(pad, E.UI_FF_ERASE)


def test_a_lid_that_closed_meanwhile_is_closed(all_kinds: tuple[Rig, dict[str, UInput]]) -> None:
    rig, devices = all_kinds
    lid = devices["lid"]

    def closed(name: str) -> Any:
        return json.loads(rig.vms[name].run(program("evdevs", "lid", "lid")).stdout)

    lid.write(E.EV_SW, E.SW_LID, 1)
    lid.syn()
    until(lambda: closed("work") is True, DEADLINE, "work sees the lid closed")
    rig.flip("play")
    assert closed("play") is True
    lid.write(E.EV_SW, E.SW_LID, 0)
    lid.syn()
    rig.flip("work")
    assert closed("work") is False


def test_udev_in_an_os_lists_its_devices_only(all_kinds: tuple[Rig, dict[str, UInput]]) -> None:
    rig, _ = all_kinds
    done = rig.vms["work"].run(program("evdevs", "udev"))
    lines = sorted(done.stdout.decode().splitlines())
    nodes = rig.vms["work"].run(["sh", "-c", "ls -d /dev/input/event*"]).stdout.decode().split()
    assert lines == [f"{node} True 1" for node in sorted(nodes)]
    assert len(nodes) == len(KINDS)
