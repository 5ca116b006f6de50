# SPDX-License-Identifier: Apache-2.0
"""A bench that is ended from outside leaves nothing; one that is killed, what `clean` removes."""

import signal
import subprocess
from pathlib import Path

import pytest

from help.cli import HOSTSIM, hostsim
from help.waiting import until

pytestmark = pytest.mark.root

BENCHES = Path("/run/hostsim-bench")
NETNS = Path("/run/netns")


def end(number: signal.Signals) -> tuple[int, list[str]]:
    """End `hostsim bench flows` once it has set up its rig; its status, and the rigs' folders
    that are left."""
    before = set(BENCHES.glob("*"))
    words = [HOSTSIM, "bench", "flows", "--runs", "1", "--json"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        try:
            until(lambda: (NETNS / "hs-bf-ours-hop").exists())
            assert set(BENCHES.glob("*")) - before
            bench.send_signal(number)
            status = bench.wait(30)
        finally:
            bench.kill()
    return status, [folder.name for folder in set(BENCHES.glob("*")) - before]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_it_takes_down_what_it_made(number: signal.Signals) -> None:
    status, left = end(number)
    assert status == 128 + number
    assert left == []
    assert not (NETNS / "hs-bf-ours-hop").exists()


def test_killed_it_leaves_what_clean_removes() -> None:
    status, left = end(signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert len(left) == 1
    assert (NETNS / "hs-bf-ours-hop").exists()
    assert left[0] in hostsim("clean").stdout
    assert not (BENCHES / left[0]).exists()
    assert not (NETNS / "hs-bf-ours-hop").exists()


def test_clean_leaves_a_living_bench_alone() -> None:
    words = [HOSTSIM, "bench", "flows", "--runs", "1", "--json"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        try:
            until(lambda: (NETNS / "hs-bf-ours-hop").exists())
            assert "bf-ours" not in hostsim("clean").stdout
            bench.send_signal(signal.SIGTERM)
            assert bench.wait(30) == 128 + signal.SIGTERM
        finally:
            bench.kill()
