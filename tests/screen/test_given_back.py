# SPDX-License-Identifier: Apache-2.0
"""A host that was killed has left its screen to the OS that had it, the machine's consoles unseen,
and the sound card as loud as that OS wanted it; `hostsim clean` gives back all three. What `down`
gives back, each test of a screen or of sound sees.

It brings up a whole host, which takes long in the test VM: `scripts/test desktop` runs it.
"""

import contextlib
import subprocess
from pathlib import Path

import pytest

from help import cli
from help.desk import Desk
from help.mixer import machine
from help.programs import program
from help.rig import DEADLINE
from help.stage import GREEN
from help.waiting import until
from netns.console import KD_GRAPHICS, KD_TEXT, KEYS, PICTURE, Kernel

pytestmark = [pytest.mark.desktop, pytest.mark.timeout(400)]

HOST = """
[host]
name = "panel"
[[vm]]
name = "work"
[vm.os]
[[device]]
match = { screen = "card0" }
[[device]]
match = { sound = "*" }
"""
GROUP = Path("/sys/fs/cgroup/hs-panel/work")


def cleaned(kind: type[BaseException] | None, *_: object) -> None:
    """After a test that failed midway, nothing is left."""
    if kind is not None:
        cli.kill_daemon("panel")
        cli.hostsim("clean", check=False)


def test_clean_gives_the_consoles_and_the_screen_back(tmp_path: Path) -> None:
    file = tmp_path / "panel.toml"
    file.write_text(HOST)
    with contextlib.closing(Desk()) as desk, contextlib.ExitStack() as stack:
        found = desk.colours()
        modes, keys = Kernel(PICTURE).modes(), Kernel(KEYS).modes()
        assert KD_TEXT in modes.values()
        mixer = machine("40", "off")
        cli.hostsim("up", str(file))
        stack.push(cleaned)
        client = subprocess.Popen(
            [cli.HOSTSIM, "exec", "--host", "panel", "work", "--", *program("seatclient", GREEN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        stack.enter_context(client)
        stack.callback(client.kill)
        until(lambda: desk.only(GREEN), DEADLINE, "work has the screen")
        cli.hostsim("exec", "--host", "panel", "work", "--", "amixer", "-q", "sset", "Master", "60")
        until(lambda: machine() != mixer, DEADLINE, "work has its own volume")
        (GROUP / "cgroup.freeze").write_text("1")  # it lets go of nothing by itself
        cli.kill_daemon("panel")
        assert desk.only(GREEN)
        assert machine() != mixer
        assert set(Kernel(PICTURE).modes().values()) == {KD_GRAPHICS}
        cli.hostsim("clean")
        until(lambda: set(desk.colours()) == set(found), DEADLINE, "the console's picture")
        assert (Kernel(PICTURE).modes(), Kernel(KEYS).modes()) == (modes, keys)
        assert machine() == mixer
