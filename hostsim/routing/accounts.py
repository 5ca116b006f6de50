# SPDX-License-Identifier: Apache-2.0
"""The books of a host's packet functions: what their ports counted of each flow, since when. Pure.

A port's counts grow for as long as its VM lives; the switch forgets an idle flow with its counts.
So that the two can be held against each other, `Books` keeps, for each entry, what it had when its
flow was forgotten last, and takes it off. Entries are what VMs write (cext/port/tally.h): nothing
in them is believed but as a count.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cext.switch.records import Account, Counts, Tuple

Key = tuple[int, Tuple, int]
"""VM, flow, and the VM it was taken from; 0: what the VM sent."""


@dataclass(frozen=True)
class Snapshot:
    """What the ports say now. sent: by VM and flow; got: packets taken from a ring, by the VM that
    sent them and flow; other_sent, other_got: packets without a flow, by the VM that sent them to
    the switch and by the VM that took them from a ring; died: packets that may have gone with a
    function that died, by the VM that sent them."""

    sent: Mapping[tuple[int, Tuple], Account] = field(default_factory=dict)
    got: Mapping[tuple[int, Tuple], int] = field(default_factory=dict)
    takers: Mapping[tuple[int, Tuple], frozenset[int]] = field(default_factory=dict)
    other_sent: Mapping[int, int] = field(default_factory=dict)
    other_got: Mapping[int, int] = field(default_factory=dict)
    died: Mapping[int, int] = field(default_factory=dict)


class Books:
    """What has been taken off. died: see Snapshot."""

    def __init__(self) -> None:
        self._bases: dict[Key, tuple[int, Counts]] = {}
        self.died: dict[int, int] = {}

    def snapshot(self, accounts: Iterable[Account], other: Mapping[int, Counts]) -> Snapshot:
        """other: by VM, the counts of packets without an entry."""
        sent: dict[tuple[int, Tuple], Account] = {}
        got: dict[tuple[int, Tuple], int] = {}
        takers: dict[tuple[int, Tuple], frozenset[int]] = {}
        for account in map(self._since, accounts):
            if not account.peer:
                if account.sent:
                    sent[(account.vm, account.flow)] = account
                continue
            key = account.peer, account.flow
            got[key] = got.get(key, 0) + account.ring[0]
            takers[key] = takers.get(key, frozenset()) | {account.vm}
        return Snapshot(
            sent,
            got,
            takers,
            {vm: counts[3] for vm, counts in other.items()},
            {vm: counts[1] for vm, counts in other.items()},
            dict(self.died),
        )

    def forget(self, accounts: Iterable[Account]) -> None:
        """From now on, what these have counted so far does not count."""
        for one in accounts:
            self._bases[(one.vm, one.flow, one.peer)] = one.sequence, one.counts

    def prune(self, accounts: Iterable[Account]) -> None:
        """Keep nothing about entries that are no more."""
        alive = {(one.vm, one.flow, one.peer): one.sequence for one in accounts}
        self._bases = {key: base for key, base in self._bases.items() if alive.get(key) == base[0]}

    def _since(self, account: Account) -> Account:
        sequence, base = self._bases.get((account.vm, account.flow, account.peer), (0, ()))
        return account.minus(base) if sequence == account.sequence else account
