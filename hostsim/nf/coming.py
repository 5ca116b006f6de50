# SPDX-License-Identifier: Apache-2.0
"""Packet functions that join a running host, leave it, or become others: what takes long of that,
for threads. What is quick is Functions' (functions.py), in the loop.

    coming = functions.coming(vms, ...)     those of VMs that are linked, and that nobody knows yet
    coming.prepare(); coming.start(wanted)  a thread; then functions.adopt(coming), or
    coming.close()
    functions.begin(vms)                    once the policy holds: the sources

    parting = functions.part(vms)           they are nobody's neighbours any more
    left = leave(parting)                   a thread: what they have in hand goes on, and they end
    functions.gone(left)                    what they had counted stays

    changing = functions.changing(specs, ...)
    changing.load(wanted)                   a thread: processes wait that are what is wanted
    functions.change(changing)              or changing.close()
"""

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cext.switch.records import Account, Counts
from hostsim.model import Json, VmSpec
from hostsim.nf.function import LEAVE, READY, Becoming, Function, Memory

SOURCE = "source"
"""The shipped function that begins by itself."""
LOOK = 0.02
"""Seconds between two looks at whether a function has something in hand, or is loaded."""
REST = 0.5
"""Seconds for a function that leaves to have nothing in hand."""

Wanted = Callable[[], None]
"""Raises HostsimError if what is done is not wanted any more."""


@dataclass
class Coming:
    """Those who join, by number; memories: those that some of them share. See the module."""

    functions: dict[int, Function]
    memories: list[tuple[Memory, set[int]]] = field(default_factory=list)

    def prepare(self) -> None:
        """Make ports and VMs ready. Raises OSError."""
        for function in self.functions.values():
            function.prepare()

    def start(self, wanted: Wanted) -> None:
        """Have all of them run, but sources, which are loaded. Raises HostsimError, OSError."""
        for function in self.functions.values():
            function.spawn()
        for function in self.functions.values():
            _until(function.loaded, wanted)
            function.refuse_unfit()
        begun = [one for one in self.functions.values() if one.vm.spec.nf != SOURCE]
        for function in begun:
            function.begin()
        for function in begun:
            _begun(function, wanted)

    def close(self) -> None:
        """End those who are here. Twice is harmless."""
        for function in self.functions.values():
            function.close()
        self.functions.clear()
        for memory, _ in self.memories:
            memory.close()
        self.memories.clear()


class Left(NamedTuple):
    """A function that has ended, and what its port had counted. whole: it had nothing in hand."""

    function: Function
    accounts: list[Account]
    other: Counts
    whole: bool


def leave(functions: Sequence[Function]) -> list[Left]:
    """See the module. No route goes through them any more."""
    rested = {one.vm.index: False for one in functions}
    seen: dict[int, tuple[Counts, ...]] = {}
    deadline = time.monotonic() + REST
    while not all(rested.values()) and time.monotonic() < deadline:
        select.select([], [], [], LOOK)  # nothing tells when
        for one in functions:
            counted = (one.tally.other(), *(row.counts for row in one.tally.read()))
            rested[one.vm.index] = seen.get(one.vm.index) == counted
            seen[one.vm.index] = counted
    for one in functions:
        one.leave()
    found = []
    for one in functions:
        whole = one.left(LEAVE) and rested[one.vm.index]
        found.append(Left(one, list(one.tally.read()), one.tally.other(), whole))
    return found


class Change(NamedTuple):
    """What a function is to become."""

    function: Function
    spec: VmSpec
    given: Json


class Changing:
    """Functions that become others, or get other settings; folder: where they are found."""

    def __init__(self, changes: Sequence[Change], folder: Path) -> None:
        self._changes = changes
        self._folder = folder
        self.ready: dict[int, tuple[Function, Becoming]] = {}

    def load(self, wanted: Wanted) -> None:
        """Raises HostsimError, OSError: `close` then."""
        for function, spec, given in self._changes:
            new = function.becoming(str(spec.nf), self._folder, given)
            self.ready[function.vm.index] = function, new
        for _, new in self.ready.values():
            _until(new.spare.instance.loaded, wanted)
            new.spare.instance.refuse_unfit()

    def close(self) -> None:
        """Nothing changes. Twice is harmless."""
        for function, new in self.ready.values():
            function.give_up(new)
        self.ready.clear()


def _until(done: Callable[[float], bool], wanted: Wanted) -> None:
    """Wait READY seconds at most. Raises HostsimError if it is not wanted any more."""
    deadline = time.monotonic() + READY
    while not done(LOOK) and time.monotonic() < deadline:
        wanted()


def _begun(function: Function, wanted: Wanted) -> None:
    """Raises HostsimError, OSError."""
    while not function.placed(LOOK):
        wanted()
