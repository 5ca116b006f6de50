# SPDX-License-Identifier: Apache-2.0
"""The table of routing rules that a port looks its packets up in. Wraps port/rules.h.

The daemon writes it (`Rules`); a port maps it for reading and sends what has a rule of the table's
epoch into a neighbour's ring, all else to the switch.
"""

import fcntl
import mmap
import os

from cext._native import ffi, lib


class Rules:
    """The writer's side of a table of routing rules: the daemon's."""

    def __init__(self, entries: int = 16384) -> None:
        self.entries = entries
        size: int = lib.hs_rules_bytes(entries)
        assert size > 0, entries
        self.fd = os.memfd_create("hostsim-rules", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self._memory = mmap.mmap(self.fd, size)
        self._native = ffi.from_buffer("struct hs_rules *", self._memory)
        lib.hs_rules_init(self._native, entries)
        _seal(self.fd)

    def set_epoch(self, epoch: int) -> None:
        """Rules of every other epoch are stale at once."""
        lib.hs_rules_set_epoch(self._native, epoch)

    def put(self, flow: bytes, to: int, epoch: int, wait: bool = False) -> bool:
        """flow: a struct hs_tuple, 40 bytes. wait: for room, if the ring is full. False: no
        place for the rule, the flow stays on the switch."""
        named = to | (lib.HS_TO_WAIT if wait else 0)
        result: int = lib.hs_rules_put(
            self._native, ffi.from_buffer("struct hs_tuple *", flow), named, epoch
        )
        return result == 0

    def remove(self, flow: bytes) -> None:
        """If it is there."""
        lib.hs_rules_remove(self._native, ffi.from_buffer("struct hs_tuple *", flow))

    def find(self, flow: bytes) -> int:
        """What a reader would find: a VM's number, or 0."""
        found: int = lib.hs_rules_find(
            self._native, self.entries, ffi.from_buffer("struct hs_tuple *", flow)
        )
        return found & 0xFFFF

    def close(self) -> None:
        """Twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _seal(fd: int) -> None:
    # Who gets the descriptor can map it for reading only; our own mapping stays writable.
    future_write = 0x10
    fcntl.fcntl(
        fd,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | future_write | fcntl.F_SEAL_SEAL,
    )


def flow_of(frame: bytes) -> bytes | None:
    """The struct hs_tuple of a frame, or None if it can have no rule."""
    found = ffi.new("struct hs_tuple *")
    if lib.hs_flow_parse(ffi.from_buffer("uint8_t *", frame), len(frame), found) < 0:
        return None
    return bytes(ffi.buffer(found))
