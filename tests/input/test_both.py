# SPDX-License-Identifier: Apache-2.0
"""The shipped host `both`: flips do not disturb the flows of its chain, and a frozen OS's flows
keep their place there and leave no rules behind. By the command line, as a user does it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from help.cli import HOSTSIM, ask, hostsim, up
from help.programs import program
from help.rig import DEADLINE, Typist
from help.waiting import becomes, until

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

FLIPS = 20


@pytest.fixture(scope="module")
def typist() -> Iterator[Typist]:
    made = Typist("keyboard", "Test Keyboard")
    yield made
    made.unplug()


@pytest.fixture(scope="module")
def host(typist: Typist) -> Iterator[None]:
    with up("both"):
        yield


@contextlib.contextmanager
def inside(name: str, *words: str) -> Iterator[Any]:
    """A program in a VM or endpoint, ended at the end."""
    argv = (HOSTSIM, "exec", name, "--", *words)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextlib.contextmanager
def talking(*names: str) -> Iterator[dict[str, Path]]:
    """An echo server outside, and a client in each OS that counts its answers; the OSes are in the
    foreground one after the other. The files with the counts."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(inside("server", *program("tcp", "echo", "198.18.2.20", 7000)))
        assert server.stdout.readline() == "ready\n"
        counts = {}
        talk = program("tcp", "talk", "198.18.2.20", 7000, 0.05, "/run/count")
        for name in names:
            if ask("status")["foreground"] != name:
                hostsim("flip", name)
            counts[name] = counts_of(name)
            counts[name].unlink(missing_ok=True)
            stack.enter_context(inside(name, *talk))
            until(lambda: reached(counts[name], 5), DEADLINE, f"{name} talks")  # noqa: B023
        yield counts


def counts_of(name: str) -> Path:
    """The file /run/count of a VM, for us outside of it."""
    pid = next(vm["pid"] for vm in ask("status")["vms"] if vm["name"] == name)
    return Path(f"/proc/{pid}/root/run/count")


def reached(count: Path, number: int) -> bool:
    return count.exists() and int(count.read_text() or 0) > number


def rules(address: str) -> list[dict[str, Any]]:
    """What transfer components hold for the connection of an OS, both ways."""
    return [rule for rule in ask("rules") if f"{address}:" in rule["key"]]


def chain(address: str) -> list[str]:
    """The VMs that what the OS sends passes."""
    row = next(row for row in ask("flows") if row["key"].startswith(f"tcp:{address}:"))
    return [hop["vm"] for hop in row["hops"]]


def test_flips_do_not_disturb_the_flows(host: None, typist: Typist) -> None:
    log = counts_of("work").with_name("log")
    log.touch()
    with talking("play", "work") as counts, inside("work", *program("reader", "/run/log")):
        ping = ("ping", "-q", "-i", "0.02", "-W", "5", "-c", "1000", "198.18.2.20")
        with inside("work", *ping) as pinging:
            for _ in range(FLIPS):
                at = int(counts["work"].read_text() or 0)
                ask("flip", "play")
                until(lambda: reached(counts["work"], at + 2), DEADLINE, "work talks on")  # noqa: B023
                ask("flip", "work")
            said = pinging.stdout.read()
        assert "1000 received" in said, said
        assert chain("198.18.2.10") == ["fw", "ids"]
        assert {rule["vm"] for rule in rules("198.18.2.10")} == {"fw", "ids"}
        assert hostsim("verify").returncode == 0
        typist("tap KEY_A")
        until(lambda: " 1 30 0" in log.read_text(), DEADLINE, "work has the keyboard")


def test_a_frozen_os_finds_its_connection_and_leaves_no_rules(host: None) -> None:
    with talking("play") as counts:
        becomes(
            lambda: {rule["vm"] for rule in rules("198.18.2.11")},
            {"fw", "ids"},
            DEADLINE,
            "rules",
        )
        hostsim("flip", "work")
        group = next(Path(vm["cgroup"]) for vm in ask("status")["vms"] if vm["name"] == "play")
        until(
            lambda: "frozen 1" in (group / "cgroup.events").read_text(), DEADLINE, "play is frozen"
        )
        at = int(counts["play"].read_text() or 0)
        becomes(lambda: rules("198.18.2.11"), [], DEADLINE, "no rules of a flow that is still")
        assert int(counts["play"].read_text() or 0) <= at + 1
        hostsim("flip", "play")
        until(lambda: reached(counts["play"], at + 10), DEADLINE, "the connection carries data")
        assert chain("198.18.2.11") == ["fw", "ids"]
        becomes(
            lambda: {rule["vm"] for rule in rules("198.18.2.11")},
            {"fw", "ids"},
            DEADLINE,
            "rules",
        )
        assert hostsim("verify").returncode == 0
