# SPDX-License-Identifier: Apache-2.0
"""What the kernel drops in the namespaces of a host, counted by drops.bpf.c; wraps drops.h.

The program runs where packets are lost and nowhere else (tracepoint skb:kfree_skb), and goes with
this object. Reasons have the names of the running kernel's own enum skb_drop_reason, which its BTF
tells, without the prefix: NETFILTER_DROP. One of a subsystem with an enumeration of its own (from
2^16 on) is shown by its number. What the classifier and impaired links drop has hostsim's names.
"""

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.bpf import objects as bpf
from cext.switch import records
from cext.switch.maps import pack_u32, pages, unpack_tuple
from cext.switch.records import Drop, Tuple

ENUM = "skb_drop_reason"
PREFIX = "SKB_DROP_REASON_"
TOO_LONG = "too-long"
"""What is longer than the next link takes: cext/switch/reason.bpf.h."""
LINK_LOSS = "link-loss"
"""What an impaired link loses."""
SWITCH: int = lib.HS_HOME_SWITCH
"""The number of the switch's namespace, where others have that of their VM."""

assert (records.IN_VM, records.AT_EXIT, records.IN_SWITCH, records.BEHIND) == (
    lib.HS_IN_VM,
    lib.HS_AT_EXIT,
    lib.HS_IN_SWITCH,
    lib.HS_BEHIND,
)


class Drops:
    """The program, attached, and its maps, until `close`. entries: flows and reasons that it can
    tell apart; the rest is counted without its flow. Raises OSError if the kernel lacks the
    tracepoint, its reasons or BTF."""

    def __init__(self, entries: int = 1 << 15) -> None:
        self._names = reasons()
        self._object = bpf.Object("drops", {"drops": entries})
        try:
            self._object.attach("kernel_drop")
        except OSError:
            self.close()
            raise

    def add(self, number: int, netns_fd: int) -> int:
        """Count what is dropped in a namespace, as VM `number` or SWITCH; its inode, for
        `remove`."""
        inode = os.fstat(netns_fd).st_ino
        self._object.map("homes").set(pack_u32(inode), pack_u32(number))
        return inode

    def remove(self, inode: int) -> None:
        """Count no more there; what was counted stays."""
        self._object.map("homes").delete(pack_u32(inode))

    def totals(self) -> dict[int, dict[str, int]]:
        """Packets by namespace (VM number or SWITCH) and reason, since the start."""
        found: dict[int, dict[str, int]] = {}
        for key, value in pages(self._object.map("reasons"), "struct hs_reason", "uint64_t"):
            name = self._name(key.reason)
            found.setdefault(key.home, {})[name] = value
        return found

    def read(self) -> Iterator[Drop]:
        """Packets by flow and reason."""
        for key, value in self._pages():
            yield self._drop(key, value)

    def take(self, until: int, alive: Callable[[int, Tuple], bool]) -> list[Drop]:
        """Forget what was dropped of flows that are no longer `alive` (by VM and flow), where the
        last packet was before `until` (ns); what was forgotten."""

        def pick(keys: Any, drops: Any, count: int) -> int:
            kept: int = lib.hs_drops_pick(keys, drops, count, until)
            return kept

        idle = [
            (bytes(ffi.buffer(ffi.addressof(key))), self._drop(key, value))
            for key, value in self._pages(pick)
        ]
        taken = []
        for raw, drop in idle:
            if drop.tuple is not None and not alive(drop.vm, drop.tuple):
                self._object.map("drops").delete(raw)
                taken.append(drop)
        return taken

    def _pages(self, *pick: Callable[[Any, Any, int], int]) -> Iterator[tuple[Any, Any]]:
        return pages(self._object.map("drops"), "struct hs_drop_key", "struct hs_drop", *pick)

    def _drop(self, key: Any, value: Any) -> Drop:
        flow = unpack_tuple(key.key.tuple) if key.key.tuple.family else None
        name = self._name(key.reason)
        return Drop(key.key.vm, flow, name, key.at, key.place, value.packets, value.last)

    def _name(self, reason: int) -> str:
        return self._names.get(reason, f"reason-{reason:#x}")

    def missed(self) -> int:
        """Drops that were not counted: within another one on the same CPU."""
        return self._object.missed("kernel_drop")

    def close(self) -> None:
        """Twice is harmless."""
        self._object.close()


def reasons() -> dict[int, str]:
    """The reasons, by number: the running kernel's, and ours. Raises OSError if it has none, or no
    BTF."""
    size = 1 << 16
    text = ffi.new("char[]", size)
    used = lib.hs_btf_enum(ENUM.encode(), text, size)
    if used > size:
        raise OSError(errno.E2BIG, f"enum {ENUM}: {used} bytes")
    check(used, f"enum {ENUM} in the kernel's BTF")
    lines = (line.split() for line in ffi.string(text).decode().splitlines())
    found = {int(number): name.removeprefix(PREFIX) for number, name in lines}
    ours = {lib.HS_REASON_OURS + nth: name for nth, name in enumerate(records.COUNTERS)}
    links = {lib.HS_REASON_LINK_LOSS: LINK_LOSS, lib.HS_REASON_TOO_LONG: TOO_LONG}
    return found | ours | links
