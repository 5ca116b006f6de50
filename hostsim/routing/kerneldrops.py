# SPDX-License-Identifier: Apache-2.0
"""What the kernel drops in a host's namespaces, with its own reasons, if the kernel tells them.

Owns the program at the kernel's drops (cext/switch/drops.bpf.c) from `load` to `close`, and knows
which namespace is whose. On a kernel without the tracepoint's reasons everything else works: the
log says so once, and `known` is false.
"""

import logging
from collections.abc import Callable

from cext.switch.drops import Drops
from cext.switch.records import Drop, Tuple

log = logging.getLogger("hostsim.drops")


class KernelDrops:
    """See the module. `close` twice is harmless."""

    def __init__(self) -> None:
        self._drops: Drops | None = None
        self._inodes: dict[int, int] = {}

    def load(self) -> None:
        """Load and attach the program. Blocks, and needs nothing but this object."""
        try:
            self._drops = Drops()
        except OSError as error:
            log.warning("what the kernel drops has no names here: %s", error.strerror or error)

    @property
    def known(self) -> bool:
        """Whether the kernel tells."""
        return self._drops is not None

    def watch(self, number: int, netns_fd: int) -> None:
        """Count in this namespace, as a VM's (its number) or SWITCH (cext/switch/drops.py); no
        longer in the one that this number had before."""
        if self._drops is None:
            return
        before = self._inodes.pop(number, None)
        if before is not None:
            self._drops.remove(before)
        self._inodes[number] = self._drops.add(number, netns_fd)

    def leave(self, number: int) -> None:
        """That VM's namespace is no more of the host."""
        before = self._inodes.pop(number, None)
        if before is not None and self._drops is not None:
            self._drops.remove(before)

    def read(self) -> list[Drop]:
        """Packets by flow and reason; those that nobody knows the VM of are left out."""
        return [one for one in self._drops.read() if one.vm] if self._drops else []

    def take(self, until: int, alive: Callable[[int, Tuple], bool]) -> list[Drop]:
        """See cext.switch.drops.Drops.take."""
        return self._drops.take(until, alive) if self._drops else []

    def totals(self) -> dict[int, dict[str, int]] | None:
        """Packets by namespace and reason, since the start; None if the kernel does not tell."""
        return self._drops.totals() if self._drops else None

    def missed(self) -> int:
        """How many drops could not be counted."""
        return self._drops.missed() if self._drops else 0

    def close(self) -> None:
        """Detach and drop the program."""
        if self._drops is not None:
            self._drops.close()
            self._drops = None
        self._inodes.clear()
