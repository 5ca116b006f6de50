# SPDX-License-Identifier: Apache-2.0
"""What the ports of packet functions had counted that have left the host. Pure.

It is what a live port's tally says, but that nobody writes it any more: it stands for as long as
the other side of the same flows does, and is folded with that (Functions.sync). What ports counted
of no flow stays.
"""

from collections.abc import Iterable, Mapping, Sequence

from cext.switch.records import Account, Counts


class Former:
    """Of one host."""

    def __init__(self) -> None:
        self._accounts: dict[int, list[Account]] = {}
        self._other: dict[int, Counts] = {}

    def keep(self, vm: int, accounts: Sequence[Account], other: Counts) -> None:
        """A function has left that had counted this."""
        self._accounts[vm] = list(accounts)
        before = self._other.get(vm, (0,) * len(other))
        self._other[vm] = tuple(n + m for n, m in zip(before, other, strict=True))

    @property
    def accounts(self) -> list[Account]:
        """Of all of them."""
        return [one for kept in self._accounts.values() for one in kept]

    @property
    def other(self) -> Mapping[int, Counts]:
        """By VM, the counts of packets of no flow."""
        return self._other

    def folded(self, gone: Iterable[Account]) -> None:
        """These are kept elsewhere now."""
        keys = {(one.vm, one.flow, one.peer) for one in gone}
        for vm, kept in list(self._accounts.items()):
            left = [one for one in kept if (one.vm, one.flow, one.peer) not in keys]
            if left:
                self._accounts[vm] = left
            else:
                del self._accounts[vm]
