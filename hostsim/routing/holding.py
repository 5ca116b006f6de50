# SPDX-License-Identifier: Apache-2.0
"""What holds packets back at the switch's ports until their time, for delay, jitter and rate.

The kernel's queue fq (tc-fq(8)) at each port if this kernel has it; else a line of hostsim's own
(cext/switch/line.h), one for the whole switch, which stays until the host goes: what it holds when
a link is impaired no longer still goes at its time. A line that somebody has taken the TAP from
still sends what it holds, beside the next one.
"""

import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from cext.switch import line
from hostsim.errors import HostsimError, reason
from hostsim.switch import Switch
from netns import tap, tc
from netns.links import Rtnl

log = logging.getLogger("hostsim.host")

QUEUE = 10_000
"""Packets that wait for the line's thread; the kernel drops more, as FULL_RING."""
ROOM = 32 << 20
"""Bytes that the line has sent and that nobody has taken yet."""


class Keeps(Protocol):
    """Keeps programs and queues at ports, and the line (watch.py)."""

    def expect(self, port: int, parent: int, of: str, name: str, program_fd: int) -> None: ...
    def queue(self, port: int, of: str, kind: str, put: Callable[[Rtnl], None]) -> None: ...
    def line(self, put: Callable[[], None]) -> None: ...
    def forget(self, port: int, parent: int) -> None: ...


def line_of(out: socket.socket, frames: Callable[[], int], exact: bool = True) -> line.Line:
    """A line that sends by `out`, which becomes the line's; frames: makes its TAP. Raises
    OSError."""
    try:
        made = frames()
    except BaseException:
        out.close()
        raise
    return line.Line(made, out.detach(), exact)


class Holding:
    """Of one switch. `close` twice is harmless."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._ports: set[int] = set()  # that have the queue
        self._lines: list[line.Line] = []  # the last one has the TAP
        self._guard: Keeps | None = None

    def guarded_by(self, guard: Keeps) -> None:
        """Before anything is held back: `guard` keeps what does."""
        self._guard = guard

    @property
    def by_line(self) -> bool:
        """Whether it is the line that holds."""
        return bool(self._lines)

    def hold(self, ports: Mapping[int, str]) -> None:
        """Have packets that leave by these ports held back; and whose they are. Raises
        HostsimError, with nothing changed, if this kernel has nothing that does, and OSError."""
        if self._lines:
            return
        try:
            self._queue({port: of for port, of in ports.items() if port not in self._ports})
        except OSError as error:
            if error.errno not in tc.NO_FQ:
                raise
            self._lines.append(self._make_line())
            self._keeper().line(self._remake)

    def release(self) -> None:
        """Nothing is to be held back any more."""
        self._unqueue(self._ports)

    def forget(self, port: int) -> None:
        """A port is another one now."""
        self._ports.discard(port)

    def close(self) -> None:
        """The queues go with the ports."""
        if self._guard is not None:
            self._guard.forget(line.INDEX, tc.ROOT)
        unsent = sum(one.counted()["unsent"] for one in self._lines)
        if unsent:
            log.info("links: %d packets had a port that was gone when their time came", unsent)
        while self._lines:
            self._lines.pop().close()

    def _keeper(self) -> Keeps:
        assert self._guard is not None
        return self._guard

    def _queue(self, ports: Mapping[int, str]) -> None:
        made: set[int] = set()
        try:
            for port in ports:
                tc.add_fq(self._switch.rtnl, port)
                made.add(port)
        except OSError:
            self._unqueue(made)
            raise
        self._ports |= made
        for port, of in ports.items():
            self._keeper().queue(port, of, "fq", partial(tc.add_fq, index=port))

    def _unqueue(self, ports: Iterable[int]) -> None:
        for port in ports:
            self._keeper().forget(port, tc.ROOT)
            with contextlib.suppress(OSError):  # a VM that is gone has no port
                tc.unshape(self._switch.rtnl, port)
        self._ports -= set(ports)

    def _remake(self) -> None:
        """Somebody has deleted the TAP. In the guard's thread, and only while it has the line to
        keep. Raises OSError."""
        try:
            made = self._make_line()
        except HostsimError as error:
            raise OSError(errno.EAGAIN, error.why) from None
        formers = list(self._lines)
        self._lines.append(made)
        for former in formers:
            counted = former.counted()
            if counted["held"] == counted["sent"] + counted["unsent"]:
                self._lines.remove(former)
                former.close()

    def _make_line(self) -> line.Line:
        try:
            out = tap.sender(self._switch.netns_fd, line.MARK, ROOM)
            frames = partial(tap.make, self._switch.netns_fd, Switch.line, line.INDEX, QUEUE)
            return line_of(out, frames)
        except OSError as error:
            raise HostsimError(
                "link",
                "this kernel has neither a queue that holds packets back (sch_fq) nor a TAP "
                f"({reason(error)}): no delay, jitter or rate of a link",
                "hostsim check shows what there is; loss, duplicate, corrupt and down work",
            ) from None
