# SPDX-License-Identifier: Apache-2.0
"""Mounts of one's own mount namespace (mount(2), umount(2))."""

import os

from cext._native import ffi, lib


def bind(source: str, target: str, flags: int = 0) -> None:
    """Bind-mount `source` onto `target`, both existing (mount(2), MS_BIND). Raises OSError."""
    _mount(source, target, lib.MS_BIND | flags)


def bind_tree(path: str) -> None:
    """Make a directory a mount point of its own, with what is mounted below it. Raises OSError."""
    _mount(path, path, lib.MS_BIND | lib.MS_REC)


def share(path: str) -> None:
    """Let mounts below the mount point reach its copies in other namespaces (mount_namespaces(7)).

    Raises OSError (EINVAL: not a mount point).
    """
    _mount("none", path, lib.MS_SHARED | lib.MS_REC)


def detach(path: str) -> None:
    """Unmount, even if it is in use (MNT_DETACH). Raises OSError (EINVAL: not mounted)."""
    if lib.umount2(os.fsencode(path), lib.MNT_DETACH) < 0:
        raise OSError(ffi.errno, f"unmount {path}: {os.strerror(ffi.errno)}")


def _mount(source: str, target: str, flags: int) -> None:
    if lib.mount(os.fsencode(source), os.fsencode(target), b"none", flags, ffi.NULL) < 0:
        raise OSError(ffi.errno, f"mount on {target}: {os.strerror(ffi.errno)}")
