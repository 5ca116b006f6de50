# SPDX-License-Identifier: Apache-2.0
"""What programs of an OS make through /dev/uinput is that OS's, and nobody else's."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from help.programs import PROGRAMS, program
from help.rig import DEADLINE, Old, Reader, Rig, spec
from help.waiting import becomes, until
from hostsim.kmc import made
from hostsim.kmc.made import Made
from hostsim.model import OsSpec
from netns.claims import MADE, Claims

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

A, SYSRQ, RADIOS = 30, 99, (237, 238, 239, 246, 247)
BTN_SOUTH = 0x130
DOWN, UP = "event 1 0 1", "event 1 0 0"  # of a joystick's first button
NAME = "Test Keyboard of work"
"""Such as a `[[device]]` means."""


class Own:
    """own.py in an OS."""

    def __init__(self, rig: Rig, name: str, *words: str) -> None:
        argv = [sys.executable, "-I", "-S", str(PROGRAMS / "own.py"), NAME, *words]
        self.process = rig.vms[name].popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.sysname = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def tap(self, code: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{code}\n".encode())
        self.process.stdin.flush()
        assert self._line() == "ok"

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    @property
    def there(self) -> bool:
        return Path("/sys/class/input", self.sysname).exists()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    plain = spec("mirror")
    work, play = plain.vms
    made = Rig(replace(plain, vms=(replace(work, os=OsSpec(uinput=True)), play)), tmp_path)
    yield made
    made.stop()


def able(sysname: str) -> set[int]:
    """The keys that the kernel lets a device have."""
    words = Path("/sys/class/input", sysname, "device/capabilities/key").read_text().split()
    bits = sum(int(word, 16) << 64 * place for place, word in enumerate(reversed(words)))
    return {code for code in range(768) if bits >> code & 1}


def taps(reader: Reader, count: int) -> None:
    becomes(reader.pressed, [(A, 1), (A, 0)] * count, DEADLINE, f"{count} taps")


def test_it_belongs_to_that_os_alone_and_goes_with_it(heard: Path, rig: Rig) -> None:
    rig.start()
    assert rig.now(lambda: rig.kmc._plugs._consoles.is_quiet)  # type: ignore[union-attr]
    readers = {name: rig.reader(name) for name in ("work", "play")}
    first = Own(rig, "work")
    becomes(readers["work"].opened, 1, DEADLINE, "work has it")
    first.tap(A)
    taps(readers["work"], 1)

    process = rig.popen("work", *program("evdevs", "udev"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert f"/dev/input/{first.sysname}" in process.stdout.read().decode()
    keys = set(range(1, 249)) - {SYSRQ, *RADIOS}
    assert able(first.sysname) == keys
    rig.flip("play")  # it is no equipment: no flip moves it
    first.tap(A)
    taps(readers["work"], 2)
    assert readers["play"].lines() == ["ready"]
    assert not Path("/dev/input", first.sysname).exists()
    assert "event" not in [line.split()[0] for line in heard.read_text().splitlines()]
    assert [(one["mode"], one["owner"]) for one in rig.devices()] == [("uinput", "work")]

    claims = Claims("other")  # another host's
    other = Made({}, claims)
    try:
        assert claims.owner(first.sysname) == (MADE, "inp")
        other.maker(str(Path("/sys/class/input", first.sysname).resolve()))  # it looks from now on
        second = Own(rig, "work")
        path = str(Path("/sys/class/input", second.sysname).resolve()).removeprefix("/sys")
        assert other.maker(path) is None
    finally:
        other.close()
        claims.close()
    becomes(readers["work"].opened, 2, DEADLINE, "work has the second too")
    second.end()
    becomes(readers["work"].opened, 1, DEADLINE, "work has it no more")
    rig.vms["work"].kill()
    until(lambda: not first.there, DEADLINE, "it has gone with its OS")
    becomes(rig.devices, [], DEADLINE, "it is no device any more")


def test_a_pad_is_js0_for_old_programs_of_that_os_alone(rig: Rig) -> None:
    subprocess.run(["modprobe", "joydev"], check=True)
    rig.start()
    before = set(Path("/dev/input").glob("js*"))
    pad = Own(rig, "work", "pad")
    program = Old(rig, "work", "js0")
    until(program.reads, DEADLINE, "work has js0")
    assert set(Path("/dev/input").glob("js*")) == before
    assert not Path(f"/proc/{rig.vms['play'].pid}/root/dev/input/js0").exists()
    rig.flip("play")  # it is no equipment
    pad.tap(BTN_SOUTH)
    becomes(lambda: program.read("event"), [DOWN, UP], DEADLINE, "work reads js0")
    pad.end()
    node = Path(f"/proc/{rig.vms['work'].pid}/root/dev/input/js0")
    until(lambda: not node.exists(), DEADLINE, "js0 went")


def test_another_os_makes_none(rig: Rig) -> None:
    rig.start()
    try_it = "mknod /dev/uinput c 10 223 && : <>/dev/uinput"
    assert rig.popen("play", "sh", "-c", try_it, stderr=subprocess.DEVNULL).wait(DEADLINE) != 0
    assert rig.popen("work", "sh", "-c", ": <>/dev/uinput").wait(DEADLINE) == 0


def test_an_os_that_makes_too_many_is_killed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "MOST", 2)
    rig.start()
    mine = [Own(rig, "work"), Own(rig, "work")]
    becomes(lambda: len(rig.devices()), 2, DEADLINE, "it has two")
    assert rig.vms["work"].alive
    mine.append(Own(rig, "work"))
    until(lambda: not rig.vms["work"].alive, DEADLINE, "it is killed")
    until(lambda: not any(one.there for one in mine), DEADLINE, "they have gone")
    assert rig.vms["play"].alive
