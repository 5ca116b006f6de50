# SPDX-License-Identifier: Apache-2.0
"""What holds packets back at the switch's ports until their time, for delay, jitter and rate.

The kernel's queue fq (tc-fq(8)) at each port if this kernel has it; else a line of hostsim's own
(cext/switch/line.h), one for the whole switch, which stays until the host goes: what it holds when
a link is impaired no longer still goes at its time.
"""

import contextlib
import logging
from collections.abc import Collection, Iterable

from cext.switch import line
from hostsim.errors import HostsimError, reason
from hostsim.switch import Switch
from netns import tap, tc

log = logging.getLogger("hostsim.host")

QUEUE = 10_000
"""Packets that wait for the line's thread; the kernel drops more, as FULL_RING."""
ROOM = 32 << 20
"""Bytes that the line has sent and that nobody has taken yet."""


class Holding:
    """Of one switch. `close` twice is harmless."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._ports: set[int] = set()  # that have the queue
        self._line: line.Line | None = None

    @property
    def by_line(self) -> bool:
        """Whether it is the line that holds."""
        return self._line is not None

    def hold(self, ports: Collection[int]) -> None:
        """Have packets that leave by these ports held back. Raises HostsimError, with nothing
        changed, if this kernel has nothing that does, and OSError."""
        if self._line is not None:
            return
        try:
            self._queue(set(ports) - self._ports)
        except OSError as error:
            if error.errno not in tc.NO_FQ:
                raise
            self._line = self._make_line()

    def release(self) -> None:
        """Nothing is to be held back any more."""
        self._unqueue(self._ports)

    def forget(self, port: int) -> None:
        """A port is another one now."""
        self._ports.discard(port)

    def close(self) -> None:
        """The queues go with the ports."""
        if self._line is not None:
            unsent = self._line.counted()["unsent"]
            if unsent:
                log.info("links: %d packets had a port that was gone when their time came", unsent)
            self._line.close()
            self._line = None

    def _queue(self, ports: Iterable[int]) -> None:
        made: set[int] = set()
        try:
            for port in ports:
                tc.add_fq(self._switch.rtnl, port)
                made.add(port)
        except OSError:
            self._unqueue(made)
            raise
        self._ports |= made

    def _unqueue(self, ports: set[int]) -> None:
        for port in ports:
            with contextlib.suppress(OSError):  # a VM that is gone has no port
                tc.unshape(self._switch.rtnl, port)
        self._ports -= set(ports)

    def _make_line(self) -> line.Line:
        fd = self._switch.netns_fd
        try:
            out = tap.sender(fd, line.MARK, ROOM)
            try:
                frames = tap.make(fd, Switch.line, line.INDEX, QUEUE)
            except BaseException:
                out.close()
                raise
            return line.Line(frames, out.detach())
        except OSError as error:
            raise HostsimError(
                "link",
                "this kernel has neither a queue that holds packets back (sch_fq) nor a TAP "
                f"({reason(error)}): no delay, jitter or rate of a link",
                "hostsim check shows what there is; loss, duplicate, corrupt and down work",
            ) from None
