# SPDX-License-Identifier: Apache-2.0
"""The pictures of a flip that the READMEs show: Debian's sway in one OS and cage in the other, on
one screen, with one keyboard. What is typed comes from QEMU, and the pictures are QEMU's.

    scripts/testvm --display --deadline 500 -- .venv/bin/python scripts/demo/pictures.py

It writes hostsim/kmc/work.png and hostsim/kmc/play.png. The compositors are those that
`scripts/test desktop` installs."""

import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from stage import BIN, DEADLINE, HOSTSIM, ROOT, expect, headline, host, main, ours, show, until

sys.path.insert(0, str(ROOT / "tests"))
from help.compositor import PLACE, command
from help.desk import Desk

HOST = """
[host]
name = "desk"
[[vm]]
name = "work"
[vm.os]
[[vm]]
name = "play"
[vm.os]
[[device]]
match = { name = "QEMU Virtio Keyboard" }
mode = "direct"
[[device]]
match = { screen = "card0" }
[kmc]
foreground = "work"
release_timeout = "20s"
"""
TERMINAL = "foot -f monospace:size=15 -o colors.background={} bash --rcfile bashrc"
COLOURS = {"work": "10301c", "play": "3a1414"}
TERMINALS = {name: TERMINAL.format(colour) for name, colour in COLOURS.items()}
COMPOSITORS = {
    "work": ("sway", "-c", f"{PLACE}/config"),
    "play": ("cage", "--", *TERMINALS["play"].split()),
}
SWAY = f"""
output * bg #1d6b3c solid_color
gaps inner 24
default_border normal
bar {{
    position top
    status_command while date +%H:%M; do sleep 10; done
}}
exec {TERMINALS["work"]}
"""
KEYS = {" ": "spc", "-": "minus", "/": "slash", "\n": "ret", ".": "dot"}


class Compositor:
    """The compositor of an OS, with a terminal."""

    def __init__(self, name: str, log: Path) -> None:
        words = command(
            COMPOSITORS[name],
            rf"""printf "PS1='{name}:\\\\w\\\\$ '\\n" >bashrc""",
            f"export PATH={BIN}:$PATH",
        )
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                ours(HOSTSIM, "exec", name, "--", *words),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
            )
        assert self._process.stdin is not None
        with self._process.stdin as config:
            config.write(SWAY.encode())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE)


def types(desk: Desk, text: str) -> None:
    """Type, and wait until each key shows: the processor is emulated."""
    for letter in text:
        before = desk.colours()
        desk.ask(type=[KEYS.get(letter, letter)])
        if letter != " ":
            until(lambda: desk.colours() != before, f"{letter!r} shows")  # noqa: B023


def has_keyboard(desk: Desk, name: str) -> None:
    """Press Enter until the terminal answers: a compositor draws first, then opens its keyboard."""
    colour = COLOURS[name]
    until(lambda: next(iter(desk.colours())) == colour, f"{name} is on the screen")

    def answers() -> bool:
        before = desk.colours()
        desk.ask(type=["ret"])
        return desk.colours() != before

    until(answers, f"{name} has the keyboard")


def pictures() -> None:
    headline("two operating systems, one screen: a picture of each")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        desk = stack.enter_context(closing(Desk()))
        file = folder / "desk.toml"
        file.write_text(HOST)
        stack.enter_context(host("desk", str(file)))
        for name in ("work", "play"):
            if name != "work":  # is in the foreground from the start
                show(HOSTSIM, "flip", name)
            stack.enter_context(closing(Compositor(name, folder / name)))
            until(lambda: len(desk.colours()) > 4, f"{name}'s terminal shows")
            types(desk, "hostsim-agent status\n")
        for name in ("work", "play"):
            show(HOSTSIM, "flip", name)
            has_keyboard(desk, name)
            types(desk, "ls /dev/input\n")
            desk.colours(f"hostsim/kmc/{name}.png")
        expect(True, "hostsim/kmc/work.png and play.png")


if __name__ == "__main__":
    sys.exit(main(pictures))
