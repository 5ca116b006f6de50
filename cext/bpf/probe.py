# SPDX-License-Identifier: Apache-2.0
"""Kernel calls that nothing but a probe makes by itself: what `hostsim check` tries out."""

import os

from cext import check
from cext._native import ffi, lib


def ring_buffer() -> None:
    """Make a BPF ring buffer, and let go of it. Raises OSError."""
    os.close(check(lib.bpf_map_create(lib.BPF_MAP_TYPE_RINGBUF, b"", 0, 0, 4096, ffi.NULL), "map"))


def descriptor_of(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): our own descriptor of what is `fd` in that process. Raises OSError."""
    number, zero = ffi.cast("int", pidfd), ffi.cast("int", 0)
    found: int = lib.syscall(lib.SYS_pidfd_getfd, number, ffi.cast("int", fd), zero)
    if found < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    return found
