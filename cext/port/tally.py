# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of a port's tally: what a VM says became of each flow's packets. Wraps tally.h.

The VM writes the table and may write anything: `read` returns whole snapshots of entries with
fields that can be true, and leaves the others out.
"""

import mmap
import os
from collections.abc import Iterator
from typing import Any

from cext._native import ffi, lib
from cext.ring.channel import make_region
from cext.switch import records
from cext.switch.maps import pack_tuple, unpack_tuple
from cext.switch.records import Account, Counts, Tuple

PAGE = 256
assert len(records.ACCOUNT_COUNTS) == lib.HS_T_COUNTS


class Tally:
    """The table of one VM. `fd` is to be handed to it; `close` ends both uses."""

    def __init__(self, vm: int, entries: int = 16384) -> None:
        self.vm = vm
        self.entries = entries
        size: int = lib.hs_tally_bytes(entries)
        assert size > 0, entries
        self.fd = make_region(size)
        self._memory = mmap.mmap(self.fd, size)
        self._native = ffi.from_buffer("struct hs_tally *", self._memory)
        lib.hs_tally_init(self._native, entries)

    def read(self) -> Iterator[Account]:
        """Every entry."""
        at = ffi.new("uint32_t *")
        rows = ffi.new("struct hs_tally_row[]", PAGE)
        while at[0] < self.entries:
            count = lib.hs_tally_read(self._native, self.entries, at, rows, PAGE)
            for index in range(count):
                if rows[index].tuple.family in (4, 6) and rows[index].peer <= records.VM_MAX:
                    yield _account(self.vm, rows[index])

    def find(self, flow: Tuple, peer: int = 0) -> Account | None:
        """One entry: what the VM sent of a flow, or with a peer what it took from its ring."""
        row = ffi.new("struct hs_tally_row *")
        key = ffi.from_buffer("struct hs_tuple *", pack_tuple(flow))
        if not lib.hs_tally_find(self._native, self.entries, key, peer, row):
            return None
        return _account(self.vm, row)

    def other(self) -> Counts:
        """The counts of packets that have no entry."""
        row = ffi.new("struct hs_tally_row *")
        lib.hs_tally_other(self._native, row)
        return tuple(row.count)

    def close(self) -> None:
        """Twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _account(vm: int, row: Any) -> Account:
    return Account(vm, unpack_tuple(row.tuple), row.peer, row.sequence, row.last, tuple(row.count))
