# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the daemon at any moment: `hostsim clean` removes all that there was, and gives back
what was the machine's.

The moments come from seeds. HOSTSIM_KILLS=200 in the environment tries so many, by hand.
"""

import contextlib
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.cli import HOSTSIM, ask, hostsim, plugged_nic, run
from help.waiting import until
from hostsim import daemon, leftovers

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

KILLS = int(os.environ.get("HOSTSIM_KILLS", "8"))
NAME, NIC = "hskill", "hskill0"
FOLDER = Path("/run/hostsim") / NAME
FILE = f"""
[host]
name = "{NAME}"
[switch]
uplinks = ["{NIC}"]
[[endpoint]]
name = "client"
address = "198.18.50.1/24"
run = "sleep 1000"
[[vm]]
name = "fw"
address = "198.18.50.2/24"
[[vm]]
name = "count"
nf = "count"
[[vm]]
name = "work"
[vm.os]
[[vm]]
name = "play"
[vm.os]
background = "freeze"
[[route]]
match = {{ proto = "icmp" }}
through = ["fw", "count"]
"""
COMING = "".join(f'[[vm]]\nname = "v{n}"\nrun = "sleep 1000"\n' for n in range(8))
OTHER = FILE.replace('"icmp"', '"udp"').replace('["fw", "count"]', '["v0", "v1"]') + COMING
LONGEST = {"up": 1.5, "down": 0.6, "flip": 0.2, "apply": 0.8}
"""Seconds after the command's beginning within which the kill comes."""


@pytest.fixture
def nic() -> Iterator[None]:
    with plugged_nic(NIC, "hskill1", "hskillout", "198.18.50.9/24", keep=True):
        run("ip", "addr", "add", "198.18.51.1/24", "dev", NIC)
        run("ip", "route", "add", "198.19.5.0/24", "via", "198.18.51.7", "metric", "77")
        until(lambda: "tentative" not in run("ip", "addr", "show", NIC).stdout)
        yield


def look() -> str:
    words = run("ip", "addr", "show", "dev", NIC, check=False).stdout
    kept = [line for line in words.splitlines() if "inet" in line or "link/" in line]
    return "\n".join(kept) + run("ip", "route", "show", "dev", NIC, check=False).stdout


def daemons() -> list[int]:
    """Every process that is this host's daemon, or a copy of it."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            is_one = (entry / "comm").read_text().strip() == daemon.NAME
            if is_one and NAME.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return sorted(found)


def kill() -> None:
    """The daemon first: whoever lives by it ends with it."""
    for pid in daemons():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not daemons(), 20, "the daemon is gone")


@pytest.mark.parametrize("seed", range(KILLS))
def test_clean_leaves_nothing(nic: None, tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    phase = list(LONGEST)[seed % len(LONGEST)]
    delay = moments.uniform(0, LONGEST[phase])
    file, other = tmp_path / f"{NAME}.toml", tmp_path / "other" / f"{NAME}.toml"
    other.parent.mkdir()
    file.write_text(FILE)
    other.write_text(OTHER)
    before, was = leftovers.snapshot(), look()
    words = {
        "up": ("up", str(file)),
        "down": ("down", NAME),
        "flip": ("flip", "--host", NAME, "play"),
        "apply": ("routes", "apply", "--host", NAME, str(other)),
    }[phase]
    if phase != "up":
        hostsim("up", str(file))
    with subprocess.Popen(
        (HOSTSIM, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as asking:
        end = time.monotonic() + delay
        select.select([], [], [], max(0.0, end - time.monotonic()))
        if phase == "up":
            until(lambda: daemons() or asking.poll() is not None)
        kill()
        said = asking.communicate(timeout=60)[0].decode()
    assert "Traceback" not in said, said
    cleaned = hostsim("clean").stdout
    assert cleaned in (f"cleaned: {NAME}\n", "nothing to clean\n")
    assert not FOLDER.exists()
    assert leftovers.settle(before, 20) == [], (phase, delay, said)
    until(lambda: look() == was, 10, f"the NIC is as it was ({phase}, {delay:.3f} s)")
    assert [row for row in ask("ls") if row["host"] == NAME] == []
