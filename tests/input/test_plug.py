"""Devices that come and go, again and again, while the OSes flip: nothing is left or grows."""

import gc
import os
from pathlib import Path

import pytest
from evdev import UInput, ecodes
from rig import Rig, wait_for

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(400)]

CYCLES = 60


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Kilobytes of this process, which has the KMC in it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_plugging_during_flips_leaves_nothing(rig: Rig) -> None:
    rig.start()
    with UInput({ecodes.EV_KEY: [ecodes.KEY_A]}, name="Test Keyboard"):
        wait_for(rig.devices, "the KMC has the device")
        for owner in ("play", "work"):  # each has had one: what is opened at first use is open
            rig.flip(owner)
    wait_for(lambda: rig.devices() == [], "the KMC has forgotten it")
    before: tuple[int, int] | None = None
    for cycle in range(CYCLES):
        device = UInput({ecodes.EV_KEY: [ecodes.KEY_A]}, name=f"Test Keyboard {cycle}")
        owner = "play" if owner == "work" else "work"
        flip = rig.begin(rig.kmc.flip(owner, "test"))
        if cycle % 2:
            wait_for(rig.devices, "the KMC has the device")
        device.close()
        assert flip.result(30)["foreground"] == owner
        wait_for(lambda: rig.devices() == [], "the KMC has forgotten it")
        if cycle == CYCLES // 4:
            gc.collect()
            before = descriptors(), resident()
    gc.collect()
    assert before is not None
    assert descriptors() == before[0]
    assert resident() - before[1] < 2048
    folders = ["/dev/input", "/run/udev/data", "/sys/class/input"]
    for vm in rig.vms.values():
        assert vm.run(["ls", *folders]).stdout.decode().split() == [f"{name}:" for name in folders]
