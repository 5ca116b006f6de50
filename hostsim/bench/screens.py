# SPDX-License-Identifier: Apache-2.0
"""Two compositors on one screen by turns, for `hostsim bench flip`: of OSes of a
host, or clients of a seatd. Both are `painter`s, and both ask for the flip by the same message.

What counts is the picture: the card is looked at all the time by a file of our own, and a flip is
done as soon as the buffer that it shows has the new one's colour.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hostsim.bench.seats import DEADLINE, Client, seatd_runs, two_oses
from hostsim.errors import HostsimError
from netns import card as drm
from netns.card import Pen

CARD = Path("/dev/dri/card0")
COLOURS = ("00aa00", "aa0000")


class Stage:
    """Two painters, of which the first is on the screen; names: the sessions they are asked for
    by."""

    def __init__(self, painters: tuple[Client, Client], names: tuple[str, str], eye: "Eye") -> None:
        self._painters, self._names, self._eye = painters, names, eye

    def flip(self, number: int) -> float:
        """Milliseconds from the message to the first right picture. Returns once the new one may
        flip back."""
        old, new = self._painters[number % 2], self._painters[1 - number % 2]
        old.tell(f"switch {self._names[1 - number % 2]}")
        asked = old.expect("asked")
        seen = self._eye.wait(COLOURS[1 - number % 2])
        new.expect("painted")
        return (seen - asked) / 1e6


class Eye:
    """Looks at the card by a file of our own, which is never the master: the machine's owner may
    (CAP_SYS_ADMIN). Open it while somebody is. Closed by `close`."""

    def __init__(self) -> None:
        self._fd = drm.open_card(str(CARD))
        drm.see_planes(self._fd)
        self._pen = Pen(self._fd)

    def wait(self, colour: str) -> int:
        """When the screen has it first, in ns of CLOCK_MONOTONIC. Raises HostsimError."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            shown = [number for number in self._pen.shown() if number]
            now = time.monotonic_ns()
            with contextlib.suppress(OSError):  # it was removed just now
                if shown and all(self._colour(number) == colour for number in shown):
                    return now
        raise HostsimError("bench flip", f"no picture {colour} within {DEADLINE:g} s")

    def _colour(self, number: int) -> str:
        return drm.pixel(self._fd, number)[2::-1].hex()

    def close(self) -> None:
        """End it."""
        os.close(self._fd)


def _painter(colour: str, *before: str) -> Client:
    return Client([*before, sys.executable, "-Iu", "-m", "hostsim.bench.painter", colour])


@contextlib.contextmanager
def oses() -> Iterator[Stage]:
    """Two OSes of a host that is brought up for them."""
    with (
        two_oses('match = { screen = "card0" }') as inside,
        contextlib.ExitStack() as stack,
    ):
        made = []
        for words, colour in zip(inside.values(), COLOURS, strict=True):
            made.append(_painter(colour, *words))
            stack.callback(made[-1].close)
        made[0].expect("painted")
        eye = Eye()
        stack.callback(eye.close)
        yield Stage((made[0], made[1]), ("1", "2"), eye)


@contextlib.contextmanager
def seat() -> Iterator[Stage]:
    """Two clients of a seatd."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(seatd_runs())
        made = []
        for colour in ("000000", *reversed(COLOURS)):  # seatd takes no switch to its session 0
            made.append(_painter(colour))
            stack.callback(made[-1].close)
        made[0].expect("painted")
        made[0].close()  # then its youngest one becomes active
        made[2].expect("painted")
        eye = Eye()
        stack.callback(eye.close)
        yield Stage((made[2], made[1]), ("2", "1"), eye)
