# SPDX-License-Identifier: Apache-2.0
"""BPF programs at the cgroups of VMs: loaded once for all VMs of the process.

shared = Loaded(load)
shared.take()            what `load` returns, loaded for the first
shared.give_back()       the last one closes it
no_cgroup_bpf(what, e)   the error if the kernel lets nobody load or attach one
"""

import errno
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from netns.errors import HostsimError


class Closes(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closes)


class Loaded(Generic[T]):
    """Any thread may call it. lock: what holds it knows that `now` does not come or go."""

    def __init__(self, load: Callable[[], T]) -> None:
        self.lock = threading.Lock()
        self.now: T | None = None
        self._load = load
        self._users = 0

    def take(self) -> T:
        """One user more. Raises what `load` raises, and then it is none."""
        with self.lock:
            if self.now is None:
                self.now = self._load()
            self._users += 1
            return self.now

    def give_back(self) -> None:
        """One user less."""
        with self.lock:
            self._users -= 1
            if self._users == 0 and self.now is not None:
                self.now.close()
                self.now = None


def no_cgroup_bpf(what: str, error: OSError) -> HostsimError:
    """what: the program."""
    hint = "the kernel needs CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF"
    if error.errno == errno.EPERM:
        hint = "root with CAP_BPF and CAP_NET_ADMIN is needed, and no kernel lockdown"
    return HostsimError(what, error.strerror or str(error), hint)
