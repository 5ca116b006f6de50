# SPDX-License-Identifier: Apache-2.0
"""Which flows somebody asks for. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cext.switch.records import Tuple
from hostsim.keys import key_text
from hostsim.model import Json


@dataclass(frozen=True)
class Only:
    """match: a part of the key, or a pattern of it with `*`, `?` or `[...]` (fnmatch); empty:
    every. limit: so many at most; None: all."""

    match: str = ""
    limit: int | None = None

    def wants(self, key: str) -> bool:
        """Whether the key, as text, is one of them."""
        if not self.match:
            return True
        return self.match in key or fnmatchcase(key, self.match)

    def of(self, keys: Iterable[Tuple]) -> set[Tuple] | None:
        """Those that are asked for, the first ones if there are too many; None: every."""
        if not self.match and self.limit is None:
            return None
        found: set[Tuple] = set()
        for key in keys:
            if self.limit is not None and len(found) >= self.limit:
                break
            if key not in found and self.wants(key_text(key)):
                found.add(key)
        return found

    def rows(self, rows: Iterable[Json]) -> list[Json]:
        """The same of rows that have a `key`."""
        found: list[Json] = []
        for row in rows:
            if self.limit is not None and len(found) >= self.limit:
                break
            if self.wants(row["key"]):
                found.append(row)
        return found


EVERY = Only()
