# SPDX-License-Identifier: Apache-2.0
"""The terminal of the live view: keys are read one by one, the picture is drawn again and again.

The terminal is as it was at the end, however the view ends. A daemon that does not answer any more
ends it, with its error.
"""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.live import Live

from hostsim.errors import HostsimError
from hostsim.views.top import FLOWS, Sample, State, show

Ask = Callable[..., Any]

EVERY = 1.0  # seconds between two samples
FEW = 20
"""Columns of a terminal at least."""
BURST = 64
"""Bytes that are read at once."""


def run(ask: Ask, every: float = EVERY) -> None:
    """Show the host until `q`. Raises HostsimError if there is no terminal, or no answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HostsimError("top", "needs a terminal", "hostsim flows, hostsim status print once")
    console = Console(markup=False, emoji=False, highlight=False)
    _measure(console)
    if console.width < FEW:
        why = f"the terminal has {console.width} columns"
        raise HostsimError("top", why, f"{FEW} are the least")
    old = new = _sample(ask)
    state = State()
    with (
        _keys() as keys,
        Live(console=console, screen=True, auto_refresh=False, transient=True) as live,
    ):
        due = new.at + every
        while not state.ended:
            _measure(console)
            live.update(show(state, old, new, console.width, console.height), refresh=True)
            for key in keys(max(0.0, due - time.monotonic())):
                state = state.key(key)
            if time.monotonic() >= due and not state.ended:
                if not state.held:
                    old, new = new, _sample(ask)
                due = time.monotonic() + every


def _measure(console: Console) -> None:
    """Take the terminal's size as it is now, whatever COLUMNS and LINES say: they are of before."""
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    console.size = ConsoleDimensions(columns, lines)


def _sample(ask: Ask) -> Sample:
    status, flows = ask("status"), ask("flows", limit=FLOWS)
    return Sample(time.monotonic(), status, flows)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for keys, and returns those that came."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)

    def read(seconds: float) -> str:
        if not select.select([terminal], [], [], seconds)[0]:
            return ""
        text = os.read(terminal, BURST).decode(errors="ignore")
        if not text:  # the terminal is gone
            return "\x03"
        # An arrow or a function key is an escape sequence: none of ours.
        return "" if len(text) > 1 and text.startswith("\x1b") else text

    try:
        yield read
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
