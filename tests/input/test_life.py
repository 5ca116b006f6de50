# SPDX-License-Identifier: Apache-2.0
"""Flips in a row under typing, agents that hang, devices and OSes that go, in both modes."""

import os
import signal
from pathlib import Path

import pytest

from help.programs import program
from help.rig import DEADLINE, LENIENT, Reader, Rig, Typist, spec
from help.waiting import becomes, until
from hostsim.errors import HostsimError
from hostsim.model import DeviceMode, KmcSpec

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

FLIPS = 200
AHEAD = 8  # moves that may be on their way
SHORT = 4.0  # seconds: an agent that lives answers before, also on a slow machine
LEFTCTRL = 29
A = 30


def numbers(reader: Reader) -> list[int]:
    """The serial numbers it read: values of REL_X."""
    return [value for kind, code, value in reader.events() if (kind, code) == (2, 0)]


def test_flips_in_a_row_under_typing(rig: Rig, mode: DeviceMode) -> None:
    """Every event has a number of its own. None is read twice or in two OSes; of those that came
    while a flip was complete (and its reader had the node open), none is missing: also not those
    that the reader had not read yet when the next flip was asked for.

    There are never more of them on their way than the kernel keeps for one reader (64 events, two
    to a move), so none is lost where a reader has to wait for its turn."""
    mouse = rig.typist("mouse", "Test Mouse")
    rig.start()
    readers = {name: rig.reader(name) for name in ("work", "play")}
    owner = "work"
    due: dict[str, list[tuple[int, int]]] = {"work": [], "play": []}
    becomes(readers["work"].opened, 1, DEADLINE, "work has the mouse")
    mouse(f"flood 250 {AHEAD}")
    for _ in range(FLIPS):
        owner = "play" if owner == "work" else "work"
        rig.flip(owner)
        if mode == "direct":
            other = "play" if owner == "work" else "work"
            # or it would count as open at the flip back, with the file that was revoked
            becomes(readers[other].opened, 0, DEADLINE, "has lost the mouse")
            becomes(readers[owner].opened, 1, DEADLINE, "has the mouse")
        if due[owner]:
            last = due[owner][-1][1]
            until(lambda: last in numbers(readers[owner]), DEADLINE, "what came before is read")  # noqa: B023
        first = int(mouse("count"))
        mouse(f"more {AHEAD}")
        until(lambda: int(mouse("count")) > first + 3, DEADLINE, "typing goes on")  # noqa: B023
        # first + 1 may have been on its way while the flip was
        due[owner].append((first + 2, int(mouse("count"))))
    end = int(mouse("calm"))
    until(lambda: end in numbers(readers[owner]), DEADLINE, "the last event is read")
    read = {name: numbers(reader) for name, reader in readers.items()}
    assert set(read["work"]).isdisjoint(read["play"])
    for name, got in read.items():
        assert len(got) == len(set(got)), f"doubled in {name}"
        assert got == sorted(got)
        missing = {n for a, b in due[name] for n in range(a, b + 1)} - set(got)
        assert not missing, f"lost in {name}"
    assert rig.status()["flips"] == FLIPS + 1


def direct(folder: Path, timeout: float) -> tuple[Rig, Typist, Reader]:
    """A host whose OS `work` has the keyboard, and typed before its reader could read; the reader
    is stopped."""
    rig = Rig(spec("direct", kmc=KmcSpec("work", timeout)), folder)
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    reader = rig.reader("work")
    becomes(reader.opened, 1, DEADLINE, "work has the keyboard")
    reader.process.send_signal(signal.SIGSTOP)
    keyboard("tap KEY_A")
    return rig, keyboard, reader


def test_what_came_before_a_flip_is_read_first(tmp_path: Path) -> None:
    """Where it would be lost with the revoked file: the flip waits."""
    rig, _, reader = direct(tmp_path, LENIENT)
    try:
        flip = rig.begin(rig.kmc.flip("play", "test"))
        until(lambda: rig.now(lambda: rig.kmc._flips.answered), DEADLINE, "the agent has answered")
        assert rig.status()["oses"][0]["state"] == "releasing"
        reader.process.send_signal(signal.SIGCONT)
        assert flip.result(DEADLINE)["foreground"] == "play"
        becomes(reader.opened, 0, DEADLINE, "work has lost the keyboard")
        assert reader.pressed() == [(A, 1), (A, 0)]
        assert rig.devices()[0]["counters"] == {"unread": 0}
    finally:
        rig.stop()


@pytest.mark.parametrize("told", [True, False])
def test_what_comes_after_the_request_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """A device that never pauses would hold up each flip until its reader, for once, had nothing to
    read. A kernel that does not tell how far a file was read is asked for that."""
    if not told:
        monkeypatch.setattr("cext.input.revoke._ASKED", ("others", "waiting"))
    rig = Rig(spec("direct", kmc=KmcSpec("work", LENIENT if told else SHORT)), tmp_path)
    try:
        keyboard = rig.typist("keyboard", "Test Keyboard")
        rig.start()
        reader = rig.reader("work")
        becomes(reader.opened, 1, DEADLINE, "work has the keyboard")
        keyboard("tap KEY_A")
        becomes(reader.pressed, [(A, 1), (A, 0)], DEADLINE, "work reads")
        agent = rig.agent("work")
        agent.send_signal(signal.SIGSTOP)
        flip = rig.begin(rig.kmc.flip("play", "test"))
        becomes(lambda: rig.status()["oses"][0]["state"], "releasing", DEADLINE, "it was asked")
        reader.process.send_signal(signal.SIGSTOP)
        keyboard("tap KEY_A")
        agent.send_signal(signal.SIGCONT)
        late = flip.result(DEADLINE)["ms"] >= 1000 * (LENIENT if told else SHORT)
        assert late is not told
        assert rig.devices()[0]["counters"] == {"unread": 2}
        reader.process.send_signal(signal.SIGCONT)
        becomes(reader.opened, 0, DEADLINE, "work has lost the keyboard")
        assert reader.pressed() == [(A, 1), (A, 0)]
    finally:
        rig.stop()


def test_what_is_not_read_in_time_is_counted(tmp_path: Path) -> None:
    rig, keyboard, reader = direct(tmp_path, SHORT)
    try:
        assert rig.flip("play", seen=False)["ms"] >= 1000 * SHORT
        assert rig.devices()[0]["counters"] == {"unread": 2}
        assert rig.status()["oses"][0]["overruled"] == 0  # its agent did answer
        play = rig.reader("play")
        reader.process.send_signal(signal.SIGCONT)
        becomes(reader.opened, 0, DEADLINE, "work has lost the keyboard")
        keyboard("tap KEY_A")
        becomes(play.pressed, [(A, 1), (A, 0)], DEADLINE, "play reads")
        assert reader.pressed() == []
    finally:
        rig.stop()


def kept(rig: Rig) -> int:
    """Revoked files that the KMC keeps. Runs in its loop."""
    assert rig.kmc._plugs is not None
    revoker = rig.kmc._plugs.direct._revoker
    assert revoker is not None
    return revoker.kept


@pytest.mark.parametrize("mode", ["direct"])
def test_revoked_files_are_closed_in_the_end(rig: Rig) -> None:
    """The KMC keeps them while their programs close theirs (cext/input/keeper.h)."""
    rig.typist("keyboard", "Test Keyboard")
    rig.start()
    readers = {name: rig.reader(name) for name in ("work", "play")}
    becomes(readers["work"].opened, 1, DEADLINE, "work has the keyboard")
    counts = []
    for _ in range(2):  # the first time, what is opened at first use is opened
        for name in ("play", "work") * 2:
            rig.flip(name)
            becomes(readers[name].opened, 1, DEADLINE, f"{name} has the keyboard")
        becomes(lambda: rig.now(lambda: kept(rig)), 0, DEADLINE, "none is kept")
        counts.append(rig.now(lambda: len(os.listdir("/proc/self/fd"))))
    assert counts[1] <= counts[0]


def test_a_late_agent_is_overruled_at_the_deadline(tmp_path: Path, mode: DeviceMode) -> None:
    rig = Rig(spec(mode, kmc=KmcSpec("work", SHORT)), tmp_path)
    try:
        keyboard = rig.typist("keyboard", "Test Keyboard")
        rig.start()
        play = rig.reader("play")
        agent = rig.agent("work")
        agent.send_signal(signal.SIGSTOP)
        done = rig.flip("play")
        assert done["foreground"] == "play"
        assert done["ms"] >= 1000 * SHORT
        assert [os["overruled"] for os in rig.status()["oses"]] == [1, 0]
        becomes(play.opened, 1, DEADLINE, "play has the keyboard")
        keyboard("tap KEY_A")
        becomes(play.pressed, [(A, 1), (A, 0)], DEADLINE, "play reads")
        agent.send_signal(signal.SIGCONT)  # its late answer changes nothing
        assert rig.flip("work")["foreground"] == "work"
        done = rig.flip("play")
        assert [os["overruled"] for os in rig.status()["oses"]] == [1, 0]
    finally:
        rig.stop()


def test_hotplug_joins_the_foreground_and_leaves(rig: Rig, mode: DeviceMode) -> None:
    rig.start()
    assert rig.devices() == []
    work, play = rig.reader("work"), rig.reader("play")
    for name, reader, other in (("work", work, play), ("play", play, work)):
        if name == "play":
            rig.flip("play")
        before = len(other.pressed())
        keyboard = rig.typist("keyboard", "Test Keyboard")
        until(rig.devices, DEADLINE, "the KMC has the keyboard")
        becomes(reader.opened, 1, DEADLINE, f"{name} has the keyboard")
        keyboard("tap KEY_A")
        until(lambda: (A, 0) in reader.pressed(), DEADLINE, f"{name} reads")  # noqa: B023
        assert len(other.pressed()) == before
        keyboard.unplug()
        becomes(rig.devices, [], DEADLINE, "the KMC has forgotten it")
        becomes(lambda: work.opened() + play.opened(), 0, DEADLINE, "its nodes are gone")
    assert rig.vms["work"].run(["ls", "/dev/input"]).stdout.split() == []


def test_unplugged_in_the_middle_of_a_flip(rig: Rig) -> None:
    """The agent is held, so the flip stands in its middle while the device goes."""
    keyboard = rig.typist("keyboard", "Test Keyboard")
    mouse = rig.typist("mouse", "Test Mouse")
    rig.start()
    play = rig.reader("play")
    agent = rig.agent("work")
    agent.send_signal(signal.SIGSTOP)
    flip = rig.begin(rig.kmc.flip("play", "test"))
    keyboard.unplug()
    becomes(lambda: [d["name"] for d in rig.devices()], ["Test Mouse"], DEADLINE, "only the mouse")
    assert not flip.done()
    agent.send_signal(signal.SIGCONT)
    assert flip.result(DEADLINE)["foreground"] == "play"
    becomes(play.opened, 1, DEADLINE, "play has the mouse")
    mouse("rel REL_X 3")
    becomes(lambda: numbers(play), [3], DEADLINE, "play reads")


def test_the_foreground_dies_and_the_other_has_the_equipment(rig: Rig) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    play = rig.reader("play")
    os.kill(rig.vms["work"].pid, signal.SIGKILL)
    until(lambda: not rig.vms["work"].alive, DEADLINE, "work is dead")
    rig.now(lambda: rig.kmc.vm_gone("work"))
    assert rig.status()["foreground"] == "play"
    becomes(play.opened, 1, DEADLINE, "play has the keyboard")
    keyboard("tap KEY_A")
    becomes(play.pressed, [(A, 1), (A, 0)], DEADLINE, "play reads")
    with pytest.raises(HostsimError, match="not running"):
        rig.flip("work")


def test_the_background_cannot_open_or_make_the_node(rig: Rig, mode: DeviceMode) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    number = keyboard.rdev
    words = (f"/dev/input/x={number}", f"/tmp/hs-x={number}", keyboard.node)
    out = rig.vms["play"].run(program("tries", "paths", *words)).stdout.decode().split()
    assert out == ["PermissionError", "PermissionError", "FileNotFoundError"]


def test_the_hotkey_flips_to_the_next(tmp_path: Path, mode: DeviceMode) -> None:
    rig = Rig(spec(mode, hotkey=("KEY_LEFTCTRL", "KEY_RIGHTCTRL")), tmp_path)
    try:
        keyboard = rig.typist("keyboard", "Test Keyboard")
        rig.start()
        work, play = rig.reader("work"), rig.reader("play")
        becomes(work.opened, 1, DEADLINE, "work has the keyboard")
        keyboard("down KEY_LEFTCTRL", "down KEY_RIGHTCTRL")
        becomes(lambda: rig.status()["foreground"], "play", DEADLINE, "play is foreground")
        keyboard("up KEY_RIGHTCTRL", "up KEY_LEFTCTRL")
        becomes(play.opened, 1, DEADLINE, "play has the keyboard")
        keyboard("tap KEY_A")
        until(lambda: (A, 0) in play.pressed(), DEADLINE, "play reads")
        assert play.pressed() == [(A, 1), (A, 0)]
        if mode == "mirror":  # its first key comes at once, and is taken back when it is whole
            back = [(LEFTCTRL, 1), (LEFTCTRL, 0)]
            becomes(work.pressed, back, DEADLINE, "work has it taken back")
        assert rig.status()["flips"] == 2
    finally:
        rig.stop()
