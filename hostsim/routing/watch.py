# SPDX-License-Identifier: Apache-2.0
"""A thread that makes the direct links, and watches what VMs do to their own network.

Both take as long as the kernel's locks and a VM's own interfaces make them take, and so the
daemon's loop has no part in it. It says what is wanted (`add`, `remove`, `want`), and is told of
what has changed (`fileno`, `take`). A VM is looked at when its namespace has news of links,
queueing disciplines or filters, and once in PAUSE at most; how it stands then is settled by
holddown.py.

What somebody takes off the switch's ports is put back in the same thread (guard.py).

A direct link that a VM's user 0 has deleted is made again after the hold; one that they have taken
down is theirs to take up.
"""

import contextlib
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

from cext.bpf import objects
from cext.bpf.objects import Map
from cext.switch import records
from hostsim.routing.bypass import DirectLinks, End
from hostsim.routing.guard import Guard, TakenOff
from hostsim.routing.holddown import Holddown, Made, unlike
from netns import interfaces, priority, tc
from netns.interfaces import Interfaces, LinkMonitor
from netns.links import Rtnl

log = logging.getLogger("hostsim.watch")

TURN = 16
"""VMs that the loop is told of at a time."""
PAUSE = 0.05
"""Seconds between two looks at a VM."""
TRANSFER = "hostsim:transfer_out"
"""The name of the transfer component's filter, if it is one."""


class Standing(NamedTuple):
    """How a VM's network stands. why: what is unlike what hostsim made, and takes its hops to the
    switch; empty: nothing. mac: eth0's address now."""

    why: str
    mac: str


@dataclass
class _Watched:
    """A VM. due: when it is to be looked at, if it is; looked: when it was; again: when its missing
    links are to be made."""

    end: End
    monitor: LinkMonitor
    own: Interfaces
    standing: Standing
    held: Holddown = field(default_factory=Holddown)
    due: float | None = 0.0
    looked: float = 0.0
    again: float | None = None
    complete: bool = False  # a function's XDP program has been there

    def close(self) -> None:
        self.monitor.close()
        self.own.close()
        os.close(self.end.netns_fd)


class Watch:
    """See the module. Its methods are for one thread, the loop's. netns_fd: the switch's namespace,
    not kept."""

    def __init__(self, netns_fd: int, program_fd: int, pairs: Map) -> None:
        self._netns_fd = os.dup(netns_fd)
        self._ends: dict[int, End] = {}
        self._guard = Guard(self._netns_fd)
        self._links = DirectLinks(self._ends, self._netns_fd, program_fd, pairs, self._guard)
        self._ports = Interfaces(self._netns_fd)
        self._watched: dict[int, _Watched] = {}
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self._wake, self._told = os.eventfd(0, flags), os.eventfd(0, flags)
        self._lock = threading.Lock()
        self._news: dict[int, Standing] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(self._guard, selectors.EVENT_READ)
        self._ending = False
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="watch", daemon=True
        )  # if `close` is not reached, the process ends all the same
        self._thread.start()

    # -- the loop's side --------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when `take` has something."""
        return self._told

    def take(self, most: int = TURN) -> Mapping[int, Standing]:
        """How those VMs stand now of which that has changed, by number; so many at a time. If there
        are more, `fileno` stays readable."""
        with self._lock:
            news = {index: self._news.pop(index) for index in list(self._news)[:most]}
            if not self._news:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._told)
        return news

    def add(self, end: End) -> None:
        """Watch a VM, and make direct links for it. end.netns_fd is not kept."""
        mine = end._replace(netns_fd=os.dup(end.netns_fd))
        self._do(partial(self._begin, mine))

    def remove(self, index: int) -> None:
        """A VM is gone, and its links with it. No hop gets one of them from now on."""
        for pair in self._links.made:
            if index in pair:
                self._links.forbid(*pair)
        self._do(partial(self._end, index))

    def want(self, a: int, b: int) -> None:
        """Make the direct links between two VMs."""
        self._do(partial(self._want, a, b))

    def expect(self, port: int, parent: int, of: str, name: str, program_fd: int) -> None:
        """A program has been put at the switch's port of that VM: have it put back if somebody
        takes it off. program_fd is not kept."""
        self._guard.expect(port, parent, of, name, program_fd)
        os.eventfd_write(self._wake, 1)

    def queue(self, port: int, of: str, kind: str, put: Callable[[Rtnl], None]) -> None:
        """A queue has been put at the switch's port of that VM: have it put back likewise."""
        self._guard.queue(port, of, kind, put)
        os.eventfd_write(self._wake, 1)

    def line(self, put: Callable[[], None]) -> None:
        """The line has been made: have it made again, in another thread, if somebody takes it
        away."""
        self._guard.line(put)
        os.eventfd_write(self._wake, 1)

    def forget(self, port: int, parent: int) -> None:
        """What is there is going to be taken off, or the port."""
        self._guard.forget(port, parent)

    @property
    def taken_off(self) -> Sequence[TakenOff]:
        """What somebody has taken off the switch's ports; see guard.py."""
        return self._guard.taken_off

    @property
    def made(self) -> frozenset[frozenset[int]]:
        """The pairs that have direct links."""
        return self._links.made

    def settle(self, seconds: float) -> bool:
        """Wait until all that was asked for is done. Whether it is."""
        done = threading.Event()
        self._do(done.set)
        return done.wait(seconds)

    def close(self) -> None:
        """End the thread: the job in hand is its last. Twice is harmless."""
        if self._thread is None:
            return
        self._ending = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._thread = None
        for watched in self._watched.values():
            watched.close()
        self._selector.close()
        self._guard.close()
        self._links.close()
        self._ports.close()
        for fd in (self._wake, self._told, self._netns_fd):
            os.close(fd)

    def _do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        os.eventfd_write(self._wake, 1)

    # -- the thread's side ------------------------------------------------------------------------

    def _run(self) -> None:
        priority.keep_up()
        while True:
            times = [one.due for one in self._watched.values() if one.due is not None]
            if (look := self._guard.due) is not None:
                times.append(look)
            limit = max(0.0, min(times) - time.monotonic()) if times else None
            for key, _ in self._selector.select(limit):
                if key.fd == self._wake:
                    os.eventfd_read(self._wake)
                elif key.fileobj is self._guard:
                    self._guard.hear()
                else:
                    self._heard(key.data)
            if self._ending:
                return
            while not self._jobs.empty():
                if self._ending:
                    return
                self._try(self._jobs.get())
            now = time.monotonic()
            if (look := self._guard.due) is not None and look <= now:
                self._try(partial(self._guard.look, now))
            for watched in list(self._watched.values()):
                if watched.due is not None and watched.due <= now:
                    self._try(partial(self._look, watched, now))

    @staticmethod
    def _try(job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:  # whatever it is, other VMs still need the thread
            log.exception("a VM's network")

    def _want(self, a: int, b: int) -> None:
        self._links.want(a, b)
        for index in (a, b):
            if index in self._watched:
                self._watched[index].due = 0.0

    def _begin(self, end: End) -> None:
        self._end(end.number)
        made = _Watched(
            end, LinkMonitor(end.netns_fd, tc=True), Interfaces(end.netns_fd), Standing("", end.mac)
        )
        self._ends[end.number] = end
        self._watched[end.number] = made
        self._selector.register(made.monitor, selectors.EVENT_READ, made)
        self._tell(made)

    def _end(self, index: int) -> None:
        self._links.gone(index)
        self._ends.pop(index, None)
        watched = self._watched.pop(index, None)
        if watched is not None:
            self._selector.unregister(watched.monitor)
            watched.close()

    def _heard(self, watched: _Watched) -> None:
        watched.monitor.changes()
        soon = watched.looked + PAUSE
        watched.due = soon if watched.due is None else min(watched.due, soon)

    def _look(self, watched: _Watched, now: float) -> None:
        end, own = watched.end, watched.own
        watched.looked, watched.due = now, None
        eth0 = own.get(records.ETH0 + end.number)
        port = self._ports.get(records.IFINDEX + end.number)
        if eth0 is None or port is None:
            return  # unplugged: the switch sees its port
        found = interfaces.filters(end.netns_fd, eth0.number, tc.EGRESS)
        direct = self._links.of(end.number)
        ends = {number: own.get(number) for number, _ in direct}
        up = frozenset(number for number, one in ends.items() if one is not None and one.up)
        transfer = () if objects.has_tcx() else (TRANSFER,)
        why = unlike(Made(end.mac, port.mtu, end.function, transfer, direct), eth0, found, up)
        watched.complete = watched.complete or not why
        if end.function and not watched.complete:
            return  # its program comes with its function
        watched.held.saw(why, now)
        missing = [number for number, one in ends.items() if one is None]
        if missing and watched.again is None:
            watched.again = now + watched.held.hold
        elif missing and watched.again is not None and watched.again <= now:
            watched.again = None
            for number in missing:
                self._links.again(end.number, number)
            watched.due = now + PAUSE
        elif not missing:
            watched.again = None
        times = [one for one in (watched.due, watched.held.due, watched.again) if one is not None]
        watched.due = min(times) if times else None
        standing = Standing(watched.held.why, eth0.mac)
        if standing != watched.standing:
            watched.standing = standing
            self._tell(watched)

    def _tell(self, watched: _Watched) -> None:
        with self._lock:
            self._news[watched.end.number] = watched.standing
            os.eventfd_write(self._told, 1)
