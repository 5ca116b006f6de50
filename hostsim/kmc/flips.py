# SPDX-License-Identifier: Apache-2.0
"""Flips: who asks for one, and the actions that make it.

The state machine (`foreground`) decides; this does what it says, with the drivers and the agents,
reports back to it, and answers everybody who asked. The steps of a flip are in `kmc`.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hostsim.errors import HostsimError
from hostsim.kmc import background
from hostsim.kmc.agents import AgentPort
from hostsim.kmc.equipment import Equipment
from hostsim.kmc.foreground import (
    Abandoned,
    Action,
    AskRelease,
    Done,
    Foreground,
    Refused,
    Release,
    State,
    Superseded,
    Take,
    Tell,
)
from hostsim.kmc.refrain import AgentLog
from hostsim.kmc.wire import Message, Type
from hostsim.model import Json, KmcSpec
from hostsim.vm import Vm

log = logging.getLogger("hostsim.kmc")

AGAIN = 0.001
"""Seconds between two looks at what an OS's programs have not read."""


class _Asked(NamedTuple):
    """Somebody waits for a flip."""

    os: str
    by: str
    begun: float
    future: asyncio.Future[Json]


class Flips:
    """One host's flips. All methods run in the daemon's loop.

    drivers: gives the drivers that are in use now.
    lines: what is logged of what OSes ask for.
    """

    def __init__(
        self,
        spec: KmcSpec,
        oses: dict[str, Vm],
        ports: dict[str, AgentPort],
        drivers: Callable[[], list[Equipment]],
        lines: AgentLog,
    ) -> None:
        self._timeout = spec.release_timeout
        self._oses = oses
        self._ports = ports
        self._drivers = drivers
        self._log = lines
        self._asked: list[_Asked] = []
        self._owners: set[str] = set()  # what the machine's owner waits for
        self._deadline: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None  # the next one at what is unread
        self._release_number = 0
        self._by = "start"  # of a flip that nobody asked for
        self.machine = Foreground(list(oses), (spec.fallback,) if spec.fallback else ())
        """For questions; what changes it goes through the methods here."""
        self.answered = False
        """Whether the agent has answered the last RELEASE."""
        self.overruled = dict.fromkeys(oses, 0)
        """How often each OS did not let go in time."""
        self.count = 0
        """Flips done."""

    def request(self, name: str, by: str, future: asyncio.Future[Json], owner: bool = True) -> None:
        """Flip to `name`; the future gets {"foreground", "previous", "ms"}, or a HostsimError.

        by: who asks, for the log.
        owner: the machine's owner asks, whose request no OS's may supersede.
        """
        begun = time.monotonic()
        waiting = self.machine.waiting
        try:
            if not owner and waiting is not None and waiting in self._owners:
                raise Refused(f"the machine's owner waits for {waiting}")
            actions = self.machine.flip(name)
        except Refused as refused:
            self._log.say(by, "refusals", f"flip to {name}, asked by {by}: refused: {refused}")
            future.set_exception(HostsimError(f"flip to {name}", str(refused)))
            return
        if owner:
            self._owners.add(name)
        self._asked.append(_Asked(name, by, begun, future))
        self._act(actions, begun)

    def adopt(self, spec: KmcSpec) -> None:
        """What it says of releases and of who follows holds from now on, and the OSes are in the
        order of `oses`."""
        self._timeout = spec.release_timeout
        self.machine.arrange(list(self._oses), (spec.fallback,) if spec.fallback else ())

    def join(self, name: str) -> None:
        """The OS joins; it is barred (`foreground`)."""
        self.machine.join(name)
        self.overruled[name] = 0

    def bar(self, name: str) -> None:
        """The OS is to leave or change, and is barred. Raises HostsimError as `refuse` does."""
        self.refuse(name)
        self.machine.bar(name)

    def refuse(self, name: str) -> None:
        """Raises HostsimError if the OS cannot leave now, nor change: it has equipment, or gets
        it."""
        try:
            self.machine.refuse(name)
        except Refused as refused:
            others = [other for other in self._oses if other != name]
            hint = f"hostsim flip {others[0]}, then again" if others else "hostsim down, then up"
            raise HostsimError(name, str(refused), hint) from None

    def leave(self, name: str) -> None:
        """An OS that was barred has left, and has nothing."""
        self.machine.leave(name)
        del self.overruled[name]

    def admit(self, names: Sequence[str]) -> None:
        """These are barred no more."""
        for name in names:
            if self.machine.state(name) is State.BACKGROUND:
                background.enter(self._oses[name])
        self._by = "apply"
        self._act(self.machine.admit(names))

    def gone(self, name: str) -> None:
        """The OS died: what it had goes to the next in line."""
        self._by = f"the end of {name}"
        self._act(self.machine.gone(name))

    def back(self, name: str) -> None:
        """The OS that died runs again."""
        self._by = f"the return of {name}"
        self._act(self.machine.back(name))

    def released(self, name: str, sequence: int) -> None:
        """The OS's agent has answered RELEASE. An answer to an older question is ignored."""
        if sequence == self._release_number and not self.answered:
            self.answered = True
            for driver in self._drivers():
                driver.lift(name)
            self._released(name, sequence)

    def settled(self, name: str) -> None:
        """A driver knows that less is unread (`Equipment.unread`): a flip away from the OS need not
        wait for the next look."""
        if self._look is not None and self.machine.state(name) is State.RELEASING:
            self._released(name, self._release_number)

    def stop(self) -> None:
        """The host goes down: nothing counts any more, and nobody waits. Twice is harmless."""
        self._release_number += 1  # no answer counts any more
        self._look_no_more()
        if self._deadline is not None:
            self._deadline.cancel()
        for asked in self._asked:
            if not asked.future.done():
                asked.future.set_exception(HostsimError("flip", "the host goes down"))
        self._asked.clear()

    def _act(self, actions: Sequence[Action], begun: float | None = None) -> None:
        """begun: when the request came that these actions begin; None: they begin now."""
        todo = deque(actions)
        while todo:
            match todo.popleft():
                case AskRelease(name):
                    since, begun = begun or time.monotonic(), None
                    todo.extendleft(reversed(self._ask_release(name, since)))
                case Release(name):
                    self._release(name)
                    todo.extendleft(reversed(self.machine.released(name)))
                case Take(name):
                    background.leave(self._oses[name])
                    self._take(name)
                    todo.extend(self.machine.taken(name))  # after what the old OS is to be told
                case Tell(name, state):
                    self._ports[name].tell(Message(Type.STATE, 0, state.value))
                    if state is State.BACKGROUND:
                        background.enter(self._oses[name])
                case Done(name, previous):
                    self._done(name, previous)
                case Superseded(name, newer):
                    self._fail(name, f"a later request, for {newer}, took its place")
                case Abandoned(name):
                    self._fail(name, "it died")

    def _ask_release(self, name: str, since: float) -> list[Action]:
        self._release_number += 1
        log.debug("%s is asked to release, within %g s", name, self._timeout)
        ask = Message(Type.RELEASE, self._release_number, str(round(self._timeout * 1000)))
        if not self._ports[name].tell(ask):
            return self.machine.agent_released(name)
        at = since + self._timeout
        self._deadline = asyncio.get_running_loop().call_at(at, self._overrule, name)
        self.answered = False
        for driver in self._drivers():
            driver.ask(name)
        return []

    def _overrule(self, name: str) -> None:
        self._deadline = None
        if not self.answered:
            self.overruled[name] += 1
        self._act(self.machine.deadline(name))
        if self.answered:
            log.warning("%s: did not read what it was given within %g s", name, self._timeout)
        else:
            log.warning("%s did not release within %g s: overruled", name, self._timeout)

    def _released(self, name: str, sequence: int) -> None:
        """Go on once its programs have read what came before. Not every driver can tell when, so
        it is looked at again. An older question's answer is ignored."""
        self._look_no_more()
        if sequence != self._release_number:
            return
        if self._deadline is not None and any(driver.unread(name) for driver in self._drivers()):
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(AGAIN, self._released, name, sequence)
        else:
            self._act(self.machine.agent_released(name))

    def _look_no_more(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _release(self, name: str) -> None:
        self._look_no_more()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        for driver in self._drivers():
            driver.save(name)
        for driver in self._drivers():
            try:
                driver.release(name)
            except OSError:
                # Whether the OS still has it is unknown, so nobody else may get it.
                log.exception("%s cannot be taken from %s; it is out of use", driver, name)
                driver.close()

    def _take(self, name: str) -> None:
        log.debug("%s takes the equipment", name)
        for driver in self._drivers():
            driver.restore(name)
        for driver in sorted(self._drivers(), key=lambda one: not one.leads):
            driver.take(name)

    def _done(self, name: str, previous: str | None) -> None:
        self.count += 1
        now = time.monotonic()
        longest = 0.0
        by = self._by
        asked, self._asked = self._asked_for(name)
        for one in asked:  # not when they ask: a flip does not wait for the log
            self._log.say(one.by, "requests", f"flip to {name}, asked by {one.by}")
        for one in reversed(asked):
            ms = round((now - one.begun) * 1000, 3)
            longest = max(longest, ms)
            by = one.by  # at last the first who asked
            if not one.future.done():
                one.future.set_result({"foreground": name, "previous": previous, "ms": ms})
        self._owners.discard(name)
        log.info("%s is foreground after %s, by %s, %g ms", name, previous, by, longest)
        event = {"event": "foreground", "os": name, "previous": previous, "by": by}
        for port in self._ports.values():
            port.announce(Message(Type.EVENT, 0, json.dumps(event)))

    def _fail(self, name: str, why: str) -> None:
        asked, self._asked = self._asked_for(name)
        self._owners.discard(name)
        for one in asked:
            self._log.say(one.by, "refusals", f"flip to {name}, asked by {one.by}: refused: {why}")
            if not one.future.done():
                one.future.set_exception(HostsimError(f"flip to {name}", why))

    def _asked_for(self, name: str) -> tuple[list[_Asked], list[_Asked]]:
        """Those who wait for this OS, and those who wait for others."""
        here = [one for one in self._asked if one.os == name]
        return here, [one for one in self._asked if one.os != name]
