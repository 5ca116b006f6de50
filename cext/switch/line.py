# SPDX-License-Identifier: Apache-2.0
"""The line, which holds frames back until their time; wraps switch/line.h."""

from typing import Any

from cext import check
from cext._native import ffi, lib

INDEX: int = lib.HS_LINE_TAP
"""The number of its TAP in the switch's namespace."""
WAIT: int = lib.HS_WAIT_TAP
"""Likewise, of the line that fragments wait in (switch/wait.h)."""
MARK: int = lib.HS_MARK_DONE
"""The mark of packets that impair.bpf.c lets pass."""


class Line:
    """tap, out, exact: as in switch/line.h; the descriptors become the line's. Raises OSError.
    `close` twice is harmless; what is held then is lost."""

    def __init__(self, tap: int, out: int, exact: bool = True) -> None:
        made = ffi.new("struct hs_line **")
        check(lib.hs_line_new(made, tap, out, exact), "line")
        self._handle: Any = made[0]

    def counted(self) -> dict[str, int]:
        """Frames, named as in switch/line.h."""
        found = ffi.new("struct hs_line_count *")
        lib.hs_line_counted(self._handle, found)
        return {name: getattr(found, name) for name in ("held", "sent", "unsent")}

    def close(self) -> None:
        lib.hs_line_free(self._handle)
        self._handle = ffi.NULL
