# SPDX-License-Identifier: Apache-2.0
"""Devices at rest, and their nodes, without the interpreter. Wraps input/evnode.h."""

import os
from collections.abc import Collection

from cext import check
from cext._native import lib


def still(fd: int, keep: Collection[int] = (), keys: bool = False) -> int:
    """Release every key that is down but for those to `keep`, lift contacts, silence sounds, reset
    force feedback's gain; with `keys`, only the first of these. How many keys were released and
    contacts lifted. Raises OSError (ENODEV: unplugged)."""
    return check(lib.hs_evnode_still(fd, list(keep), len(keep), keys), "input device at rest")


def make(directory: int, name: str, rdev: int, owner: int, group: int) -> None:
    """A character node, the owner's and the group's to read and write, in place of what has the
    name. Raises OSError."""
    made = lib.hs_evnode_make(directory, os.fsencode(name), rdev, owner, group)
    check(made, f"node {name}")


def hold(directory: int, name: str, rdev: int) -> int:
    """A descriptor (O_PATH) of the character node of this number that has the name, and of nothing
    else. The caller owns it. Raises OSError."""
    return check(lib.hs_evnode_hold(directory, os.fsencode(name), rdev), f"node {name}")


def put(node: int, directory: int, name: str) -> None:
    """A node that is held appears in a directory of its file system, in place of what has the name.
    Raises OSError (FileNotFoundError: it has lost its last name)."""
    check(lib.hs_evnode_put(node, directory, os.fsencode(name)), f"node {name}")
