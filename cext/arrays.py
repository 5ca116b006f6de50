# SPDX-License-Identifier: Apache-2.0
"""Strings and arrays for C. cffi frees what it has made with its last Python reference, but C keeps
pointers from one into another; `keep` holds on to all of them until the call is over."""

import os
from collections.abc import Sequence
from typing import Any

from cext._native import ffi


def kept(keep: list[Any], value: Any) -> Any:
    """The value, which lives as long as `keep`."""
    keep.append(value)
    return value


def strings(keep: list[Any], values: Sequence[str]) -> Any:
    """A NULL-terminated array of them, as execve(2) takes it. ValueError: one holds a NUL."""
    encoded = [os.fsencode(value) for value in values]
    if any(b"\0" in value for value in encoded):
        raise ValueError("a NUL character in an argument")
    items = [kept(keep, ffi.new("char[]", value)) for value in encoded]
    return kept(keep, ffi.new("char *[]", [*items, ffi.NULL]))
