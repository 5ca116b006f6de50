# SPDX-License-Identifier: Apache-2.0
"""The programs that users have, in an OS: evemu, fftest, and a device's stable name."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evdev import AbsInfo, UInput, ecodes

from help.ff import answer, next_ff
from help.rig import DEADLINE, Rig
from help.waiting import becomes, until

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

A, B = 30, 48
RULES = Path("/run/udev/rules.d/99-hostsim-test.rules")
LINK = "/dev/input/by-id/test-hostsim-event-kbd"


def only_node(rig: Rig, name: str) -> str:
    (node,) = rig.vms[name].run(["sh", "-c", "ls -d /dev/input/event*"]).stdout.decode().split()
    return str(node)


def keys(record: Path) -> list[tuple[int, int]]:
    """(code, value) of the keys in what evemu-record wrote."""
    words = [line.split() for line in record.read_text().splitlines() if line.startswith("E:")]
    return [(int(w[3], 16), int(w[4])) for w in words if w[2] == "0001"]


def test_evemu_describes_records_and_plays(rig: Rig) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    reader = rig.reader("work", "keys")
    becomes(reader.opened, 1, DEADLINE, "work has opened the keyboard")
    node = only_node(rig, "work")
    original = subprocess.run(["evemu-describe", keyboard.place], capture_output=True, check=True)
    seen = rig.vms["work"].run(["evemu-describe", node]).stdout
    assert described(seen) == described(original.stdout)
    record = rig.folder / "record"
    with record.open("wb") as out:
        tool = rig.popen("work", "stdbuf", "-oL", "evemu-record", node, stdout=out)
    until(lambda: "Waiting for events" in record.read_text(), DEADLINE, "it records")
    keyboard("tap KEY_A")
    becomes(lambda: keys(record), [(A, 1), (A, 0)], DEADLINE, "evemu-record has the key")
    tool.kill()
    with record.open("rb") as file:  # by the machine, to the device itself
        subprocess.run(["evemu-play", keyboard.place], stdin=file, check=True, timeout=DEADLINE)
    becomes(reader.pressed, [(A, 1), (A, 0)] * 2, DEADLINE, "work reads what is played")
    rig.flip("play")
    play = rig.reader("play", "keys")
    becomes(play.opened, 1, DEADLINE, "play has opened the keyboard")
    with record.open("rb") as file:
        subprocess.run(["evemu-play", keyboard.place], stdin=file, check=True, timeout=DEADLINE)
    becomes(play.pressed, [(A, 1), (A, 0)], DEADLINE, "play reads what is played")
    assert reader.pressed() == [(A, 1), (A, 0)] * 2


def described(text: bytes) -> list[bytes]:
    """What evemu says of a device, without its comments: they name the machine."""
    found = [line for line in text.splitlines() if line and not line.startswith(b"#")]
    assert found, text
    return found


def test_fftest_uploads_and_plays(rig: Rig) -> None:
    able: dict[int, Any] = {
        ecodes.EV_KEY: [ecodes.BTN_SOUTH],
        ecodes.EV_ABS: [(ecodes.ABS_X, AbsInfo(0, -128, 127, 0, 0, 0))],
        ecodes.EV_FF: [ecodes.FF_RUMBLE, ecodes.FF_GAIN],
    }
    with UInput(able, name="Test Keyboard pad", max_effects=16) as pad:
        rig.start()
        out = rig.folder / "fftest"
        with out.open("wb") as file:
            argv = ("stdbuf", "-oL", "fftest", only_node(rig, "work"))
            tool = rig.popen("work", *argv, stdin=subprocess.PIPE, stdout=file, stderr=file)
        assert answer(pad, ecodes.UI_FF_UPLOAD) == [0x8000]  # its effects 4 and 5 are rumble
        assert answer(pad, ecodes.UI_FF_UPLOAD) == [0]
        assert tool.stdin is not None
        tool.stdin.write(b"4\n")
        tool.stdin.flush()
        assert next_ff(pad) == 1
        tool.kill()
        for _ in range(2):  # the kernel erases what a program leaves behind
            answer(pad, ecodes.UI_FF_ERASE)
        rig.stop()


@pytest.fixture
def rule() -> Iterator[None]:
    """udev knows a stable name of a keyboard."""
    RULES.parent.mkdir(parents=True, exist_ok=True)
    name = LINK.removeprefix("/dev/")
    RULES.write_text(
        f'KERNEL=="event*", ATTRS{{name}}=="Test Keyboard", ATTRS{{phys}}=="typist", '
        f'SYMLINK+="{name}"\n'
    )
    subprocess.run(["udevadm", "control", "--reload"], check=True)
    yield
    RULES.unlink()
    subprocess.run(["udevadm", "control", "--reload"], check=True)


def test_a_stable_name_goes_with_the_device(rig: Rig, rule: None) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    until(lambda: os.path.lexists(LINK), DEADLINE, "the machine has the name")
    rig.start()
    for owner, other in (("work", "play"), ("play", "work"), ("work", "play")):
        if rig.status()["foreground"] != owner:
            rig.flip(owner)
        target = rig.vms[owner].run(["readlink", "-f", LINK]).stdout.decode().strip()
        assert target == only_node(rig, owner)
        owned = rig.vms[owner].run(["stat", "-L", "-c", "%U %G %a", LINK]).stdout
        assert owned.split() == [b"root", b"input", b"660"]
        seen = rig.vms[owner].run(["udevadm", "info", "--query=symlink", f"--name={target}"]).stdout
        assert LINK.removeprefix("/dev/").encode() in seen.split()
        has = rig.vms[other].run(["test", "-e", LINK]).returncode == 0
        assert has is (rig.spec.devices[0].mode == "mirror")
    assert keyboard("tap KEY_A") == "ok"
