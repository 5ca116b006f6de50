# SPDX-License-Identifier: Apache-2.0
"""Debian's own compositors, unmodified: sway in one OS and cage in the other, on one screen, with
one keyboard. What is to be seen is QEMU's word, and what is typed comes from QEMU too.

`scripts/test desktop` installs them and runs this; `--desktop-flips N` sets how often.
"""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.compositor import PLACE, command
from help.desk import Desk
from help.rig import DEADLINE, Rig
from help.waiting import until
from hostsim.model import DeviceSpec, HostSpec, KmcSpec, OsSpec, VmSpec

pytestmark = [pytest.mark.desktop, pytest.mark.timeout(400)]

PROGRAMS = ("sway", "cage", "foot", "Xwayland")
PATIENCE = 20.0
"""Seconds for a compositor to let go; the machine is emulated."""

BLACK = "000000"
COLOURS = {"work": "00aa00", "play": "aa0000"}


class Desktop:
    """A compositor with a terminal, which fills the screen with its OS's colour: text and cursor
    have it too. In files of the OS are the keys that the terminal's program reads, and what the
    terminal and the compositor say to each other."""

    def __init__(self, rig: Rig, name: str, out: Path) -> None:
        self.vm, self.colour, self.out = rig.vms[name], COLOURS[name], out
        words = {
            "colors.background": self.colour,
            "colors.foreground": self.colour,
            "cursor.color": f"{self.colour} {self.colour}",
            "csd.preferred": "none",
        }
        options = " ".join(f"-o '{key}={value}'" for key, value in words.items())
        read = f"sh -c 'stty -icanon; exec cat >{PLACE}/keys'"
        terminal = f"WAYLAND_DEBUG=client foot {options} {read} 2>{PLACE}/wire"
        program = {
            "work": ["sway", "-c", f"{PLACE}/config"],
            "play": ["cage", "--", "sh", "-c", terminal],
        }
        with out.open("wb") as log:
            self.process = self.vm.popen(
                command(program[name]),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        assert self.process.stdin is not None
        with self.process.stdin as config:
            config.write(f"default_border none\nexec {terminal}\n".encode())

    def keys(self) -> str:
        """All that the terminal's program has read."""
        return self._file("keys")

    def keyboards(self) -> int:
        """How often the terminal was given a keyboard: sway takes it away for each flip, cage gives
        it a new one."""
        return len(re.findall(r"wl_keyboard@\d+\.repeat_info", self._file("wire")))

    def _file(self, name: str) -> str:
        return self.vm.run(["cat", f"{PLACE}/{name}"]).stdout.decode()


class Room:
    """Host, screen and keyboard."""

    def __init__(self, rig: Rig, desk: Desk, folder: Path) -> None:
        self.rig, self.desk, self.folder = rig, desk, folder
        self.desktops: dict[str, Desktop] = {}

    def begin(self, name: str) -> None:
        """The OS's compositor, the OS being foreground."""
        made = Desktop(self.rig, name, self.folder / f"{name}.log")
        self.desktops[name] = made
        self.shows(name)
        until(lambda: made.keyboards(), DEADLINE, f"{name} has the keyboard")

    def shows(self, name: str) -> None:
        """The screen is the OS's, all of it."""
        until(lambda: self.desk.only(COLOURS[name]), DEADLINE, f"{name} alone is on the screen")

    def flip(self, name: str) -> None:
        """The OS has the screen at once, and its terminal the keyboard without any key."""
        before = self.desktops[name].keyboards()
        self.rig.flip(name, seen=False)
        self.shows(name)
        until(
            lambda: self.desktops[name].keyboards() > before, DEADLINE, f"{name} has the keyboard"
        )

    def types(self, letter: str, name: str) -> None:
        """One key, which that OS hears, and no other."""
        others = {os: made.keys() for os, made in self.desktops.items() if os != name}
        before = self.desktops[name].keys()
        self.desk.ask(type=[letter])
        until(
            lambda: self.desktops[name].keys() == before + letter,
            DEADLINE,
            f"{letter} is heard in {name}",
        )
        assert {os: self.desktops[os].keys() for os in others} == others


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    assert not missing, f"not installed: {' '.join(missing)} (scripts/test desktop does it)"
    spec = HostSpec(
        name="scr",
        path=Path("/"),
        vms=(VmSpec("work", os=OsSpec()), VmSpec("play", os=OsSpec())),
        devices=(DeviceSpec(0, {"name": "QEMU Virtio Keyboard"}, "direct", ()),),
        kmc=KmcSpec("work", PATIENCE),
        screens=("card0",),
    )
    rig = Rig(spec, tmp_path)
    with contextlib.closing(Desk()) as desk:
        made = Room(rig, desk, tmp_path)
        try:
            rig.start()
            yield made
        finally:
            rig.stop()


def test_sway_and_cage_by_turns(room: Room, pytestconfig: pytest.Config) -> None:
    room.begin("work")
    room.types("a", "work")
    room.rig.flip("play", seen=False)
    assert room.desk.only(BLACK)
    room.begin("play")
    room.types("b", "play")
    for turn in range(pytestconfig.getoption("--desktop-flips")):
        name = ("work", "play")[turn % 2]
        room.flip(name)
        room.types("cdefghijkl"[turn % 10], name)
        room.shows(name)
    for desktop in room.desktops.values():
        assert desktop.process.poll() is None, desktop.out.read_text()
    assert all(one["overruled"] == 0 for one in room.rig.status()["oses"])
