# SPDX-License-Identifier: Apache-2.0
"""The names that contents told, by number, and the rows of policies that each matches: the map
`names`, by which the kernel decides when a later policy judges a connection again.

The map holds what is true and nothing else: a region's entries go before another policy is written
into it, and a name's with the name. Names are kept fairly (fair.py): whoever makes connections ask
for ever new ones pushes out his own.
"""

import errno
from collections.abc import Callable
from typing import Protocol

from cext.switch import maps, records
from cext.switch.records import Lists
from hostsim.routing.fair import Fair

NAMES_MAX = 10000
Name = tuple[str, str]
"""Kind and name."""


class Table(Protocol):
    """The map `names`."""

    def set(self, key: bytes, value: bytes) -> None:
        """Raises OSError (E2BIG: it is full)."""

    def delete(self, key: bytes) -> object:
        """A key that is not there is no error."""


class NameTable:
    """See the module. table: the map, when it is there."""

    def __init__(self, table: Callable[[], Table], limit: int = NAMES_MAX) -> None:
        self._table = table
        self._names: Fair[Name] = Fair(limit)
        self._numbers: dict[Name, int] = {}
        self._by_number: dict[int, Name] = {}
        self._written: dict[Name, set[bytes]] = {}
        self._next = 1
        self._region = 0
        self._rows: dict[Name, list[int]] = {}  # of the policy in force, by kind and pattern

    def policy(self, lists: Lists, region: int) -> None:
        """A policy is about to be named: match every name that is known against its rows first.
        Raises OSError, with what is true of the policy before left as it is."""
        before = self._region, self._rows
        self._region, self._rows = region, _by_pattern(lists)
        try:
            self._clear(region)
            for name in reversed(list(self._numbers)):  # the old ones make room for the new
                if name in self._numbers and not self._write(name):
                    self._names.discard(name)
                    self._forget(name)
        except BaseException:
            self._region, self._rows = before
            raise

    def number(self, name: Name, teller: int) -> int:
        """The number of a name that contents told, new or known. teller: the VM whose connection
        it was. Raises OSError."""
        for one in self._names.touch(name, teller):
            self._forget(one)
        if name not in self._numbers:
            number, self._next = self._next, self._next % 0x7FFFFFFF + 1
            self._numbers[name], self._by_number[number] = number, name
            if not self._write(name):
                raise OSError(errno.E2BIG, "a name matches more rows than there is room for")
        return self._numbers[name]

    def name_of(self, number: int) -> Name | None:
        """Kind and name by number."""
        return self._by_number.get(number)

    def _write(self, name: Name) -> bool:
        """The rows that a name matches; older names make room for it. False: there is none. Raises
        OSError."""
        number = maps.pack_u32(self._numbers[name])
        for row in self._matching(name):
            key = number + maps.pack_u32(self._region * records.ROWS_MAX + row)
            while not self._put(key):
                victim = self._names.oldest()
                if victim == name:
                    return False
                self._names.discard(victim)
                self._forget(victim)
            self._written.setdefault(name, set()).add(key)
        return True

    def _put(self, key: bytes) -> bool:
        try:
            self._table().set(key, b"\1")
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            return False
        return True

    def _matching(self, name: Name) -> list[int]:
        """The rows whose patterns hold it: by itself, and by `*.` and each of its ends."""
        kind, text = name
        found = set(self._rows.get(name, ()))
        for at, letter in enumerate(text):
            if letter == "." and at:
                found.update(self._rows.get((kind, f"*{text[at:]}"), ()))
        return sorted(found)

    def _forget(self, name: Name) -> None:
        for key in self._written.pop(name, ()):
            self._table().delete(key)
        del self._by_number[self._numbers.pop(name)]

    def _clear(self, region: int) -> None:
        """Nothing is true of a region's rows any more."""
        low = region * records.ROWS_MAX
        rows = {maps.pack_u32(low + row) for row in range(records.ROWS_MAX)}
        for keys in self._written.values():
            for key in [one for one in keys if one[4:] in rows]:
                self._table().delete(key)
                keys.discard(key)


def _by_pattern(lists: Lists) -> dict[Name, list[int]]:
    found: dict[Name, list[int]] = {}
    for at, row in enumerate(lists.routes):
        kind, patterns = row.content or ("", ())
        for pattern in patterns:
            found.setdefault((kind, pattern), []).append(at)
    return found
