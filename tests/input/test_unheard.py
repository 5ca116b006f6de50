"""The machine does not listen in: a program of it that opens every node as soon as it is there, as
a compositor does, hears nothing of what is typed for an OS."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.programs import program
from help.rig import DEADLINE, Reader, Rig, spec
from help.waiting import until

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

A = 30
FLIPS = 20


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(spec("mirror"), tmp_path)
    yield made
    made.stop()


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Path]:
    """What a reader on the machine, started before the host, has written."""
    path = tmp_path / "machine"
    with subprocess.Popen(program("reader", path)) as reader:
        until(lambda: path.exists() and "ready" in path.read_text(), DEADLINE, "it reads")
        yield path
        reader.kill()


def taps(reader: Reader, count: int) -> None:
    until(lambda: reader.pressed().count((A, 0)) == count, DEADLINE, f"{count} taps")


def test_a_reader_on_the_machine_hears_nothing_of_a_clone(heard: Path, rig: Rig) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    readers = {name: rig.reader(name) for name in ("work", "play")}
    for number in range(FLIPS):
        name = ("work", "play")[number % 2]
        if rig.status()["foreground"] != name:
            rig.flip(name)
        keyboard("tap KEY_A")
        taps(readers[name], number // 2 + 1)
    assert "event" not in [line.split()[0] for line in heard.read_text().splitlines()]


def test_it_hears_nothing_of_one_that_comes_later(heard: Path, rig: Rig) -> None:
    rig.start()
    reader = rig.reader("work")
    keyboard = rig.typist("keyboard", "Test Keyboard")
    until(lambda: [one["owner"] for one in rig.devices()] == ["work"], DEADLINE, "it is taken")
    until(lambda: reader.opened() == 1, DEADLINE, "work has the clone")
    keyboard("tap KEY_A")
    until(lambda: (A, 0) in reader.pressed(), DEADLINE, "work hears it")
    clones = [state["node"] for state in rig.devices()[0]["states"].values()]
    assert not [node for node in clones if Path(node).exists()]
    assert "event" not in [line.split()[0] for line in heard.read_text().splitlines()]
    keyboard.unplug()
    until(lambda: rig.devices() == [], DEADLINE, "it is gone")


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
