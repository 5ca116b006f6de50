# SPDX-License-Identifier: Apache-2.0
"""The one way in which tests wait: for a condition, with a deadline."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

PAUSE = 0.01
"""Seconds between two looks."""

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 20.0, what: str = "the condition") -> T:
    """The first true value of the condition, which is looked at again and again.

    seconds: the deadline, at which the test fails
    what: a name or sentence for what did not come true then
    """
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        pause.wait(PAUSE)
    return value


def becomes(
    read: Callable[[], object], wanted: object, seconds: float = 20.0, what: str = "it"
) -> None:
    """Wait until what is read is what is wanted; a failure shows the last reading.

    seconds, what: as `until` has them
    """
    last: list[object] = []

    def same() -> bool:
        last[:] = [read()]
        return last[0] == wanted

    try:
        until(same, seconds, what)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last[0]!r}, not {wanted!r}") from None
