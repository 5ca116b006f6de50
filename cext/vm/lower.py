# SPDX-License-Identifier: Apache-2.0
"""What a VM's own root is made of: mounts that are attached nowhere yet. Wraps vm/lower.h.

Functions raise OSError. Those that open something return a descriptor, the caller's.
"""

import os

from cext import check
from cext._native import lib


def directory(path: str, read_only: bool = False) -> int:
    """A directory of the machine, without what is mounted below it."""
    tree = check(lib.hs_lower_directory(os.fsencode(path)), path)
    if read_only:
        try:
            check(lib.hs_lower_read_only(tree), path)
        except OSError:
            os.close(tree)
            raise
    return tree


def image(path: str, kind: str) -> int:
    """An image of a file system, read-only. kind: the file system's name, as in
    /proc/filesystems."""
    return check(lib.hs_lower_image(os.fsencode(path), kind.encode()), path)


def again(fd: int, what: str) -> int:
    """The file or directory behind a descriptor, in a mount of its own."""
    return check(lib.hs_lower_again(fd), what)


def map_owners(tree: int, user_fd: int) -> None:
    """Show the mount's files as those of a user namespace (see hs_lower_map)."""
    check(lib.hs_lower_map(tree, user_fd), "idmapped mount")
