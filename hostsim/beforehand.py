# SPDX-License-Identifier: Apache-2.0
"""What the kernel makes ready for any host while its daemon loads the rest of itself, in threads.

    make_base()                 what every VM is started from; the kernel has us wait for it
    beforehand = Beforehand()
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

from hostsim import fence
from hostsim.errors import HostsimError
from netns import priority, sockets

if TYPE_CHECKING:
    from hostsim.routing.loading import Loading


def make_base() -> None:
    """Returns at once. It is made even if no host comes of it: it is seen by this process alone,
    which ends only after it."""
    threading.Thread(target=_make_base, name="base").start()


class Beforehand:
    """See the module. Its methods are for one thread; `close` twice is harmless."""

    def __init__(self) -> None:
        self.loading: Loading | None = None
        self._held: list[Callable[[], None]] = []
        self._sockets = threading.Thread(target=self._hold_sockets, name="sockets")

    def begin(self) -> None:
        """Once."""
        self._sockets.start()
        from hostsim.routing.loading import Loading  # while the first of them are loaded

        self.loading = Loading()
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


def _make_base() -> None:
    with contextlib.suppress(OSError):
        fence.base()
