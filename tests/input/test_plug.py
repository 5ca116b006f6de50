# SPDX-License-Identifier: Apache-2.0
"""Devices that come and go, again and again, while the OSes flip: nothing is left or grows.

`--plug-cycles N` sets how often; with many, `--timeout` too.
"""

import ctypes
import gc
import logging
import os
import re
import sys
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import pytest
from evdev import UInput, ecodes

from help.rig import DEADLINE, Rig
from help.waiting import becomes, until

pytestmark = pytest.mark.uinput

BLOCKS_PER_CYCLE, BYTES_PER_CYCLE = 10, 512
"""Less than one forgotten device: that is some fifty blocks, and a few kilobytes. Python's own
caches still fill after the first cycles: flips alone, in a process with nothing else, take some
five blocks each at first, and fewer with time."""


def descriptors() -> Counter[str]:
    """How many this process has open, by what they are of."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # another thread's, closed meanwhile; or this list's own
            found[re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{number}"))] += 1
    return found


STRETCHES = 3
"""In which growth is looked for, a quarter of the cycles each, after a first quarter. What is
forgotten grows in all of them. A table of the interpreter that doubles, in a process that has run a
hundred tests, takes its megabyte in one."""


class _Mallinfo2(ctypes.Structure):
    """struct mallinfo2, mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    )


def in_use() -> tuple[int, int]:
    """What this process, which has the KMC in it, has taken and not given back: Python's blocks,
    and malloc's bytes. Pages are not counted: when the allocators give those back is their own
    affair, and says nothing about a leak."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return sys.getallocatedblocks(), found.uordblks + found.hblkhd


def test_plugging_during_flips_leaves_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture, pytestconfig: pytest.Config
) -> None:
    cycles: int = pytestconfig.getoption("--plug-cycles")
    caplog.set_level(logging.CRITICAL, "hostsim")  # pytest keeps each record, and that would count
    rig.start()
    with UInput({ecodes.EV_KEY: [ecodes.KEY_A]}, name="Test Keyboard"):
        until(rig.devices, DEADLINE, "the KMC has the device")
        for owner in ("play", "work"):  # each has had one: what is opened at first use is open
            rig.flip(owner)
    becomes(rig.devices, [], DEADLINE, "the KMC has forgotten it")
    files, taken = None, []
    for cycle in range(cycles):
        device = UInput({ecodes.EV_KEY: [ecodes.KEY_A]}, name=f"Test Keyboard {cycle}")
        owner = "play" if owner == "work" else "work"
        flip = rig.begin(rig.kmc.flip(owner, "test"))
        if cycle % 2:
            until(rig.devices, DEADLINE, "the KMC has the device")
        device.close()
        assert flip.result(DEADLINE)["foreground"] == owner
        becomes(rig.devices, [], DEADLINE, "the KMC has forgotten it")
        if (cycle + 1) % (cycles // (STRETCHES + 1)) == 0:
            gc.collect()
            files = files or descriptors()
            taken.append(in_use())
    assert files is not None
    with suppress(AssertionError):  # revoked ones wait, and some may have when `files` was counted
        until(lambda: not descriptors() - files, DEADLINE)
    assert not descriptors() - files
    grown = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(taken)]
    print(f"blocks and bytes more in stretches of {cycles // (STRETCHES + 1)} cycles: {grown}")
    assert len(grown) >= STRETCHES
    assert min(blocks for blocks, _ in grown) < BLOCKS_PER_CYCLE * cycles // STRETCHES
    assert min(size for _, size in grown) < BYTES_PER_CYCLE * cycles // STRETCHES
    folders = ["/dev/input", "/run/udev/data", "/sys/class/input"]
    for vm in rig.vms.values():
        assert vm.run(["ls", *folders]).stdout.decode().split() == [f"{name}:" for name in folders]
