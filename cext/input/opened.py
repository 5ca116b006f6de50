# SPDX-License-Identifier: Apache-2.0
"""When a file is opened by anybody (inotify(7))."""

import os
import struct

from cext._native import ffi, lib

_EVENT = struct.Struct("iIII")
_READ = 4096


class Openings:
    """Tells of the next open of each watched file, once. Owns its descriptor until `close`."""

    def __init__(self) -> None:
        self._fd: int = lib.inotify_init1(lib.IN_NONBLOCK | lib.IN_CLOEXEC)
        if self._fd < 0:
            raise OSError(ffi.errno, f"inotify: {os.strerror(ffi.errno)}")

    def fileno(self) -> int:
        """Readable when `opened` has something."""
        return self._fd

    def watch(self, file: int) -> int:
        """Tell of the next open of a file, by its number here. file: a descriptor of it (O_PATH
        will do). Raises OSError."""
        path = f"/proc/self/fd/{file}".encode()
        mask = lib.IN_OPEN | lib.IN_ONESHOT
        number: int = lib.inotify_add_watch(self._fd, path, mask)
        if number < 0:
            raise OSError(ffi.errno, f"inotify: {os.strerror(ffi.errno)}")
        return number

    def opened(self) -> list[int]:
        """The numbers of files that were opened since. Raises OSError."""
        found = []
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return []
        while len(data) >= _EVENT.size:
            number, mask, _, length = _EVENT.unpack_from(data)
            data = data[_EVENT.size + length :]
            if mask & lib.IN_OPEN:
                found.append(number)
        return found

    def close(self) -> None:
        """Watch nothing any more. Twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
