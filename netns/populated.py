# SPDX-License-Identifier: Apache-2.0
"""When the last process of a cgroup v2 group has left it (cgroup.events, `populated`).

A process leaves its group while it exits, before anybody has reaped it: the end of all of them is
told here before process 1's pidfd tells of its own, which has to wait until all others are reaped.
"""

import errno
import os
import select


class Populated:
    """Watches one group, and all below it. Owns its descriptors until `close`."""

    def __init__(self, group: int) -> None:
        """group: a descriptor of its directory, which stays the caller's. Raises OSError."""
        self._events = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=group)
        # A change of such a file is POLLPRI alone; of an epoll instance that waits for it, POLLIN.
        self._epoll = select.epoll()
        self._epoll.register(self._events, select.EPOLLPRI)

    def fileno(self) -> int:
        """Readable when the answer of `ask` may have changed, until it is asked."""
        return self._epoll.fileno()

    def ask(self) -> bool:
        """Whether a process is in it; one that is gone has none. Raises OSError."""
        try:
            text = os.pread(self._events, 4096, 0)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
        self._epoll.poll(0)
        return b"populated 0" not in text.split(b"\n")

    def close(self) -> None:
        """Twice is harmless."""
        if self._events >= 0:
            self._epoll.close()
            os.close(self._events)
            self._events = -1
