# SPDX-License-Identifier: Apache-2.0
"""What the kernel makes ready for any host while its daemon loads the rest of itself, in threads.

    prepare()                   what every VM is started from, and its system call filter
    beforehand = Beforehand(boots)
    beforehand.begin()          returns at once
    beforehand.loading          from then on: the data plane's programs, see Loading
    beforehand.close()          waits for the threads; lets go of what nobody has taken

The programs that bound sockets are first: systems that boot wait for them. Who needs a thing of
these and finds it missing makes it, and hears why it cannot be made.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from cext.vm import spawn
from hostsim import fence
from hostsim.errors import HostsimError
from netns import priority, sockets

if TYPE_CHECKING:
    from hostsim.routing.loading import Loading


def prepare() -> None:
    """Returns at once. All of it is made even if no host comes of it: this process alone sees it,
    and ends only after that. The kernel has us wait for the base; the filter takes the processor.
    """
    for make in (fence.base, spawn.prepare):
        threading.Thread(target=_prepare, args=(make,), name="prepare").start()


class Beforehand:
    """See the module. Its methods are for one thread; `close` twice is harmless."""

    def __init__(self, boots: bool) -> None:
        """boots: whether the host has systems that boot."""
        self._boots = boots
        self.loading: Loading | None = None
        self._held: list[Callable[[], None]] = []
        self._sockets = threading.Thread(target=self._hold_sockets, name="sockets")

    def begin(self) -> None:
        """Once."""
        self._sockets.start()
        from hostsim.routing.loading import Loading  # while the first of them are loaded

        self.loading = Loading(self._boots)
        self.loading.begin((self._sockets.join,))

    def close(self) -> None:
        """See above."""
        if self._sockets.ident is not None:
            self._sockets.join()
        if self.loading is not None:
            self.loading.close()
        while self._held:
            self._held.pop()()

    def _hold_sockets(self) -> None:
        priority.keep_up()
        with contextlib.suppress(OSError, HostsimError):
            self._held.append(sockets.hold())


def _prepare(make: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        make()
