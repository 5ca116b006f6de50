# SPDX-License-Identifier: Apache-2.0
"""An OS that dies is started again, whole: namespaces, link, rules, agent; within its limit."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from help import cli
from help.cli import HOSTSIM, ask, hostsim, run
from help.waiting import until
from hostsim.restart import VM

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

AGENT = str(Path(HOSTSIM).with_name("hostsim-agent"))
FILE = """
[host]
name = "hstr"
[[endpoint]]
name = "server"
address = "198.18.93.9/24"
[[vm]]
name = "fw"
address = "198.18.93.1/24"
[[vm]]
name = "work"
address = "198.18.93.2/24"
run = "sleep 1000"
[vm.os]
restart = "on-failure"
[[vm]]
name = "play"
address = "198.18.94.3/24"
rate = "500mbit"
[vm.os]
background = "freeze"
restart = "on-failure"
[[vm]]
name = "once"
[vm.os]
[[route]]
match = { proto = "icmp" }
through = ["fw", "work"]
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    with cli.host(FILE, tmp_path) as state:
        yield state


def vm(name: str) -> Any:
    return next(node for node in ask("status")["vms"] if node["name"] == name)


def runs_again(name: str, pid: int) -> Any:
    """The VM, once it runs with another process 1 and its agent has been heard."""

    def found() -> Any:
        node = vm(name)
        return node if node["state"] == "running" and node["pid"] not in (pid, -1) else None

    return until(found, 10)


def inside(name: str, *words: str) -> str:
    return hostsim("exec", name, "--", *words).stdout


def log() -> str:
    return Path("/run/hostsim/hstr/log").read_text()


def test_kill_9_of_its_init_and_it_is_back(host: Path) -> None:
    ping = ("ping", "-c", "3", "-i", "0.2", "-W", "2", "198.18.94.3")
    assert "3 received" in inside("server", *ping)
    until(lambda: [rule["vm"] for rule in ask("rules")].count("fw") >= 1)
    before = vm("work")
    os.kill(before["pid"], signal.SIGKILL)
    after = runs_again("work", before["pid"])
    assert (before["restarts"], after["restarts"]) == (0, 1)
    assert Path(f"/proc/{before['pid']}").exists() is False
    until(lambda: ask("status")["foreground"] == "play")
    # all of it: a shell, its program, its link and address, its place in the chain, its agent
    assert "198.18.93.2/24" in inside("work", "ip", "-br", "addr", "show", "eth0")
    assert "sleep" in inside("work", "ps", "-A")
    assert "4 received" in inside("server", *("ping", "-c", "4"), *ping[3:])
    flow = next(row for row in ask("flows") if row["key"].startswith("icmp:198.18.93.9"))
    assert [hop["vm"] for hop in flow["hops"]] == ["fw", "work"]
    until(lambda: "work" in {rule["vm"] for rule in ask("rules")} or ping_more())
    said = hostsim("flip", "work")
    assert said.stdout.startswith("work is the foreground, was play")
    assert "this is work (foreground)" in inside("work", AGENT, "status")
    assert hostsim("verify").returncode == 0


def ping_more() -> bool:
    inside("server", "ping", "-c", "2", "-i", "0.2", "-W", "2", "198.18.94.3")
    return False


def test_a_frozen_background_dies_and_is_frozen_again(host: Path) -> None:
    before = vm("play")
    os.kill(before["pid"], signal.SIGKILL)
    after = runs_again("play", before["pid"])
    events = Path(after["cgroup"]) / "cgroup.events"
    until(lambda: "frozen 1" in events.read_text())
    assert ask("status")["foreground"] == "work"
    hostsim("flip", "play")
    assert "198.18.94.3/24" in inside("play", "ip", "-br", "addr", "show", "eth0")
    shaped = run("ip", "netns", "exec", "hs-hstr-switch", "tc", "qdisc", "show", "dev", "play")
    assert "tbf" in shaped.stdout


def test_an_os_that_keeps_dying_is_given_up(host: Path) -> None:
    for _ in range(VM.limit):
        pid = vm("work")["pid"]
        os.kill(pid, signal.SIGKILL)
        runs_again("work", pid)
    os.kill(vm("work")["pid"], signal.SIGKILL)
    until(lambda: vm("work")["state"] == "dead")
    until(lambda: "given up after 5 starts" in log())
    assert vm("work")["restarts"] == VM.limit
    assert ask("status")["foreground"] == "play"
    said = hostsim("flip", "work", check=False)
    assert "it is not running" in said.stderr


def test_one_that_ends_itself_or_has_no_restart_stays_down(host: Path) -> None:
    os.kill(vm("once")["pid"], signal.SIGKILL)
    # The command may go down with its VM before it can say how it ended.
    hostsim("exec", "work", "--", "kill", "-TERM", "1", check=False)
    until(lambda: vm("work")["state"] == "dead")
    until(lambda: vm("once")["state"] == "dead")
    assert "work: it ended itself, and stays down" in log()
    assert vm("work")["restarts"] == 0


def test_clean_removes_what_was_started_again(host: Path, tmp_path: Path) -> None:
    pid = vm("work")["pid"]
    os.kill(pid, signal.SIGKILL)
    runs_again("work", pid)
    cli.kill_daemon("hstr")
    hostsim("clean")
    assert not host.exists()
    hostsim("up", str(tmp_path / "hstr.toml"))
