# SPDX-License-Identifier: Apache-2.0
"""The sound pump: what the foreground OS plays, to the machine's card, in C on a thread of its own.
Wraps sound/pump.h, which has the rules.
"""

from typing import Any

from cext import check
from cext._native import ffi, lib


class Pump:
    """card: a playback descriptor, the caller's, open until `close`. Raises OSError (EINVAL: no
    format that a loop has). `close` twice is harmless."""

    def __init__(self, card: int) -> None:
        out = ffi.new("struct hs_pump **")
        check(lib.hs_pump_new(out, card), "sound card")
        self._handle: Any = out[0]

    def add(self, capture: int, control: int) -> int:
        """A loop's number; its descriptors stay the caller's, and open until `close`. Raises
        OSError (ENOSPC: too many)."""
        return check(lib.hs_pump_add(self._handle, capture, control), "sound loop")

    @property
    def rate(self) -> int:
        """Frames a second."""
        return check(lib.hs_pump_rate(self._handle), "sound card")

    def release(self) -> None:
        """No loop is heard once this has returned."""
        check(lib.hs_pump_release(self._handle), "sound, release")

    def take(self, loop: int) -> None:
        """This one is. Raises OSError (EBUSY: another one is)."""
        check(lib.hs_pump_take(self._handle, loop), "sound, take")

    def stats(self) -> dict[str, int]:
        """Counters, named as in sound/pump.h."""
        out = ffi.new("struct hs_pump_stats *")
        check(lib.hs_pump_stats(self._handle, out), "sound, counters")
        return {name: getattr(out, name) for name, _ in ffi.typeof("struct hs_pump_stats").fields}

    def close(self) -> None:
        """Stop the thread; the card is silent."""
        lib.hs_pump_free(self._handle)
        self._handle = ffi.NULL
