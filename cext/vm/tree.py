# SPDX-License-Identifier: Apache-2.0
"""Opening files in a VM's tree. Wraps vm/tree.h."""

import os

from cext import check
from cext._native import lib


def open_beneath(
    directory: int, path: str, flags: int, mode: int = 0, *, across: bool = False
) -> int:
    """A descriptor of `path` below `directory`, the caller's to close; through no link, and never
    waited for. across: mounts below the directory may be entered. Raises OSError (ELOOP: a link;
    EXDEV: a mount, or a way out)."""
    how = lib.HS_TREE_ACROSS if across else 0
    fd = lib.hs_tree_open(directory, os.fsencode(path), flags, mode, how)
    return check(fd, f"{path} in a VM")
