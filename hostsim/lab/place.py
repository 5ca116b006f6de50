# SPDX-License-Identifier: Apache-2.0
"""Where a VM is, for this process: its process 1 and its network namespace, while that lives.

The daemon says which process it is; the two descriptors are ours from then on, so a VM that has
died, or was started again, is never mistaken for another one.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from typing import Any

from cext.ns import netns
from hostsim.cli.target import opened
from netns import process


class Place:
    """Owns a pidfd and a network namespace's descriptor. Any thread may use it."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        """told: what the daemon says of the VM, see `hostsim.cli.target.opened`. Raises OSError."""
        self.pid = int(told["pid"])
        self._pidfd = self._netns = -1
        with opened(told) as target:
            self._pidfd = os.dup(target.pidfd)
            try:
                path = f"/proc/{self.pid}/ns/net"
                self._netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except BaseException:
                self.close()
                raise
        if not self.alive:  # then the number may be another process's
            self.close()
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    @property
    def alive(self) -> bool:
        """Whether the VM's process 1 runs."""
        return self._pidfd >= 0 and not process.wait_end(self._pidfd, 0)

    @property
    def fd(self) -> int:
        """The network namespace."""
        return self._netns

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in the VM's network namespace: see `cext.ns.netns.inside`."""
        with netns.inside(self._netns):
            yield

    def close(self) -> None:
        """Let go of it. Twice is harmless."""
        for fd in (self._pidfd, self._netns):
            if fd >= 0:
                os.close(fd)
        self._pidfd = self._netns = -1
