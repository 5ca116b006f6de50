# SPDX-License-Identifier: Apache-2.0
"""The input forwarder: real evdev devices to the foreground OS's uinput clones, in C on threads
of its own. Wraps input/forward.h, which has the rules.
"""

from collections.abc import Sequence
from typing import Any

from cext import check
from cext._native import ffi, lib

OSES: int = lib.HS_FWD_OSES
"""Most OSes."""
CHORD: int = lib.HS_FWD_CHORD_PRESSED
GONE: int = lib.HS_FWD_GONE


class Forwarder:
    """Any number of devices up to 64. `close` stops it; twice is harmless.

    oses: how many OSes there are; they are numbered from 0.
    """

    def __init__(self, oses: int) -> None:
        out = ffi.new("struct hs_fwd **")
        check(lib.hs_fwd_new(out, oses), "input forwarder")
        self._handle: Any = out[0]
        self._oses = oses

    def fileno(self) -> int:
        """Readable when `notice` has something; for event loops."""
        fd: int = lib.hs_fwd_fileno(self._handle)
        return fd

    def notice(self) -> tuple[int, int] | None:
        """The oldest unread notice: (CHORD or GONE, device), or None."""
        out = ffi.new("struct hs_fwd_notice *")
        if lib.hs_fwd_notice(self._handle, out) == 0:
            return None
        return out.type, out.device

    def add(self, real: int, clones: Sequence[int]) -> int:
        """Add a device; its number. clones: one for each OS, -1: none has this number. The
        descriptors are non-blocking, and stay open and the caller's until `remove`. Raises OSError
        (ENOSPC: too many devices)."""
        assert len(clones) == self._oses, (len(clones), self._oses)
        return check(lib.hs_fwd_add(self._handle, real, list(clones)), "input forwarder, add")

    def watch(self, real: int) -> int:
        """Add a device only to notice its hotkey; its number. As `add`."""
        return check(lib.hs_fwd_add(self._handle, real, ffi.NULL), "input forwarder, watch")

    def join(self, device: int, os: int, clone: int) -> None:
        """The OS of this number is new: its clone, as in `add`. Raises OSError (EEXIST: it has
        one)."""
        check(lib.hs_fwd_join(self._handle, device, os, clone), "input forwarder, join")

    def leave(self, device: int, os: int) -> None:
        """The OS's clone may be closed then. Raises OSError (EBUSY: the OS owns the device)."""
        check(lib.hs_fwd_leave(self._handle, device, os), "input forwarder, leave")

    def remove(self, device: int) -> None:
        """Release and forget a device. Raises OSError (ENOENT)."""
        check(lib.hs_fwd_remove(self._handle, device), "input forwarder, remove")

    def chord(self, device: int, codes: Sequence[int]) -> None:
        """Set the device's hotkey: EV_KEY codes. Raises OSError (EINVAL: too many keys)."""
        result = lib.hs_fwd_chord(self._handle, device, list(codes), len(codes))
        check(result, "input forwarder, hotkey")

    def carry(self, on: bool) -> None:
        """Whether modifiers that are held go from one owner to the next; at first they do not."""
        lib.hs_fwd_carry(self._handle, on)

    def release(self) -> None:
        """Take every device from its owner. No event reaches it once this has returned."""
        check(lib.hs_fwd_release(self._handle, lib.HS_FWD_ALL), "input forwarder, release")

    def take(self, os: int, device: int | None = None) -> None:
        """Give one device, or all, to an OS. Raises OSError (EBUSY: another OS owns one)."""
        which = lib.HS_FWD_ALL if device is None else device
        check(lib.hs_fwd_take(self._handle, which, os), "input forwarder, take")

    def stats(self, device: int) -> dict[str, int]:
        """The device's counters, named as in input/forward.h."""
        out = ffi.new("struct hs_fwd_stats *")
        check(lib.hs_fwd_stats(self._handle, device, out), "input forwarder, counters")
        return {name: getattr(out, name) for name, _ in ffi.typeof("struct hs_fwd_stats").fields}

    def os_state(self, device: int, os: int) -> tuple[int, int]:
        """(LEDs as a bit set by LED code, number of keys held) of one OS."""
        leds = ffi.new("uint32_t *")
        held = ffi.new("uint32_t *")
        result = lib.hs_fwd_os_state(self._handle, device, os, leds, held)
        check(result, "input forwarder, state")
        return leds[0], held[0]

    def close(self) -> None:
        """Release everything and stop the threads. Twice is harmless."""
        lib.hs_fwd_free(self._handle)
        self._handle = ffi.NULL
