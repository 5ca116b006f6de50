# SPDX-License-Identifier: Apache-2.0
"""A hotkey's keys, on whichever device each is. Wraps input/chord.h, which has the rules."""

from collections.abc import Sequence
from typing import Any

from cext._native import ffi, lib

KEYS: int = lib.HS_CHORD_KEYS
DEVICES: int = lib.HS_CHORD_DEVICES


class Chord:
    """codes: at most KEYS of them (EV_KEY)."""

    def __init__(self, codes: Sequence[int]) -> None:
        self._chord: Any = ffi.new("struct hs_chord *")
        lib.hs_chord_set(self._chord, list(codes), len(codes))

    @property
    def whole(self) -> bool:
        """Whether all its keys are down."""
        return bool(lib.hs_chord_whole(self._chord))

    def key(self, device: int, code: int, down: bool) -> bool:
        """A key is down now, or up; whether that made the hotkey whole."""
        return bool(lib.hs_chord_key(self._chord, device, code, down))

    def gone(self, device: int) -> None:
        """The device is gone."""
        lib.hs_chord_gone(self._chord, device)
