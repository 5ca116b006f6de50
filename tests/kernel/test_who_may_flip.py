# SPDX-License-Identifier: Apache-2.0
"""Flips and refusals are in the daemon's log, with who asked for it; a flood of refusals is a few
lines and a number; who comes first."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.cli import HOSTSIM, ask, host, hostsim, run
from help.programs import program
from help.waiting import until

pytestmark = pytest.mark.root

AGENT = str(Path(HOSTSIM).with_name("hostsim-agent"))
FLIP_SH = str(Path(__file__).parents[2] / "scripts" / "flip.sh")
FILE = """
[host]
name = "hstw"
[[vm]]
name = "work"
[vm.os]
[[vm]]
name = "play"
[vm.os]
[kmc]
may_flip = ["work"]
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    with host(FILE, tmp_path) as state:
        yield state / "log"


def agent(name: str, *words: str) -> str:
    done = hostsim("exec", name, "--", AGENT, *words, check=False)
    return done.stdout + done.stderr


def said(log: Path, start: str) -> bool:
    """Whether a line of the log has this after its time and level."""
    lines = (line.split(" ", 3) for line in log.read_text().splitlines())
    return any(words[-1].startswith(start) for words in lines)


def test_the_log_says_who_asked_and_who_was_refused(log: Path) -> None:
    assert said(log, "work is foreground after None, by start")
    agent("work", "flip", "play")
    assert said(log, "flip to play, asked by the agent of work")
    assert said(log, "play is foreground after work, by the agent of work")
    assert "may not ask for it" in agent("play", "flip", "work")
    assert said(log, "flip to work, asked by the agent of play: refused: play may not ask for it")
    agent("play", "next")
    assert said(log, "flip to the next OS, asked by the agent of play: refused: play may not ask")
    assert ask("status")["foreground"] == "play"
    hostsim("flip", "work")
    assert said(log, "work is foreground after play, by cli")
    hostsim("flip", "mars", check=False)
    assert said(log, "flip to mars, asked by cli: refused: there is no such OS")
    hostsim("flip", "work", check=False)
    assert said(log, "flip to work, asked by cli: refused: it is the foreground OS already")
    run(FLIP_SH, "play")
    assert said(log, "play is foreground after work, by cli")


def test_a_flip_that_an_os_dies_of_is_in_the_log(log: Path) -> None:
    hostsim("exec", "work", "--", "kill", "-TERM", "1", check=False)  # it may end with its OS
    until(lambda: said(log, "play is foreground after work, by the end of work"))
    hostsim("flip", "work", check=False)
    assert said(log, "flip to work, asked by cli: refused: it is not running")


def test_an_os_that_is_refused_without_end_does_not_fill_the_log(tmp_path: Path) -> None:
    file = tmp_path / "hstw.toml"
    file.write_text(FILE)
    written = tmp_path / "written"
    with written.open("w") as log:
        daemon = subprocess.Popen([HOSTSIM, "up", "--foreground", str(file)], stderr=log)
        try:
            until(lambda: "is up" in written.read_text(), 20)
            said = hostsim("exec", "play", "--", *program("hostile", "beg", 20)).stdout
        finally:
            hostsim("down", "--host", "hstw")
            assert daemon.wait(20) == 0
    refused, cut_off = map(int, said.split())
    lines = written.read_text().splitlines()
    assert not [line for line in lines if line.startswith("2026-01-01")]
    for kind, count, pattern in (
        ("refusals", refused, "asked by the agent of play: refused"),
        ("offences", cut_off, "agent socket of play: more than"),
    ):
        shown = sum(pattern in line for line in lines)
        (more,) = [re.search(f"and ([0-9,]+) more {kind} from play", line) for line in lines
                   if f"more {kind}" in line]  # fmt: skip
        assert more is not None
        assert shown == 5
        assert shown + int(more[1].replace(",", "")) == count > 5


def test_the_daemon_comes_first_and_no_os_does(log: Path) -> None:
    """And the two threads that move events before all; what it starts has no part in either."""
    daemon = next(host["pid"] for host in json.loads(hostsim("ls", "--json").stdout))
    threads = os.listdir(f"/proc/{daemon}/task")
    assert [os.getpriority(os.PRIO_PROCESS, int(tid)) for tid in threads].count(-20) == 2
    assert os.getpriority(os.PRIO_PROCESS, daemon) == -10
    for vm in ask("status")["vms"]:
        assert os.sched_getscheduler(vm["pid"]) == os.SCHED_OTHER
        assert os.getpriority(os.PRIO_PROCESS, vm["pid"]) == 0
