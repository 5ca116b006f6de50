# SPDX-License-Identifier: Apache-2.0
"""What the sockets of VMs held and hold no more is free again, once a VM asks for it: after half of
what it may have, or a refusal (netns/sockets.py). A VM can ask for it as often as it likes: it is
done in a thread, and then not for PAUSE seconds.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from netns import sockets

log = logging.getLogger("hostsim.settling")

PAUSE = 0.2
"""Seconds between two walks."""


class Settling:
    """Until `close`, which is harmless twice. Call it in the loop's thread.

    watch, unwatch: the loop's readers.
    thread: where walks are made; closed by its owner before this.
    """

    def __init__(
        self,
        watch: Callable[[int, Callable[[], Any]], None],
        unwatch: Callable[[int], None],
        thread: Executor,
    ) -> None:
        self._watch, self._unwatch, self._thread = watch, unwatch, thread
        self._due = sockets.Due()
        self._fd = self._due.fileno()
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._closed = False
        self._said = False  # that a walk has failed
        watch(self._fd, self._asked)

    def hear_no_more(self) -> None:
        """Nothing that is asked for from here on is done. Twice is harmless."""
        self._closed = True
        if self._later is not None:
            self._later.cancel()

    def close(self) -> None:
        """After `hear_no_more`, when `watch`'s readers are gone."""
        self.hear_no_more()
        self._due.close()

    def _asked(self) -> None:
        self._unwatch(self._fd)
        self._due.heard()
        self._thread.submit(self._walk)

    def _walk(self) -> None:
        try:
            sockets.settle()
            self._said = False
        except OSError as error:  # such as: this kernel has no such walk
            if not self._said:
                log.warning("what ended sockets of VMs had stays charged: %s", error)
            self._said = True
        except Exception:  # whatever it is: the next VM that asks is heard
            if not self._said:
                log.exception("the sums of sockets")
            self._said = True
        finally:
            self._loop.call_soon_threadsafe(self._rest)

    def _rest(self) -> None:
        if not self._closed:
            self._later = self._loop.call_later(PAUSE, self._again)

    def _again(self) -> None:
        self._watch(self._fd, self._asked)
