# SPDX-License-Identifier: Apache-2.0
"""The line that fragments wait in for their first one (cext/switch/wait.h), if a policy is there.

    Waiting(switch).begin(program_fd)   whether there is such a line from now on; program_fd: of
                                        `come_again`, not kept
    close()                             what waits then is lost
    settle()                            until the TAP is gone, which takes the kernel 15 ms: those
                                        who end a host stop its VMs meanwhile

A kernel without TAPs has none: there, a fragment before its first one is dropped at once, if some
match needs its ports. If somebody takes the TAP away, what is sent there is lost.
"""

import logging
import threading
from functools import partial

from cext.switch import line
from hostsim.errors import reason
from hostsim.routing.holding import line_of
from hostsim.switch import Switch
from netns import tap, tc

log = logging.getLogger("hostsim.host")

PROGRAM = "hostsim:come_again"
QUEUE = 1000
"""Packets that wait for the line's thread; the kernel drops more, as FULL_RING."""
ROOM = 4 << 20
"""Bytes that the line has sent and that nobody has taken yet."""


class Waiting:
    """Of one switch. Each method twice is harmless."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._line: line.Line | None = None
        self._failed = False
        self._closing: threading.Thread | None = None

    def begin(self, program_fd: int) -> bool:
        if self._line is None and not self._failed:
            try:
                self._line = self._make(program_fd)
            except OSError as error:
                self._failed = True
                log.info("no fragment waits for its first one here: %s", reason(error))
        return self._line is not None

    def close(self) -> None:
        if self._line is not None:
            held, self._line = self._line, None
            if unsent := held.counted()["unsent"]:
                log.info("%d fragments had waited, and their port was gone", unsent)
            try:
                closing = threading.Thread(target=held.close, name="hs-wait")
                closing.start()
                self._closing = closing
            except RuntimeError:  # there are too many threads
                held.close()

    def settle(self) -> None:
        if self._closing is not None:
            self._closing.join()
            self._closing = None

    def _make(self, program_fd: int) -> line.Line:
        fd = self._switch.netns_fd
        out = tap.sender(fd, line.MARK, ROOM)
        frames = partial(tap.make, fd, Switch.wait, line.WAIT, QUEUE, tap.MTU_MOST)
        made = line_of(out, frames, exact=False)
        try:
            tc.put_back(self._switch.rtnl, line.WAIT, program_fd, PROGRAM, tc.EGRESS)
        except BaseException:
            made.close()
            raise
        return made
