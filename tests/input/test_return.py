# SPDX-License-Identifier: Apache-2.0
"""An OS that is started again finds its devices: in both modes, with a keyboard."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from help import cli
from help.cli import HOSTSIM, ask, hostsim
from help.rig import DEADLINE, Typist
from help.waiting import becomes, until
from hostsim.model import DeviceMode
from netns import leds

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

FILE = """
[host]
name = "hsir"
[[vm]]
name = "work"
[vm.os]
restart = "on-failure"
[[vm]]
name = "play"
[vm.os]
[[device]]
match = {{ name = "Test Keyboard" }}
mode = "{mode}"
[kmc]
fallback = "play"
"""


@pytest.fixture
def keyboard() -> Iterator[Typist]:
    made = Typist("keyboard", "Test Keyboard")
    yield made
    made.unplug()


@pytest.fixture
def host(mode: DeviceMode, keyboard: Typist, tmp_path: Path) -> Iterator[None]:
    with cli.host(FILE.format(mode=mode), tmp_path):
        yield


def vm(name: str) -> Any:
    return next(node for node in ask("status")["vms"] if node["name"] == name)


def nodes(name: str) -> list[str]:
    there = os.listdir(f"/proc/{vm(name)['pid']}/root/dev/input")
    return [one for one in there if one.startswith("event")]


def test_an_os_that_is_started_again_has_the_keyboard_again(
    host: None, keyboard: Typist, mode: DeviceMode
) -> None:
    log = Path("/run/hostsim/hsir/log")
    for count in (1, 2):
        before = vm("work")
        assert len(nodes("work")) == 1
        os.kill(before["pid"], signal.SIGKILL)
        becomes(lambda: ask("status")["foreground"], "play", DEADLINE, "play follows")
        assert len(nodes("play")) == 1
        back = "work is back"
        becomes(lambda: log.read_text().count(back), count, DEADLINE, "work is back")  # noqa: B023
        assert vm("work")["restarts"] == count
        assert len(nodes("work")) == (1 if mode == "mirror" else 0)
        hostsim("flip", "work")
        (node,) = nodes("work")
        press = f"timeout 60 evtest --grab /dev/input/{node} | grep -m1 KEY_A.,.value.1"
        until(lambda: reads(keyboard, press), DEADLINE, "work reads the keyboard")  # noqa: B023


def test_clean_joins_the_leds_with_the_console_again(
    keyboard: Typist, mode: DeviceMode, tmp_path: Path
) -> None:
    """What sets a keyboard's LEDs on the machine is cut off while OSes have it."""
    name = Path(keyboard.node).name
    before = until(lambda: leds.triggers(name), DEADLINE, "the kernel has made LEDs of it")
    file = tmp_path / "hsir.toml"
    file.write_text(FILE.format(mode=mode))
    hostsim("up", str(file))
    assert leds.triggers(name) == {}
    cli.kill_daemon("hsir")
    hostsim("clean")
    assert leds.triggers(name) == before
    with cli.up(file):
        pass
    assert leds.triggers(name) == before


def reads(keyboard: Typist, press: str) -> bool:
    """Whether a reader in work sees a key; it is typed while it starts, too."""
    argv = [HOSTSIM, "exec", "work", "--", "sh", "-c", press]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as reader:
        while reader.poll() is None:
            keyboard("tap KEY_A")
    return reader.returncode == 0
