# SPDX-License-Identifier: Apache-2.0
"""uinput clones of a device, one for each OS.

`Copy` is for old programs in `direct` mode. They read a pad from `js0`, which cannot be revoked, so
the pad's own must not be an OS's. Each OS has the one of a clone, which is nothing but that: the
forwarder copies the pad's events to the clone of the foreground OS, beside the node itself, and
takes nothing from that. A program that grabs the node hears alone, as without us.
"""

import os
from collections.abc import Collection, Mapping

from cext.input.evict import evict
from cext.input.forward import OSES, Forwarder
from hostsim.kmc.osnodes import OsNodes
from netns import nodes
from netns.claims import CLONE, Claims
from netns.evdevices import Source
from netns.evioctl import EV_ABS, EV_KEY
from netns.uinput import Clone


def cloned(source: Source, claims: Claims, kinds: Collection[int] = ()) -> Clone:
    """A clone that is ours, and none of whose nodes the machine's programs find. kinds: see
    `Clone`. Raises OSError."""
    with claims.makes():
        clone = Clone(source, kinds)
        try:
            claims.claim(clone.sysname, CLONE)
            clone.hide()
        except OSError:
            clone.close()
            claims.release(clone.sysname)
            raise
    return clone


def let_go(clone: Clone, nodes: OsNodes, claims: Claims) -> None:
    """The OS has this clone of `cloned` no more, and nobody has."""
    nodes.forget(clone.sysname)
    clone.close()
    claims.release(clone.sysname)


def by_number(clones: Mapping[str, int], numbers: Mapping[str, int]) -> list[int]:
    """The OSes' clones in the order of their numbers in the forwarder; -1: no OS has the number."""
    found = [-1] * OSES
    for name, fd in clones.items():
        found[numbers[name]] = fd
    return found


def has_pad(sysname: str) -> bool:
    """Whether the kernel has `js0`, or the like, beside this evdev node."""
    return any(name.startswith("js") for name in nodes.old(sysname))


class Copy:
    """See above. numbers: see `Mirror`. owner: the OS that has the device now, or None. Raises
    OSError."""

    def __init__(
        self,
        node: str,
        oses: Mapping[str, OsNodes],
        numbers: Mapping[str, int],
        owner: str | None,
        claims: Claims,
        forwarder: Forwarder,
    ) -> None:
        self._oses = oses
        self._index = numbers
        self._claims = claims
        self._forwarder = forwarder
        self._number = -1
        self._clones: dict[str, Clone] = {}
        # read only: neither LEDs nor force feedback can be touched through it
        self._source = Source(node, nodes.where(node), os.O_RDONLY)
        try:
            for name in oses:
                self._clones[name] = cloned(self._source, claims, (EV_KEY, EV_ABS))
            evict([clone.rdev for clone in self._clones.values()])
            clones = by_number({n: c.fileno() for n, c in self._clones.items()}, numbers)
            self._number = forwarder.add(self._source.fileno(), clones)
            if owner is not None:
                forwarder.take(numbers[owner], self._number)
        except OSError:
            self.close()
            raise
        for name in oses:
            self.give(name)

    def give(self, name: str) -> None:
        """The OS has its `js0`; once more, when it was started again, or the kernel's driver."""
        self._oses[name].give_old(self._clones[name].sysname)

    def join(self, name: str) -> None:
        """See `Equipment`."""
        clone = self._clones[name] = cloned(self._source, self._claims, (EV_KEY, EV_ABS))
        evict([clone.rdev])
        self._forwarder.join(self._number, self._index[name], clone.fileno())
        self.give(name)

    def leave(self, name: str) -> None:
        """See `Equipment`."""
        clone = self._clones.pop(name, None)
        if clone is not None:
            self._forwarder.leave(self._number, self._index[name])
            let_go(clone, self._oses[name], self._claims)

    def of(self, sysname: str) -> str | None:
        """The OS whose clone this is."""
        return next((n for n, clone in self._clones.items() if clone.sysname == sysname), None)

    def fileno(self) -> int:
        """Our open file of the device."""
        return self._source.fileno()

    def close(self) -> None:
        """No OS has it any more. Twice is harmless."""
        if self._number >= 0:
            self._forwarder.remove(self._number)
            self._number = -1
        for name, clone in self._clones.items():
            let_go(clone, self._oses[name], self._claims)
        self._clones.clear()
        self._source.close()
