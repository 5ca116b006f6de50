# SPDX-License-Identifier: Apache-2.0
"""A bounded table with a share for everybody: when it is full, whoever has most in it gives up his
oldest entry. So a flood from one VM costs that VM's entries, and nobody else's. Pure.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Fair(Generic[K]):
    """At most `limit` keys, each with an owner: whoever brought it first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._owners: dict[K, int] = {}
        self._keys: dict[int, OrderedDict[K, None]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, key: object) -> bool:
        return key in self._owners

    def touch(self, key: K, owner: int) -> list[K]:
        """The key is used, or new; which others had to go for it."""
        owner = self._owners.setdefault(key, owner)
        keys = self._keys.setdefault(owner, OrderedDict())
        keys[key] = None
        keys.move_to_end(key)
        gone = []
        while len(self._owners) > self._limit:
            gone.append(self.oldest())
            self.discard(gone[-1])
        return gone

    def oldest(self) -> K:
        """Who would have to go next. There must be one."""
        most = max(self._keys.values(), key=len)
        return next(iter(most))

    def discard(self, key: K) -> None:
        """Take a key out, if it is there."""
        owner = self._owners.pop(key, None)
        if owner is None:
            return
        del self._keys[owner][key]
        if not self._keys[owner]:
            del self._keys[owner]
