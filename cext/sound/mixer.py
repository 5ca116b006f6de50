# SPDX-License-Identifier: Apache-2.0
"""A sound card's mixer: its elements, their values, and elements like them on another card. Wraps
sound/mixer.h. All raise OSError.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cext import check
from cext._native import ffi, lib

MOST = 256
"""Elements of a card that are looked at."""


@dataclass(frozen=True)
class Element:
    """name, index: which it is, on cards that look alike. number: which it is on its card."""

    name: str
    index: int
    number: int
    count: int
    least: int
    most: int


def elements(fd: int) -> list[Element]:
    """The volumes, switches and choices of a control descriptor's card."""
    out = ffi.new("struct hs_mixer_element[]", MOST)
    there = min(check(lib.hs_mixer_list(fd, out, MOST), "mixer"), MOST)
    return [
        Element(
            ffi.string(out[n].name).decode(errors="replace"),
            out[n].index,
            out[n].number,
            out[n].count,
            out[n].least,
            out[n].most,
        )
        for n in range(there)
    ]


def read(fd: int, number: int) -> tuple[int, ...]:
    """An element's values, one for each channel. ENOENT: it has gone."""
    out = ffi.new("int64_t[]", lib.HS_MIXER_VALUES)
    count = check(lib.hs_mixer_read(fd, number, out), "mixer, read")
    return tuple(out[n] for n in range(count))


def write(fd: int, number: int, values: Sequence[int]) -> None:
    """Set them."""
    check(lib.hs_mixer_write(fd, number, list(values), len(values)), "mixer, write")


def watch(fd: int) -> None:
    """From now on the descriptor is readable when an element has changed."""
    check(lib.hs_mixer_watch(fd), "mixer, events")


def like(source: int, number: int, target: int) -> int:
    """Make an element like this one of card `source` on card `target`; its number there."""
    return check(lib.hs_mixer_like(source, number, target), "mixer, new element")


def clear(fd: int) -> None:
    """Remove every element of a card that a program has made."""
    check(lib.hs_mixer_clear(fd), "mixer, clear")
