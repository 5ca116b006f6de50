# SPDX-License-Identifier: Apache-2.0
"""One table of a host file, while it is being checked. Pure.

Hands out its values, each with its check, then refuses the rest: an unknown key is an error.
"""

import re
from typing import Any, NoReturn, TypeGuard, get_args

from hostsim.errors import HostFileError
from hostsim.model import RESERVED_NAMES

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_LINK = re.compile(r"[^\s/:\x00-\x1f]+")
_DIRECT = re.compile(r"hsd[0-9]+(-[0-9]+)?")
"""Names of direct links (hostsim/routing/bypass.py)."""
LINK_MAX = 15
"""Bytes of an interface's name (IFNAMSIZ less one)."""
NAME_SHOWN = 60
"""Characters of a name that nothing has, in a message."""
WHY_MAX = 300
"""Characters of a reason; a longer one is cut."""
INT_BITS = 64
"""What a TOML integer has."""


def is_number(value: object) -> TypeGuard[int]:
    """Whether it is a whole number: a bool is none, nor is 6.0."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_reserved(link: str) -> bool:
    """Whether hostsim gives interfaces of VMs or of the switch such a name."""
    return link in ("lo", "br0", "hs-line", "hs-wait") or _DIRECT.fullmatch(link) is not None


def is_link(name: object) -> bool:
    """Whether the kernel allows an interface such a name (dev_valid_name)."""
    return (
        isinstance(name, str)
        and _LINK.fullmatch(name) is not None
        and len(name.encode()) <= LINK_MAX
        and name not in (".", "..")
    )


def unusable(data: object) -> str | None:
    """Why no key could have one of the values in `data`, whichever it is; None: there is none."""
    left = [data]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and "\0" in value:
            return f"a string has the character U+0000: {value[:40]!r}"
        elif is_number(value) and not -(1 << INT_BITS - 1) <= value < 1 << INT_BITS - 1:
            return f"a number has more than {INT_BITS} bits"
    return None


class Table:
    """One table of the file: hands out its values, each with its check, then refuses the rest."""

    def __init__(self, file: str, line: int, title: str, data: dict[str, Any]) -> None:
        self._place = f"{file}:{line}" if line else file
        self._title = title
        self._data = data
        self._asked: list[str] = []

    def fail(self, why: str, hint: str = "") -> NoReturn:
        """Raise HostFileError."""
        if len(why) > WHY_MAX:
            why = f"{why[:WHY_MAX]}…"
        raise HostFileError(f"{self._place}: {self._title}", why, hint)

    def rename(self, title: str) -> None:
        self._title = title

    def has(self, key: str) -> bool:
        """Whether the file gives it."""
        return key in self._data

    def take(self, key: str, kind: type | tuple[type, ...], allowed: str) -> Any:
        """The value, or None if the key is missing. A bool is not a number here."""
        self._asked.append(key)
        value = self._data.get(key)
        if value is None:
            return None
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.fail(f"{key} = {value!r} is not allowed", f"{key} is {allowed}")
        return value

    def choice(self, key: str, literal: Any, default: str) -> Any:
        options = get_args(literal)
        value = self.take(key, str, f"one of {', '.join(options)}")
        if value is None:
            return default
        if value not in options:
            self.fail(f"{key} = {value!r} is not allowed", f"{key} is one of {', '.join(options)}")
        return value

    def name(self, longest: int) -> str:
        value = self.take("name", str, "a string")
        if value is None:
            self.fail("name is missing")
        if len(value) > longest:
            self.fail(
                f"name {value!r} is too long",
                f"it becomes an interface's or namespace's name, at most {longest} characters",
            )
        if not _NAME.fullmatch(value):
            self.fail(
                f"name {value!r} is not allowed",
                "a name is lower-case letters, digits and '-', and starts with a letter",
            )
        if value in RESERVED_NAMES or is_reserved(value):
            self.fail(f"name {value!r} is taken by hostsim itself", "choose another")
        return str(value)

    def done(self) -> None:
        unknown = [key for key in self._data if key not in self._asked]
        if unknown:
            self.fail(
                f"unknown key {unknown[0]!r}", f"allowed: {', '.join(sorted(set(self._asked)))}"
            )
