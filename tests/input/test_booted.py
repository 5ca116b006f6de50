# SPDX-License-Identifier: Apache-2.0
"""OSes that boot systemd of an image, as a multi-OS device: their services read the equipment, by
the command line and the control socket, as a user does it. `play` is frozen in the background."""

import functools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from help import cli, roots
from help.programs import program
from help.rig import DEADLINE, Typist
from help.waiting import becomes, until
from hostsim.cli import client

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

SERVER, PORT = "198.18.97.9", 7000
A, B = 30, 48
TALKED = 5
"""Answers that the client in an OS gets each time, at least."""
FILE = """
[host]
name = "hsbooted"
[[vm]]
name = "work"
root = "{root}"
boot = true
[vm.os]
[[vm]]
name = "play"
address = "198.18.97.2/24"
root = "{root}"
boot = true
[vm.os]
background = "freeze"
[[endpoint]]
name = "server"
address = "{server}/24"
run = "{echo}"
[[device]]
match = {{ name = "Test Keyboard mirror" }}
mode = "mirror"
[[device]]
match = {{ name = "Test Keyboard direct" }}
mode = "direct"
[kmc]
foreground = "work"
"""


class Booted(NamedTuple):
    """The host, and the two keyboards. took: seconds of `up`."""

    keyboards: tuple[Typist, Typist]
    took: float


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    keyboards = tuple(Typist("keyboard", f"Test Keyboard {mode}") for mode in ("mirror", "direct"))
    echo = " ".join(program("tcp", "echo", SERVER, PORT))
    text = FILE.format(root=roots.booting(), server=SERVER, echo=echo)
    begin = time.monotonic()
    with cli.host(text, tmp_path_factory.mktemp("booted")):
        took = time.monotonic() - begin
        yield Booted((keyboards[0], keyboards[1]), took)
    for one in keyboards:
        one.unplug()


def ask(op: str, **words: str) -> Any:
    """What the daemon says, without a command line of its own."""
    return client.ask("hsbooted", op, **words)


@functools.cache
def vm(name: str) -> Any:
    """What the status says of an OS, for which it is asked once."""
    return next(vm for vm in ask("status")["vms"] if vm["name"] == name)


def inside(name: str, path: str) -> Path:
    """A file of an OS, for us outside of it."""
    return Path(f"/proc/{vm(name)['pid']}/root{path}")


def lines(name: str) -> list[str]:
    """What the service `reader` of an OS has written."""
    path = inside(name, "/run/events")
    return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []


def pressed(name: str) -> list[list[tuple[int, int]]]:
    """(code, value) of all key events that it has read, without autorepeat, of each keyboard by
    itself: those of a direct one do not come through the daemon, and overtake a mirrored one's."""
    words = [line.split() for line in lines(name) if line.startswith("event ")]
    keys: dict[str, list[tuple[int, int]]] = {}
    for _, node, kind, code, value in words:
        if kind == "1" and value != "2":
            keys.setdefault(node, []).append((int(code), int(value)))
    return list(keys.values())


def has(name: str, count: int) -> bool:
    """Whether it has so many nodes open that nobody has taken from it."""
    said = lines(name)
    return count == sum(x.startswith("open ") for x in said) - sum(
        x.startswith("gone ") for x in said
    )


def test_they_are_running(booted: Booted) -> None:
    print(f"two OSes are up {booted.took:.1f} s after the call")
    asked = ("systemctl", "is-system-running", "--wait")
    assert cli.hostsim("exec", "work", "--", *asked).stdout == "running\n"
    assert ask("status")["foreground"] == "work"


def test_a_key_reaches_services_of_the_foreground_and_no_others(booted: Booted) -> None:
    """In both modes at once. The descriptor that the service has of the direct keyboard's node is
    found below its OS's groups, and revoked; an OS that was frozen goes on to read."""
    until(lambda: has("work", 2), DEADLINE, "work's service has both keyboards")
    typed, others = [(A, 1), (A, 0)], [(B, 1), (B, 0)]
    for keyboard in booted.keyboards:
        keyboard("tap KEY_A")
    becomes(lambda: pressed("work"), 2 * [typed], DEADLINE, "work reads both keys")
    assert ask("flip", os="play")["foreground"] == "play"
    until(lambda: has("play", 2), DEADLINE, "play's service has both keyboards")
    until(lambda: sum(x.startswith("gone ") for x in lines("work")) >= 1, DEADLINE, "work lost one")
    for keyboard in booted.keyboards:
        keyboard("tap KEY_B")
    becomes(lambda: pressed("play"), 2 * [others], DEADLINE, "play reads both keys")
    assert pressed("work") == 2 * [typed]
    assert ask("flip", os="work")["foreground"] == "work"
    until(lambda: has("work", 2), DEADLINE, "work's service has both keyboards again")
    for keyboard in booted.keyboards:
        keyboard("tap KEY_A")
    becomes(lambda: pressed("work"), 2 * [2 * typed], DEADLINE, "work reads both keys again")
    assert pressed("play") == 2 * [others]


def test_a_connection_outlives_the_freeze(booted: Booted) -> None:
    """A client in `play` counts the answers that it has had by one connection."""
    count = inside("play", "/run/count")

    def counted() -> int:
        return int(count.read_text() or 0) if count.exists() else 0

    ask("flip", os="play")
    talk = ("/usr/bin/python3", "-I", "/opt/tcp.py", "talk", SERVER, str(PORT), "0.05")
    words = (cli.HOSTSIM, "exec", "play", "--", *talk, "/run/count")
    with subprocess.Popen(words) as talker:
        try:
            until(lambda: counted() > TALKED, DEADLINE, "play talks")
            ask("flip", os="work")
            events = Path(vm("play")["cgroup"]) / "cgroup.events"
            until(lambda: "frozen 1" in events.read_text(), DEADLINE, "play is frozen")
            before = counted()
            ask("flip", os="play")
            until(lambda: counted() > before + TALKED, DEADLINE, "play talks on")
        finally:
            talker.terminate()
