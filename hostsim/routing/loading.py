# SPDX-License-Identifier: Apache-2.0
"""The classifier and the program at the kernel's drops, as they are loaded: beforehand in a thread,
or when somebody needs them.

    loading = Loading(boots)
    loading.begin(jobs)     returns at once: a thread does these jobs, and then loads
    loading.load()          returns once all is loaded, by that thread or by this one
    loading.close()         waits for the thread; drops what was loaded

The kernel's verifier, and the memory of its tables, take as long as a daemon takes to load half of
itself. The data plane owns the two programs from `load` on; its `close` and this one may both run.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable

from hostsim.errors import HostsimError
from hostsim.routing.kerneldrops import KernelDrops
from hostsim.routing.loaded import Loaded
from netns import priority

Job = Callable[[], object]


class Loading:
    """See the module. `begin` and `close` are for one thread; `close` twice is harmless."""

    def __init__(self, boots: bool = False) -> None:
        """boots: whether systems boot meanwhile."""
        self.classifier = Loaded(boots)
        self.drops = KernelDrops()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def begin(self, jobs: Iterable[Job] = ()) -> None:
        """Once, before `load`. jobs: what the kernel is to make ready before that. One that raises
        OSError or HostsimError is left to whoever needs what it makes, and meets the error then."""
        thread = threading.Thread(target=self._run, args=(tuple(jobs),), name="loading")
        thread.start()
        self._thread = thread  # one that cannot be started is not waited for

    def load(self) -> None:
        """Once, and not after `close`. Blocks. Raises OSError."""
        if self._thread is None:
            self._load()
            return
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """See above."""
        if self._thread is not None:
            self._thread.join()
        self.drops.close()
        self.classifier.close()

    def _run(self, jobs: tuple[Job, ...]) -> None:
        try:
            priority.keep_up()
            for job in jobs:
                with contextlib.suppress(OSError, HostsimError):
                    job()
            self._load()
        except BaseException as error:  # `load` raises it
            self._failure = error

    def _load(self) -> None:
        self.classifier.load()
        self.drops.load()
