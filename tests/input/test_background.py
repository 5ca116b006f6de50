# SPDX-License-Identifier: Apache-2.0
"""Background policies, and OSes that hang: frozen from outside, every process stopped."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from help.rig import DEADLINE, LENIENT, Rig, spec
from help.waiting import becomes, until
from hostsim.errors import HostsimError
from hostsim.model import Background, DeviceMode, KmcSpec, OsSpec

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

A = 30
SHORT = 4.0
"""Seconds: an agent that lives answers before, also on a slow machine."""
ATTEMPTS = 3  # each counts


def rig_with(background: Background, folder: Path, mode: DeviceMode = "mirror") -> Rig:
    made = spec(mode, kmc=KmcSpec("work", SHORT))
    vms = tuple(
        replace(vm, os=OsSpec(background, "echo + >>/run/hook", "echo - >>/run/hook"))
        for vm in made.vms
    )
    return Rig(replace(made, vms=vms), folder)


def test_a_frozen_background_runs_again_in_the_foreground(tmp_path: Path) -> None:
    rig = rig_with("freeze", tmp_path)
    try:
        rig.start()
        states = {os["name"]: os["agent"] for os in rig.status()["oses"]}
        assert states == {"work": "ok", "play": "frozen"}
        with pytest.raises(HostsimError, match="frozen"):
            rig.vms["play"].run(["true"])
        count = "i=0; while :; do i=$((i+1)); echo $i >/run/count; done"
        rig.popen("work", "sh", "-c", count)
        file = Path(f"/proc/{rig.vms['work'].pid}/root/run/count")
        until(file.exists, DEADLINE, "work counts")
        rig.flip("play")
        events = rig.vms["work"].cgroup / "cgroup.events"
        until(lambda: "frozen 1" in events.read_text(), DEADLINE, "work is frozen")
        at = file.read_text()
        assert rig.vms["play"].run(["true"]).returncode == 0
        assert file.read_text() == at
        rig.flip("work")
        until(lambda: file.read_text() not in ("", at), DEADLINE, "work runs on")
    finally:
        rig.stop()


def test_a_throttled_background_has_the_least_weight(tmp_path: Path) -> None:
    rig = rig_with("throttle", tmp_path)
    try:
        rig.start()
        weight = {name: vm.cgroup / "cpu.weight" for name, vm in rig.vms.items()}
        assert {name: path.read_text() for name, path in weight.items()} == {
            "work": "100\n",
            "play": "1\n",
        }
        rig.flip("play")
        assert weight["work"].read_text() == "1\n"
        assert weight["play"].read_text() == "100\n"
    finally:
        rig.stop()


def test_the_agents_hooks_run_at_each_change(tmp_path: Path) -> None:
    rig = rig_with("run", tmp_path)
    try:
        rig.start()
        rig.flip("play")
        rig.flip("work")
        file = Path(f"/proc/{rig.vms['work'].pid}/root/run/hook")
        until(
            lambda: file.exists() and "".join(file.read_text().split())[-3:] == "+-+",
            DEADLINE,
            "work's hooks ran",
        )
    finally:
        rig.stop()


def test_a_hook_that_hangs_or_fails_holds_no_flip(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those after one that hangs wait for it; one that fails is said."""
    made = spec("mirror", kmc=KmcSpec("work", LENIENT))
    work = replace(made.vms[0], os=OsSpec("run", "sleep 1000", "echo - >>/run/hook"))
    play = replace(made.vms[1], os=OsSpec("run", "exit 3", "kill -9 $$"))
    rig = Rig(replace(made, vms=(work, play)), tmp_path)
    try:
        rig.start()
        for name in ("play", "work") * 2:
            assert rig.flip(name)["ms"] < 1000 * LENIENT
        assert [os["overruled"] for os in rig.status()["oses"]] == [0, 0]
        said = ""
        wanted = ("on_foreground ended with status 3", "on_background ended with signal 9")
        deadline = time.monotonic() + DEADLINE
        while not all(text in said for text in wanted):
            assert time.monotonic() < deadline, said
            said += capfd.readouterr().err
        file = Path(f"/proc/{rig.vms['work'].pid}/root/run/hook")
        assert file.read_text() == "-\n"  # from before the one that hangs
    finally:
        rig.stop()


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_an_os_that_hangs_is_overruled_and_marked(
    tmp_path: Path, how: str, mode: DeviceMode
) -> None:
    rig = rig_with("run", tmp_path, mode)
    try:
        keyboard = rig.typist("keyboard", "Test Keyboard")
        rig.start()
        play = rig.reader("play")
        group = rig.vms["work"].cgroup
        if how == "frozen":
            (group / "cgroup.freeze").write_text("1")
        else:
            for pid in (group / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGSTOP)
        took = []
        for _ in range(ATTEMPTS):
            done = rig.flip("play")
            assert done["foreground"] == "play"
            took.append(done["ms"])
            becomes(play.opened, 1, DEADLINE, "play has the keyboard")
            before = len(play.pressed())
            keyboard("tap KEY_A")
            becomes(lambda: play.pressed()[before:], [(A, 1), (A, 0)], DEADLINE, "play reads")  # noqa: B023
            assert rig.flip("work")["foreground"] == "work"
        print(f"{how}, {mode}: overruled after {SHORT:g} s, away after {took} ms")
        assert min(took) >= 1000 * SHORT
        assert max(took) < 2000 * SHORT, "it is waited for once"
        assert rig.status()["oses"][0]["overruled"] == ATTEMPTS
        want = "frozen" if how == "frozen" else "hung"
        becomes(lambda: rig.status()["oses"][0]["agent"], want, DEADLINE, f"work is marked {want}")
    finally:
        (group / "cgroup.freeze").write_text("0")
        rig.stop()


def test_the_configured_fallback_follows_a_dead_foreground(tmp_path: Path) -> None:
    made = spec("mirror", kmc=KmcSpec("work", fallback="third"))
    third = replace(made.vms[0], name="third")
    rig = Rig(replace(made, vms=(*made.vms, third)), tmp_path)
    try:
        rig.start()
        os.kill(rig.vms["work"].pid, signal.SIGKILL)
        until(lambda: not rig.vms["work"].alive, DEADLINE, "work is dead")
        rig.now(lambda: rig.kmc.vm_gone("work"))
        assert rig.status()["foreground"] == "third"
    finally:
        rig.stop()
