# SPDX-License-Identifier: Apache-2.0
"""`restart` of a [[vm]] that is no OS, and of its program; what a host's log is asked to have."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from help import cli
from help.cli import HOSTSIM, ask, hostsim
from help.waiting import until
from hostsim.restart import VM

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

HOST = ("--host", "hsrvm")
FILE = """
[host]
name = "hsrvm"
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[vm]]
name = "web"
address = "198.18.0.1/24"
restart = "on-failure"
run = "sh -c 'echo began; test -e /tmp/fail && exit 3; exec sleep 1000'"
[[vm]]
name = "once"
run = "sleep 1000"
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    with cli.host(FILE, tmp_path) as state:
        yield state


def vm(name: str = "web") -> Any:
    return next(node for node in ask(*HOST, "status")["vms"] if node["name"] == name)


def began() -> int:
    return hostsim(*HOST, "logs", "web").stdout.count("began")


def test_it_is_made_anew_when_its_init_is_killed(host: Path) -> None:
    before = vm()
    assert before["restarts"] == 0
    os.kill(vm("once")["pid"], signal.SIGKILL)
    os.kill(before["pid"], signal.SIGKILL)
    again = until(
        lambda: (one := vm())["state"] == "running" and one["pid"] != before["pid"] and one, 20
    )
    assert again["restarts"] == 1
    assert (
        "1 received"
        in hostsim(*HOST, "exec", "client", "--", *["ping", "-c", "1", "-W", "5", "web"]).stdout
    )
    until(lambda: began() == 2, 20)
    assert vm("once")["state"] == "dead"


def test_its_program_is_started_again_and_given_up(host: Path) -> None:
    before = vm()["pid"]
    hostsim(*HOST, "exec", "web", "--", "sh", "-c", "touch /tmp/fail; pkill sleep", check=False)
    log = host / "log"
    until(lambda: f"given up after {VM.limit} starts" in log.read_text(), 60)
    assert began() == 1 + VM.limit
    assert (vm()["pid"], vm()["state"]) == (before, "failed")


def test_a_log_has_what_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "hsrvl.toml"
    file.write_text(FILE.replace("hsrvm", "hsrvl"))
    log = Path("/run/hostsim/hsrvl/log")
    hostsim("up", "--log-level", "debug", str(file))
    try:
        text = log.read_text()
        assert "DEBUG epoch 1: 0 routes" in text
        assert "asyncio" not in text
    finally:
        hostsim("--host", "hsrvl", "down")
    done = hostsim("up", "--log-level", "loud", str(file), check=False)
    assert done.returncode == 2
    assert "invalid choice: 'loud'" in done.stderr


def test_the_daemon_answers_while_a_vm_takes_its_time_to_end(host: Path) -> None:
    """A program of somebody else's child is not reaped, and process 1 cannot end before. Defence:
    a thread waits for it; if the loop does, it answers nobody until the restart has failed."""
    before = vm()["pid"]
    program = (HOSTSIM, *HOST, "exec", "web", "--", "sh", "-c", "echo began; sleep 1000")
    with subprocess.Popen(program, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"began\n"
        parent.send_signal(signal.SIGSTOP)
        try:
            with subprocess.Popen((HOSTSIM, *HOST, "restart", "web")) as restarting:
                seen = until(lambda: vm()["state"] == "restarting" or restarting.poll(), 60)
                assert seen is True, "it ended before anybody was answered"
                parent.send_signal(signal.SIGCONT)
                if restarting.wait(60) != 0:  # this machine is slow, and the deadline was over
                    hostsim(*HOST, "restart", "web")
        finally:
            parent.send_signal(signal.SIGCONT)
            parent.kill()
    assert vm()["state"] == "running"
    assert vm()["pid"] != before
