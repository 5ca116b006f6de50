# SPDX-License-Identifier: Apache-2.0
"""What the demos share: the command line as a person types it, measured and shown.

Everything goes through .venv/bin/hostsim and ordinary tools; a demo that does not see what it
promises raises `Failed`, takes its host down and ends with exit status 1. What it has seen it adds
to the closing table (`saw`), which closing.py shows.
"""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hostsim import leftovers

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HOSTSIM = str(BIN / "hostsim")
SEEN = ROOT / ".testvm" / "demo.jsonl"
"""The lines of the closing table; the test VM can write there too."""
WIDTH = 98
DEADLINE = 240.0

_up: list[str] = []
"""The host that the demo has brought up."""

terminal = sys.stdout.isatty() or "FORCE_COLOR" in os.environ
console = Console(width=WIDTH, force_terminal=terminal, highlight=False)


class Failed(Exception):
    """The demo did not show what it is there to show."""


def headline(text: str) -> None:
    console.print()
    console.rule(Text(text, style="bold"), align="left", style="blue")


def note(text: str) -> None:
    console.print(Text(text, style="dim"))


def shown(words: tuple[str, ...]) -> str:
    """The command as a person would type it."""
    short = (word.removeprefix(f"{BIN}/").removeprefix(f"{ROOT}/") for word in words)
    return shlex.join(short)


def ours(*words: str) -> tuple[str, ...]:
    """The command with the demo's host named: another may be up on this machine."""
    named = [word for name in _up for word in ("--host", name)]
    return (words[0], *named, *words[1:]) if words[0] == HOSTSIM else words


def run(*words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command; with `ok`, anything but exit status 0 ends the demo."""
    done = subprocess.run(
        ours(*words),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"COLUMNS": str(WIDTH - 2), "HOST": "".join(_up)},
    )
    if ok and done.returncode:
        raise Failed(f"{shown(words)}: exit status {done.returncode}: {done.stderr.strip()}")
    return done


def show(*words: str, result: bool = True) -> str:
    """Run a command in front of the audience: the line, the time it took, what it said."""
    begin = time.monotonic()
    done = run(*words)
    line = Text("$ ", style="blue") + Text(shown(words), style="bold")
    line += Text(f"   {time.monotonic() - begin:.2f} s", style="dim")
    console.print(line)
    if result and done.stdout.strip():
        console.print(Text("  " + done.stdout.strip().replace("\n", "\n  ")))
    return done.stdout


def ask(*words: str) -> Any:
    """A command's JSON."""
    return json.loads(run(HOSTSIM, *words, "--json").stdout)


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """The condition's first true value; ends the demo at the deadline."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        if time.monotonic() > end:
            raise Failed(f"{what}: not after {seconds:g} s")
        pause.wait(0.02)
    return value


def pause(seconds: float) -> None:
    """Let time pass that is being measured."""
    threading.Event().wait(seconds)


def expect(condition: bool, what: str) -> None:
    """Say that it is so, or end the demo."""
    if not condition:
        raise Failed(what)
    console.print(Text("  ✓ ", style="green") + Text(what))


def saw(what: str, value: str, command: str) -> None:
    """A line of the closing table. command: the one that shows it again."""
    SEEN.parent.mkdir(exist_ok=True)
    with SEEN.open("a") as file:
        file.write(json.dumps([what, value, command]) + "\n")


def table(*columns: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right")
    return made


@contextmanager
def host(name: str, file: str) -> Iterator[None]:
    """`hostsim up`, and `down` at the end, whatever happens in between."""
    show(HOSTSIM, "up", file)
    _up.append(name)
    try:
        yield
        show(HOSTSIM, "down")
    except BaseException:
        run(HOSTSIM, "down", ok=False)
        run(HOSTSIM, "clean", ok=False)
        raise
    finally:
        _up.remove(name)


def main(demo: Callable[[], None]) -> int:
    """Run a demo and see that the machine is as it was before. Returns the exit status."""
    before = leftovers.snapshot()
    try:
        demo()
        left = leftovers.settle(before)
        if left:
            raise Failed("left behind: " + "; ".join(left))
    except Failed as error:
        console.print(Text(f"demo: {error}", style="bold red"))
        return 1
    expect(True, "nothing is left: no namespace, link, filter, BPF program, cgroup, mount, process")
    return 0
