# SPDX-License-Identifier: Apache-2.0
"""Which OS is foreground: the state machine of the KMC, pure.

Events go in by method, actions come out as a list, to be done in order. The machine does nothing
itself and knows no clock: the KMC does the actions and reports back.

States of an OS: `background`, `releasing` (it was told to let go), `taking` (the equipment is being
restored for it), `foreground`, `failed` (it died; it may still have the equipment for a moment),
`absent` (the host has no such OS: none that has not joined, none that has left).

Legal moves:

    background -> taking      a flip to it, and nobody holds the equipment
    taking     -> foreground  its drivers have restored and taken
    foreground -> releasing   a flip away, or the host goes down
    releasing  -> background  its drivers have released
    any        -> failed      its process 1 has ended
    failed     -> background  it was started again, and its drivers have released
    absent     -> background  it joins the host
    background -> absent      it leaves the host
    failed     -> absent      the same

Forbidden moves, and why:

    background -> foreground  it would have the equipment with another OS's state
    background -> releasing   it has nothing to release
    taking     -> background  drivers may hold half of the equipment: finish, then release
    taking     -> releasing   the same; a flip that comes meanwhile waits
    foreground -> background  it would keep the equipment, unseen
    foreground -> taking      it would save the state of a device that it is using
    releasing  -> foreground  its agent has been told; what it let go of is lost already
    releasing  -> taking      the same; a flip back is a new flip
    failed     -> taking, foreground, releasing   nobody is there to use it or to answer
    absent     -> taking, foreground, releasing, failed   nobody has heard of it
    taking, foreground, releasing -> absent   it has equipment, or is about to: flip first

Three rules hold at every instant: at most one OS is `taking`, `foreground` or `releasing`; a
`Take` is never asked for while any OS may still hold equipment (`holder`); and an OS that is barred
is none of those three. An OS is barred while it joins or leaves the host, and nobody knows yet
whether it will (`bar`, `join`; then `admit` or `leave`): it is flipped to by nobody, and nothing
falls to it. What the machine waits for is never barred.

A request during a flip waits in one place: the newest replaces an older one (whose asker gets
`Superseded`), and one for the OS that the running flip goes to joins that flip.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What an OS is in."""

    BACKGROUND = "background"
    RELEASING = "releasing"
    TAKING = "taking"
    FOREGROUND = "foreground"
    FAILED = "failed"
    ABSENT = "absent"


MOVES: frozenset[tuple[State, State]] = frozenset(
    {
        (State.BACKGROUND, State.TAKING),
        (State.TAKING, State.FOREGROUND),
        (State.FOREGROUND, State.RELEASING),
        (State.RELEASING, State.BACKGROUND),
        (State.BACKGROUND, State.FAILED),
        (State.TAKING, State.FAILED),
        (State.FOREGROUND, State.FAILED),
        (State.RELEASING, State.FAILED),
        (State.FAILED, State.BACKGROUND),
        (State.ABSENT, State.BACKGROUND),
        (State.BACKGROUND, State.ABSENT),
        (State.FAILED, State.ABSENT),
    }
)

ACTIVE = frozenset({State.RELEASING, State.TAKING, State.FOREGROUND})


@dataclass(frozen=True)
class AskRelease:
    """Tell the OS's agent to let go, start the deadline; report `agent_released` or `deadline`."""

    os: str


@dataclass(frozen=True)
class Release:
    """Save the OS's state and take all equipment from it; report `released`."""

    os: str


@dataclass(frozen=True)
class Take:
    """Restore the OS's state and give it all equipment; report `taken`."""

    os: str


@dataclass(frozen=True)
class Tell:
    """Tell the OS's agent what it is now."""

    os: str
    state: State


@dataclass(frozen=True)
class Done:
    """The flip to `os` is complete: answer everybody who asked for it. from_: who had it before."""

    os: str
    from_: str | None


@dataclass(frozen=True)
class Superseded:
    """A waiting request for `os` will not be done: a newer one, for `by`, took its place."""

    os: str
    by: str


@dataclass(frozen=True)
class Abandoned:
    """A flip to `os` ended without it: the OS died."""

    os: str


Action = AskRelease | Release | Take | Tell | Done | Superseded | Abandoned


class Refused(Exception):
    """A request that changes nothing; the text says why."""


class Foreground:
    """The machine. Names are unique; all OSes begin in the background, with the equipment free.

    fallback: who gets the equipment when the foreground OS dies, best first; the rest follow in
    the order of `names`.
    """

    def __init__(self, names: Sequence[str], fallback: Sequence[str] = ()) -> None:
        self._state = dict.fromkeys(names, State.BACKGROUND)  # of those that are not absent
        self._fallback = tuple(fallback)
        self._barred: set[str] = set()
        self._target: str | None = None  # of the running flip
        self._from: str | None = None
        self._waiting: str | None = None
        self._ordered = False  # the holder's Release was asked for, once
        self._lost: str | None = None  # died while foreground; the fallback's predecessor
        self.holder: str | None = None
        """The OS that may have equipment: set before a Take, cleared once it is released."""

    def state(self, name: str) -> State:
        """What the OS is in."""
        return self._state.get(name, State.ABSENT)

    @property
    def barred(self) -> frozenset[str]:
        """See the module."""
        return frozenset(self._barred)

    @property
    def foreground(self) -> str | None:
        """The OS in state `foreground`, or None while a flip is under way or none lives."""
        return next((n for n, s in self._state.items() if s is State.FOREGROUND), None)

    @property
    def flipping(self) -> bool:
        """Whether equipment is on its way, or waits for its next owner."""
        moving = any(s in (State.RELEASING, State.TAKING) for s in self._state.values())
        return moving or self._target is not None or self._waiting is not None

    @property
    def target(self) -> str | None:
        """Where the running flip goes."""
        return self._target

    @property
    def waiting(self) -> str | None:
        """The request that waits for the running flip to end."""
        return self._waiting

    def next(self) -> str:
        """The OS after the foreground one (or after the flip's target), in order, that lives.

        Raises Refused if there is no other.
        """
        names = list(self._state)
        here = self._waiting or self._target or self.foreground
        start = names.index(here) + 1 if here is not None else 0
        for name in names[start:] + names[:start]:
            if name != here and self._can_take(name):
                return name
        raise Refused("no other OS runs")

    def flip(self, name: str) -> list[Action]:
        """Somebody wants `name` in the foreground. Raises Refused; then nothing has changed."""
        if name not in self._state:
            raise Refused(f"there is no such OS; there are {', '.join(self._state)}")
        if self._state[name] is State.FAILED:
            raise Refused("it is not running")
        if name in self._barred:
            raise Refused("it joins or leaves the host just now")
        if not self.flipping and self._state[name] is State.FOREGROUND:
            raise Refused("it is the foreground OS already")
        if self.flipping:
            old, self._waiting = self._waiting, None if name == self._target else name
            return [Superseded(old, name)] if old is not None and old != name else []
        return self._begin(name)

    def agent_released(self, name: str) -> list[Action]:
        """The old OS's agent is ready, or has none. Late answers are ignored."""
        if self._state.get(name) is State.RELEASING:
            return self._order_release(name)
        return []

    def deadline(self, name: str) -> list[Action]:
        """The agent was asked, and did not answer in time: it is overruled."""
        return self.agent_released(name)

    def released(self, name: str) -> list[Action]:
        """The drivers have let go of everything `name` had."""
        assert self.holder == name, (self.holder, name)
        self.holder = None
        self._ordered = False
        if self._state[name] is not State.RELEASING:
            return self._go_on()
        self._move(name, State.BACKGROUND)
        tell, following = Tell(name, State.BACKGROUND), self._go_on()
        # The next OS need not wait for what the old one does about it, unless they are the same.
        return [tell, *following] if Take(name) in following else [*following, tell]

    def taken(self, name: str) -> list[Action]:
        """The drivers have given everything to `name`."""
        assert self._state[name] is State.TAKING, self._state[name]
        self._move(name, State.FOREGROUND)
        actions: list[Action] = [Tell(name, State.FOREGROUND), Done(name, self._from)]
        self._target = self._from = self._lost = None
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting != name:
            actions += self._begin(waiting)
        return actions

    def gone(self, name: str) -> list[Action]:
        """The OS died. What it held is released, and the fallback takes over."""
        if self._state[name] is State.FAILED:
            return []
        was = self._state[name]
        self._move(name, State.FAILED)
        actions: list[Action] = []
        if self._waiting == name:
            self._waiting = None
            actions.append(Abandoned(name))
        if self._target == name:
            self._target = None
            actions.append(Abandoned(name))
        if was in ACTIVE:
            self._lost = name
        if self.holder == name:
            return actions + self._order_release(name)
        return actions + self._go_on()

    def back(self, name: str) -> list[Action]:
        """A failed OS was started again; if none is foreground, it takes the equipment."""
        assert self.holder != name, name
        self._move(name, State.BACKGROUND)
        return [Tell(name, State.BACKGROUND), *self._go_on()]

    def join(self, name: str) -> None:
        """The OS joins the host, last in order, and is barred."""
        self._move(name, State.BACKGROUND)
        self._barred.add(name)

    def bar(self, name: str) -> None:
        """The OS is to leave the host, or to change. Raises Refused, as `refuse` does; then nothing
        has changed."""
        self.refuse(name)
        self._barred.add(name)

    def refuse(self, name: str) -> None:
        """Raises Refused if the OS cannot leave now, nor change."""
        if self._state[name] is State.FOREGROUND:
            raise Refused("it is the foreground OS")
        if name in (self.holder, self._target, self._waiting) or self._state[name] in ACTIVE:
            raise Refused("a flip to it or from it is under way")

    def leave(self, name: str) -> None:
        """An OS that is barred has left the host."""
        assert name in self._barred, name
        self._move(name, State.ABSENT)
        self._barred.discard(name)
        if self._lost == name:
            self._lost = None

    def admit(self, names: Iterable[str]) -> list[Action]:
        """These are barred no more; if none is foreground, one of them takes the equipment."""
        self._barred.difference_update(names)
        return self._go_on()

    def arrange(self, names: Sequence[str], fallback: Sequence[str] = ()) -> None:
        """From now on the OSes are in this order, which `next` and who follows go by."""
        assert set(names) == self._state.keys(), names
        self._state = {name: self._state[name] for name in names}
        self._fallback = tuple(fallback)

    def _can_take(self, name: str) -> bool:
        return self._state[name] is not State.FAILED and name not in self._barred

    def _order_release(self, name: str) -> list[Action]:
        if self._ordered:
            return []
        self._ordered = True
        return [Release(name)]

    def _begin(self, name: str) -> list[Action]:
        self._target = name
        self._from = self.foreground
        if self._from is not None:
            self._move(self._from, State.RELEASING)
            return [AskRelease(self._from)]
        return self._go_on()

    def _go_on(self) -> list[Action]:
        """Give the free equipment to the flip's target, or to who is next in line."""
        if self.holder is not None or any(s in ACTIVE for s in self._state.values()):
            return []
        if self._target is None:
            self._target, self._waiting = self._waiting, None
        if self._target is None:
            order = dict.fromkeys((*self._fallback, *self._state))
            alive = (n for n in order if n in self._state and self._can_take(n))
            self._target = next(alive, None)
        if self._target is None:
            return []
        if self._from is None:
            self._from = self._lost
        self._move(self._target, State.TAKING)
        self.holder = self._target
        return [Take(self._target)]

    def _move(self, name: str, to: State) -> None:
        move = (self.state(name), to)
        assert move in MOVES, f"{name}: {move[0].value} -> {to.value} is forbidden"
        if to is State.ABSENT:
            del self._state[name]
        else:
            self._state[name] = to
