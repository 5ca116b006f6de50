# SPDX-License-Identifier: Apache-2.0
"""Which BPF programs and maps this kernel holds: bpf(2), BPF_{PROG,MAP}_GET_NEXT_ID."""

import errno
import os
from collections.abc import Iterator
from typing import Any

from cext import check
from cext._native import ffi, lib


def programs() -> Iterator[tuple[int, str]]:
    """Id and name of every loaded program. Raises OSError (EPERM without CAP_SYS_ADMIN)."""
    yield from _walk(lib.bpf_prog_get_next_id, lib.bpf_prog_get_fd_by_id, "struct bpf_prog_info")


def maps() -> Iterator[tuple[int, str]]:
    """Id and name of every map, as `programs`."""
    yield from _walk(lib.bpf_map_get_next_id, lib.bpf_map_get_fd_by_id, "struct bpf_map_info")


def _walk(following: Any, open_by_id: Any, info_type: str) -> Iterator[tuple[int, str]]:
    at = ffi.new("uint32_t *")
    while (result := following(at[0], at)) != -errno.ENOENT:
        check(result, "BPF: next id")
        fd = open_by_id(at[0])
        if fd == -errno.ENOENT:
            continue  # gone meanwhile
        check(fd, f"BPF: id {at[0]}")
        try:
            info = ffi.new(f"{info_type} *")
            size = ffi.new("uint32_t *", ffi.sizeof(info_type))
            check(lib.bpf_obj_get_info_by_fd(fd, info, size), f"BPF: id {at[0]}")
            yield at[0], ffi.string(info.name).decode(errors="replace")
        finally:
            os.close(fd)
