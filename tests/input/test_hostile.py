# SPDX-License-Identifier: Apache-2.0
"""A hostile OS gets no event that is not its own, and stops nobody else's flip."""

import os
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from evdev import AbsInfo, UInput, ecodes

from help.programs import PROGRAMS, program
from help.rig import DEADLINE, LENIENT, Rig, spec
from help.waiting import becomes, until
from hostsim.model import DeviceMode, KmcSpec
from netns.process import Process

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

A = 30


def hostile(rig: Rig, name: str, *words: str) -> tuple[Process, Path]:
    out = rig.folder / f"hostile.{time.monotonic_ns()}"
    with out.open("wb") as file:
        argv = (sys.executable, "-I", "-S", str(PROGRAMS / "hostile.py"), *words)
        process = rig.popen(name, *argv, stdin=-1, stdout=file)
    until(lambda: "ready" in out.read_text(), DEADLINE, "the hostile program is ready")
    return process, out


@pytest.mark.parametrize("mode", ["direct"])
def test_kept_and_hidden_descriptors_read_nothing(rig: Rig) -> None:
    """Copies by dup, in a child, in sockets' queues, in a queue within a queue."""
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    program, out = hostile(rig, "work", "keep", keyboard.node)
    rig.flip("play")
    keyboard("tap KEY_A")
    assert program.stdin is not None
    program.stdin.write(b"\n")
    program.stdin.flush()
    until(lambda: "end" in out.read_text(), DEADLINE, "the hostile program has looked")
    assert out.read_text().split("\n")[1:] == ["copies 3", "leak 0", "end", ""]


def test_a_flood_on_the_agent_socket_stops_no_flip(tmp_path: Path, mode: DeviceMode) -> None:
    rig = Rig(spec(mode, kmc=KmcSpec("work", LENIENT, may_flip=("work",))), tmp_path)
    try:
        keyboard = rig.typist("keyboard", "Test Keyboard")
        rig.start()
        work = rig.reader("work")
        hostile(rig, "play", "flood")
        for name in ("play", "work") * 3:
            done = rig.flip(name)
            assert done["foreground"] == name
        becomes(work.opened, 1, DEADLINE, "work has the keyboard")
        keyboard("tap KEY_A")
        becomes(work.pressed, [(A, 1), (A, 0)], DEADLINE, "work reads")
        assert rig.status()["foreground"] == "work"
        assert [os["overruled"] for os in rig.status()["oses"]] == [0, 0]
    finally:
        rig.stop()


def test_an_os_that_may_not_flip_is_refused(tmp_path: Path) -> None:
    rig = Rig(spec("mirror", kmc=KmcSpec("work", may_flip=("work",))), tmp_path)
    try:
        rig.start()
        agent = [sys.executable, "-I", "-m", "hostsim.cli.agent"]
        done = rig.vms["play"].run([*agent, "next"])
        assert done.returncode == 1
        assert b"play may not ask for it ([kmc] may_flip)" in done.stderr
        assert rig.status()["foreground"] == "work"
        assert rig.vms["work"].run([*agent, "next"]).returncode == 0
    finally:
        rig.stop()


@pytest.mark.parametrize("mode", ["mirror"])
def test_events_put_into_a_clone_stay_there(rig: Rig) -> None:
    """An OS writes keys into its clone: it hears itself; nobody else does, nor the hardware."""
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    work, play = rig.reader("work"), rig.reader("play")
    assert rig.vms["play"].run(program("evdevs", "forge")).returncode == 0
    becomes(play.pressed, [(48, 1), (48, 0)], DEADLINE, "play hears itself")
    keyboard("tap KEY_A")
    becomes(work.pressed, [(A, 1), (A, 0)], DEADLINE, "work reads")
    assert play.pressed() == [(48, 1), (48, 0)]


def test_other_nodes_of_the_device_are_out_of_reach(rig: Rig) -> None:
    """The other OS's node, the machine's own, hidraw, uinput: by name, by number, by /proc."""
    keyboard = rig.typist("keyboard", "Test Keyboard")
    rig.start()
    numbers = [keyboard.rdev, os.stat("/dev/uinput").st_rdev, os.makedev(244, 0)]
    words = [f"{path}={number}" for number in numbers for path in ("/dev/input/x", "/dev/shm/x")]
    words += [f"/proc/{os.getpid()}/root{keyboard.node}"]
    words += [f"/proc/{rig.vms['work'].pid}/root/dev/input"]
    done = rig.vms["play"].run(program("tries", "paths", *words))
    assert done.stdout.decode().split() == ["PermissionError"] * 6 + ["FileNotFoundError"] * 2


class Liar:
    """A device that reports positions far off its axis, 10,000 events a second, and no SYN."""

    def __init__(self) -> None:
        axis = AbsInfo(0, 0, 100, 0, 0, 0)
        events: dict[int, Any] = {
            ecodes.EV_KEY: [ecodes.BTN_LEFT],
            ecodes.EV_ABS: [(ecodes.ABS_X, axis)],
        }
        self.device = UInput(events, name="Test Mouse that lies")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        pack = struct.Struct("llHHi").pack
        wild = (2**31 - 1, -(2**31), -1, 101)
        batch = b"".join(pack(0, 0, ecodes.EV_ABS, ecodes.ABS_X, wild[n % 4]) for n in range(100))
        while not self._stop.wait(0.01):
            os.write(self.device.fd, batch)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.device.close()


def test_a_device_that_lies_harms_nobody(rig: Rig, mode: DeviceMode) -> None:
    keyboard = rig.typist("keyboard", "Test Keyboard")
    liar = Liar()
    try:
        rig.start()
        becomes(lambda: len(rig.devices()), 2, DEADLINE, "the KMC has both")
        readers = {name: rig.reader(name, "keys") for name in ("work", "play")}
        for name in ("play", "work") * 3:
            assert rig.flip(name)["foreground"] == name
            reader, other = readers[name], readers["work" if name == "play" else "play"]
            becomes(reader.opened, 2, DEADLINE, f"{name} has both")
            seen, before = len(reader.pressed()), other.pressed()
            keyboard("tap KEY_A")
            becomes(lambda: reader.pressed()[seen:], [(A, 1), (A, 0)], DEADLINE, "it reads")  # noqa: B023
            assert other.pressed() == before
        assert [os["overruled"] for os in rig.status()["oses"]] == [0, 0]
    finally:
        liar.close()
