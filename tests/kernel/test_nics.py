# SPDX-License-Identifier: Apache-2.0
"""A network interface that belongs to the foreground OS: a veth of the test's own stands for it.
The witness is ip(8), in the OSes and, afterwards, on the machine."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from help.cli import HOSTSIM, ask, hostsim, kill_daemon, plugged_nic, run, up
from help.programs import program
from help.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

NIC, FAR, OUTSIDE = "hstn0", "hstn1", "hstnicout"
FILE = """
[host]
name = "hstn"
[[vm]]
name = "work"
[vm.os]
background = "freeze"
[[vm]]
name = "play"
[vm.os]
restart = "on-failure"
[[device]]
match = { interface = "hstn0" }
"""


@pytest.fixture
def nic() -> Iterator[str]:
    """A NIC with settings of the machine's; its other end is in a namespace, a device outside."""
    with plugged_nic(NIC, FAR, OUTSIDE, "198.18.95.9/24", keep=False):  # a test may lose it
        run("ip", "addr", "add", "198.18.96.1/24", "dev", NIC)
        run("ip", "route", "add", "198.19.7.0/24", "via", "198.18.96.7", "metric", "77")
        until(lambda: "fe80" in look() and "tentative" not in run("ip", "a").stdout)
        yield NIC


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "hstn.toml"
    made.write_text(FILE)
    return made


@pytest.fixture
def host(nic: str, file: Path) -> Iterator[None]:
    with up(file):
        yield


def look(name: str | None = None) -> str:
    """Everything ip(8) says of the NIC, in an OS or on the machine."""
    at = ("-n", f"hs-hstn-{name}") if name else ()
    (link,) = json.loads(run("ip", *at, "-j", "addr", "show", "dev", NIC).stdout)
    infos = [one for one in link["addr_info"] if one["family"] == "inet" or not name]
    for address in infos:
        address.pop("tentative", None)
    routes = run("ip", *at, "route", "show", "dev", NIC).stdout
    index = () if name else ("ifindex",)
    kept = {key: link[key] for key in (*index, "ifname", "mtu", "address", "operstate", "txqlen")}
    kept["flags"] = sorted(set(link["flags"]) & {"UP", "PROMISC", "ALLMULTI", "NOARP"})
    words = sorted(json.dumps(one, sort_keys=True) for one in infos)
    return json.dumps([kept, words, sorted(line.strip() for line in routes.splitlines())], indent=1)


def has(name: str) -> bool:
    at = f"hs-hstn-{name}"
    return run("ip", "-n", at, "link", "show", "dev", NIC, check=False).returncode == 0


def ip(name: str, *words: str) -> None:
    hostsim("exec", name, "--", "ip", *words)


def dress_work() -> None:
    """What somebody in work makes of it."""
    ip("work", "link", "set", NIC, "mtu", "1300", "address", "02:00:00:00:00:77")
    ip("work", "link", "set", NIC, "up", "promisc", "on", "txqueuelen", "77")
    ip("work", "addr", "add", "198.18.95.1/24", "dev", NIC)
    ip("work", "route", "add", "198.19.9.0/24", "via", "198.18.95.9")


def test_each_os_has_it_with_settings_of_its_own(nic: str, file: Path) -> None:
    machine = look()
    with up(file):
        assert run("ip", "link", "show", "dev", NIC, check=False).returncode != 0
        assert (has("work"), has("play")) == (True, False)
        fresh = json.loads(look("work"))
        assert (fresh[0]["operstate"], fresh[0]["mtu"], fresh[1:]) == ("DOWN", 1400, [[], []])
        dress_work()
        in_work = look("work")
        hostsim("flip", "play")
        assert (has("work"), has("play")) == (False, True)
        assert json.loads(look("play")) == fresh, "nothing of what work made of it"
        ip("play", "addr", "add", "198.18.95.2/24", "dev", NIC)
        in_play = look("play")  # down, with an address
        hostsim("flip", "work")
        assert look("work") == in_work
        ping = hostsim("exec", "work", "--", "ping", "-c", "2", "-i", "0.2", "198.18.95.9")
        assert "2 received" in ping.stdout
        (device,) = ask("devices")
        assert (device["name"], device["mode"], device["owner"]) == (NIC, "interface", "work")
        assert device["states"]["play"]["addresses"] == ["198.18.95.2/24"]
        hostsim("flip", "play")
        assert look("play") == in_play
    until(lambda: look() == machine)


def test_a_connection_of_a_frozen_os_lives_on(host: None) -> None:
    dress_work()
    words = ("ip", "netns", "exec", OUTSIDE, *program("tcp", "echo", "198.18.95.9", 7000))
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(started(*words))
        assert echo.stdout.readline() == "ready\n"
        talk = stack.enter_context(
            started(
                *exec_in("work", *program("tcp", "talk", "198.18.95.9", 7000, 0.02, "/run/count"))
            )
        )
        pid = next(vm["pid"] for vm in ask("status")["vms"] if vm["name"] == "work")
        count = Path(f"/proc/{pid}/root/run/count")
        until(lambda: count.exists() and int(count.read_text() or 0) > 10)
        for _ in range(3):
            hostsim("flip", "play")
            at = count.read_text()
            assert not answers(FAR)
            assert count.read_text() == at
            hostsim("flip", "work")
            until(lambda: int(count.read_text() or 0) > int(at) + 10, 15)  # noqa: B023
        assert talk.poll() is None


def answers(device: str) -> bool:
    """Whether work's address is there; a second goes by, which the flip must outlast."""
    ping = ("ping", "-I", device, "-c", "1", "-W", "1", "198.18.95.1")
    return run("ip", "netns", "exec", OUTSIDE, *ping, check=False).returncode == 0


def exec_in(name: str, *words: str) -> tuple[str, ...]:
    return (HOSTSIM, "exec", name, "--", *words)


@contextlib.contextmanager
def started(*words: str) -> Iterator[Any]:
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_an_os_that_dies_does_not_lose_it(host: None) -> None:
    """Its namespace goes, and a veth would go with it."""
    dress_work()
    hostsim("flip", "play")
    ip("play", "addr", "add", "198.18.95.2/24", "dev", NIC)
    pid = next(vm["pid"] for vm in ask("status")["vms"] if vm["name"] == "play")
    os.kill(pid, signal.SIGKILL)
    until(lambda: ask("status")["foreground"] == "work")
    assert has("work")
    assert "198.18.95.1" in look("work")
    until(lambda: vm_state("play") == "running" and agent_ready("play"))
    hostsim("flip", "play")
    assert "198.18.95.2" in look("play")


def vm_state(name: str) -> Any:
    return next(vm["state"] for vm in ask("status")["vms"] if vm["name"] == name)


def agent_ready(name: str) -> bool:
    return f"{name} is back" in Path("/run/hostsim/hstn/log").read_text()


@pytest.mark.parametrize("renamed", [False, True])
def test_clean_gives_it_back_from_whichever_os(nic: str, file: Path, renamed: bool) -> None:
    machine = look()
    hostsim("up", str(file))
    dress_work()
    hostsim("flip", "play")
    if renamed:
        ip("play", "link", "set", NIC, "name", "mine")
    kill_daemon("hstn")
    hostsim("clean")
    until(lambda: look() == machine)


def test_clean_gives_it_back_after_an_os_was_started_again(nic: str, file: Path) -> None:
    machine = look()
    hostsim("up", str(file))
    hostsim("flip", "play")
    os.kill(next(vm["pid"] for vm in ask("status")["vms"] if vm["name"] == "play"), signal.SIGKILL)
    until(lambda: vm_state("play") == "running" and agent_ready("play"))
    hostsim("flip", "play")
    assert has("play")
    kill_daemon("hstn")
    hostsim("clean")
    until(lambda: look() == machine)


def test_an_os_in_the_way_of_it_goes_without(host: None) -> None:
    hostsim("exec", "play", "--", "ip", "link", "add", NIC, "type", "bridge")
    hostsim("flip", "play")
    (device,) = ask("devices")
    assert device["owner"] is None
    hostsim("flip", "work")
    (device,) = ask("devices")
    assert device["owner"] == "work"


def test_one_that_an_os_deletes_is_dropped(host: None) -> None:
    ip("work", "link", "del", NIC)
    hostsim("flip", "play")
    assert ask("devices") == []
    hostsim("flip", "work")


def test_one_that_is_not_there_is_refused(file: Path) -> None:
    said = hostsim("up", str(file), check=False)
    assert said.returncode == 1
    assert "interface hstn0: no such network interface" in said.stderr
