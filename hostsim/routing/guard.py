# SPDX-License-Identifier: Apache-2.0
"""What somebody has taken off the switch's ports by hand is put back, and that is said.

    Guard(netns_fd)       of the switch's namespace; the descriptor stays the caller's
    expect(port, ...)     from now on this program has to be at that port
    queue(port, ...)      from now on this queue has to
    line(...)             from now on the interface that holds packets back has to be there
    forget(port, parent)  from now on none has to
    fileno(), hear()      the kernel has news of filters and queues (rtnetlink(7), RTNLGRP_TC), and
                          of that interface
    due, look(now)        look at the ports that it has news of, and put back what is missing
    taken_off             what has been, for `status`

What came in by a port without its classifier has passed no route and no filter; what went out
without its queue did not wait. The machine's root alone can do that, and no other part of hostsim
would see it. One thread hears and looks, that of watch.py; any may say what is expected. Where the
kernel has tcx, what hangs there makes no news, and is not looked at.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from cext.switch import line
from hostsim.model import Json
from hostsim.switch import Switch
from netns import interfaces, tc
from netns.interfaces import FilterMonitor, Interfaces
from netns.links import Rtnl

log = logging.getLogger("hostsim.guard")

PAUSE = 0.05
"""Seconds between two looks."""
LOOKS = 2
"""At a port, after news of it: the kernel may tell of a removal before it is done."""
AGAIN = 1.0
"""Seconds until the next look after one that failed."""
SIDES = {tc.INGRESS: "in", tc.EGRESS: "out", tc.ROOT: "out"}
WITHOUT = {
    tc.INGRESS: "what came in meanwhile was not judged",
    tc.EGRESS: "what went out meanwhile was not impaired",
    tc.ROOT: "what went out meanwhile did not wait",
}
"""By side of a port, what has happened without what belongs there."""
WITHOUT_LINE = "what was to wait meanwhile was lost"


class Place(NamedTuple):
    """One side of a port: INGRESS, EGRESS, or ROOT for its queue. The line is a port here."""

    port: int
    parent: int

    @property
    def line(self) -> bool:
        return self.port == line.INDEX


class Expected(NamedTuple):
    """of: whose port, for the log. there: whether it is; put: put it back; close: it is expected no
    more. The first two raise OSError: ENODEV if its port has gone."""

    of: str
    name: str
    there: Callable[[], bool]
    put: Callable[[], None]
    close: Callable[[], None]


class TakenOff(NamedTuple):
    """A program or queue that was taken off its port, or the line, so many times. there: it is
    back."""

    of: str
    program: str
    place: Place
    times: int
    there: bool

    @property
    def side(self) -> str:
        return SIDES[self.place.parent]

    def row(self) -> Json:
        """For `status`. `said` is a whole sentence."""
        what = f"{self.of}: {self.program}"
        if self.there:
            off = "away" if self.place.line else "off its port"
            said = f"{what} was taken {off} and put back, {self.times} times: "
            said += WITHOUT_LINE if self.place.line else WITHOUT[self.place.parent]
        else:
            said = f"{what} is not {'there' if self.place.line else 'at its port'}"
        return {
            "port": self.of,
            "program": self.program,
            "side": self.side,
            "times": self.times,
            "there": self.there,
            "said": said,
        }


class Guard:
    """See the module. `close` twice is harmless."""

    def __init__(self, netns_fd: int) -> None:
        self._netns_fd = netns_fd
        self._monitor = FilterMonitor(netns_fd)
        self._rtnl = Rtnl(netns_fd)
        self._interfaces = Interfaces(netns_fd)
        self._lock = threading.Lock()
        self._expected: dict[Place, Expected] = {}
        self._touched: dict[int, int] = {}  # ports, and how often each is still to be looked at
        self._again: dict[int, float] = {}  # ports, and when to look after one that failed
        self._looked = float("-inf")
        self._taken_off: Mapping[Place, TakenOff] = {}  # replaced, never changed

    def close(self) -> None:
        for place in list(self._expected):
            self.forget(*place)
        self._monitor.close()
        self._rtnl.close()
        self._interfaces.close()

    def fileno(self) -> int:
        return self._monitor.fileno()

    @property
    def taken_off(self) -> Sequence[TakenOff]:
        """Of the programs that are expected now. Waits for nobody: a child that was forked
        (asides.py) may ask."""
        return list(self._taken_off.values())

    @property
    def due(self) -> float | None:
        """When to look, if there is anything to look at; seconds of the clock that `look` gets."""
        with self._lock:
            times = list(self._again.values())
            if self._touched:
                times.append(self._looked + PAUSE)
            return min(times, default=None)

    def expect(self, port: int, parent: int, of: str, name: str, program_fd: int) -> None:
        """The program is there now. program_fd is not kept."""
        place, fd = Place(port, parent), os.dup(program_fd)
        self._expect(
            place,
            Expected(
                of,
                name,
                lambda: self._first(place) == name,
                lambda: tc.put_back(self._rtnl, port, fd, name, parent),
                partial(os.close, fd),
            ),
        )

    def queue(self, port: int, of: str, kind: str, put: Callable[[Rtnl], None]) -> None:
        """A port has a queue of this kind now; put: give it one again."""

        def there() -> bool:
            found = self._interfaces.get(port)
            return found is None or found.qdisc == kind  # a port that has gone needs none

        expected = Expected(of, f"its queue ({kind})", there, lambda: put(self._rtnl), lambda: None)
        self._expect(Place(port, tc.ROOT), expected)

    def line(self, put: Callable[[], None]) -> None:
        """The line is there now; put: make another. One that is down is taken up."""

        def there() -> bool:
            found = self._interfaces.get(line.INDEX)
            return found is not None and found.up

        def put_back() -> None:
            if self._interfaces.get(line.INDEX) is None:
                put()
            else:
                self._rtnl.batch(lambda batch: batch.link("set", index=line.INDEX, state="up"))

        expected = Expected("switch", Switch.line, there, put_back, self._monitor.unfollow)
        self._expect(Place(line.INDEX, tc.ROOT), expected)
        self._monitor.follow(line.INDEX)  # of links in general there is more news than is read

    def _expect(self, place: Place, expected: Expected) -> None:
        self.forget(*place)
        with self._lock:
            self._expected[place] = expected
            self._touched[place.port] = LOOKS  # it may have gone before news were heard

    def forget(self, port: int, parent: int) -> None:
        """It may go from now on. Twice is harmless."""
        with self._lock:
            expected = self._expected.pop(Place(port, parent), None)
            if expected is None:
                return
            expected.close()
            others = {at: one for at, one in self._taken_off.items() if at != (port, parent)}
            self._taken_off = others

    def hear(self) -> None:
        """Take the news."""
        touched = self._monitor.touched()
        with self._lock:
            ports = {place.port for place in self._expected}
            self._touched |= dict.fromkeys(ports if touched is None else touched & ports, LOOKS)

    def look(self, now: float) -> None:
        """One that cannot be put back is told, and tried again after AGAIN."""
        with self._lock:
            due = {port: 1 for port, again in self._again.items() if again <= now}
            self._again = {port: again for port, again in self._again.items() if port not in due}
            self._looked, touched = now, due | self._touched
            self._touched = {port: looks - 1 for port, looks in touched.items() if looks > 1}
            places = {place: one for place, one in self._expected.items() if place.port in touched}
        for place, expected in places.items():
            try:
                self._look_at(place, expected)
            except TimeoutError:  # the kernel did not say: it is asked again
                with self._lock:
                    self._again[place.port] = now + AGAIN
            except OSError as error:
                before = self._taken_off.get(place)
                if before is None or before.there:  # else it was said
                    at = "there" if place.line else "at its port"
                    log.error("%s: %s is not %s: %s", expected.of, expected.name, at, error)
                self._note(place, expected, there=False)
                with self._lock:
                    self._again[place.port] = now + AGAIN

    def _look_at(self, place: Place, expected: Expected) -> None:
        if expected.there():
            before = self._taken_off.get(place)
            if before is not None and not before.there:  # it was late, or somebody put it back
                log.error("%s", self._note(place, expected, there=True).row()["said"])
            return
        with self._lock:  # whoever forgets it removes it next
            if self._expected.get(place) is not expected:
                return
            try:
                expected.put()
            except OSError as error:
                if error.errno == errno.ENODEV:  # the port has gone, and its VM with it
                    return
                raise
        if not expected.there():
            raise FileExistsError(errno.EEXIST, "another one is in its place, or before it")
        log.error("%s", self._note(place, expected, there=True).row()["said"])

    def _first(self, place: Place) -> str | None:
        """The name of the filter that is asked first there."""
        return next(iter(interfaces.filters(self._netns_fd, *place)), None)

    def _note(self, place: Place, expected: Expected, there: bool) -> TakenOff:
        before = self._taken_off.get(place)
        times = before.times if before else 0
        if before is None or before.there:  # else it is the same time
            times += 1
        made = TakenOff(expected.of, expected.name, place, times, there)
        with self._lock:
            if self._expected.get(place) is expected:
                self._taken_off = {**self._taken_off, place: made}
        return made
