# SPDX-License-Identifier: Apache-2.0
"""One OS's seat, as its compositor sees it: the state machine of seatd's protocol, pure.

What clients send and what the KMC does go in by method; actions come out as a list, to be done in
order. The machine does no I/O and knows no clock.

States of a client: `new` (no seat asked for), `waiting` (it asked while its OS is in the
background: the answer is held back, as compositors give up on a seat that is not enabled soon),
`active` (it may use its devices), `leaving` (it was told to let go, and may still use them),
`paused` (it may not).

Legal moves:

    new     -> waiting   it asks for the seat, and its OS is in the background
    new     -> active    it asks for the seat, and its OS is foreground
    waiting -> active    its OS becomes foreground
    active  -> leaving   a flip away
    leaving -> paused    it has acknowledged, or its time is over
    active  -> paused    it was not asked: its OS has no agent to ask, or is about to end
    paused  -> active    its OS becomes foreground again
    waiting, active, leaving, paused -> new   it closes the seat, and all its devices go

Forbidden moves, and why:

    new, waiting -> leaving, paused   it has nothing to let go of
    leaving -> active                 it has begun to let go: what it closed is lost already
    paused  -> leaving                the same
    leaving, paused, active -> waiting   it was answered: nothing can be held back any more

One client has the seat at a time; another one that asks hears EBUSY. Requests that a client may not
make in its state cut it off if libseat never makes them (a second OPEN_SEAT, a device before there
is a seat), and else get an error.

A client owes an acknowledgement for each DISABLE_SEAT. One that is stopped owes it over several
flips: every acknowledgement is counted, and a flip believes only the one that settles all of them.
Past OWED_MAX it is told nothing more until it has caught up, so that its socket never fills.
"""

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from hostsim.kmc import seatwire
from hostsim.kmc.seatwire import DEVICES_MAX, Ask, Request, Say, WireError

OWED_MAX = 8
"""Acknowledgements that a client may owe before it is told no more."""

CARD = re.compile(r"/dev/dri/(card[0-9]{1,3})", re.ASCII)
EVENT = re.compile(r"/dev/input/(event[0-9]{1,5})", re.ASCII)
"""The only paths that can be opened through a seat; which of them there are, the caller knows."""


class Phase(Enum):
    """What a client is in."""

    NEW = "new"
    WAITING = "waiting"
    ACTIVE = "active"
    LEAVING = "leaving"
    PAUSED = "paused"


MOVES: frozenset[tuple[Phase, Phase]] = frozenset(
    {
        (Phase.NEW, Phase.WAITING),
        (Phase.NEW, Phase.ACTIVE),
        (Phase.WAITING, Phase.ACTIVE),
        (Phase.ACTIVE, Phase.LEAVING),
        (Phase.LEAVING, Phase.PAUSED),
        (Phase.ACTIVE, Phase.PAUSED),
        (Phase.PAUSED, Phase.ACTIVE),
        (Phase.WAITING, Phase.NEW),
        (Phase.ACTIVE, Phase.NEW),
        (Phase.LEAVING, Phase.NEW),
        (Phase.PAUSED, Phase.NEW),
    }
)


@dataclass(frozen=True)
class Send:
    """These bytes to the client."""

    client: int
    data: bytes


@dataclass(frozen=True)
class Open:
    """Open the card or evdev node `name` for the client, and send DEVICE_OPENED with it; if that
    cannot be, send the error and report `failed`."""

    client: int
    device: int
    name: str


@dataclass(frozen=True)
class Shut:
    """The client has closed a device, or is gone: take it away and close our copy."""

    client: int
    device: int
    name: str


@dataclass(frozen=True)
class Switch:
    """The client asks for the OS with this number (Ctrl+Alt+Fn in a compositor)."""

    session: int


@dataclass(frozen=True)
class Cut:
    """The client broke the rules: close its connection, and report nothing."""

    client: int
    why: str


@dataclass(frozen=True)
class Came:
    """A client has the seat now, and its OS is foreground."""


@dataclass(frozen=True)
class Left:
    """Nobody has the seat any more."""


Action = Send | Open | Shut | Switch | Cut | Came | Left


@dataclass
class _Client:
    number: int
    reader: seatwire.Reader = field(default_factory=seatwire.Reader)
    phase: Phase = Phase.NEW
    enabled: bool = False  # as it was told last
    owed: int = 0
    devices: dict[int, str] = field(default_factory=dict)


class Seat:
    """The machine of one OS. Clients are numbered by the caller.

    answers: its clients speak 0.8 or 0.9, where DISABLE_SEAT and SWITCH_SESSION have answers; a
        client of 0.7 ends if it gets one.
    """

    def __init__(self, answers: bool = False) -> None:
        self._answers = answers
        self._clients: dict[int, _Client] = {}
        self._foreground = False
        self._number = 0  # of the last device; numbers are not used again
        self.messages = 0
        """How many whole ones all clients have sent."""

    def phase(self, client: int) -> Phase:
        """Raises KeyError."""
        return self._clients[client].phase

    @property
    def holder(self) -> int | None:
        """The client that has the seat, or waits for it."""
        return next((c.number for c in self._clients.values() if c.phase is not Phase.NEW), None)

    @property
    def leaving(self) -> bool:
        """Whether the OS's client has been told to let go, and has not acknowledged."""
        return any(c.phase is Phase.LEAVING for c in self._clients.values())

    def devices(self, client: int) -> dict[int, str]:
        """The open devices of a client: number and name."""
        return dict(self._clients[client].devices)

    # -- what clients do ---------------------------------------------------------------------------

    def connected(self, client: int) -> None:
        """A new connection."""
        assert client not in self._clients, client
        self._clients[client] = _Client(client)

    def received(self, client: int, data: bytes) -> list[Action]:
        """Bytes of a client. After a Cut it is forgotten."""
        one = self._clients[client]
        try:
            requests = one.reader.feed(data)
        except WireError as error:
            return self._cut(one, str(error))
        self.messages += len(requests)
        actions: list[Action] = []
        for request in requests:
            actions += self._handlers[request.ask](self, one, request)
            if client not in self._clients:
                break
        return actions

    def gone(self, client: int) -> list[Action]:
        """The connection has ended. One that is not known is no error."""
        one = self._clients.get(client)
        if one is None:
            return []
        actions = self._leave(one)
        del self._clients[client]
        return actions

    def failed(self, client: int, device: int) -> None:
        """An Open could not be done."""
        if client in self._clients:
            self._clients[client].devices.pop(device, None)

    # -- what the KMC does -------------------------------------------------------------------------

    def enable(self) -> list[Action]:
        """The OS is foreground, and its client has every right already. It must not be so yet."""
        self._foreground = True
        one = self._holder()
        if one is None:
            return []
        first = one.phase is Phase.WAITING
        self._move(one, Phase.ACTIVE)
        opened: list[Action] = [Send(one.number, seatwire.seat_opened())] if first else []
        return [*opened, *self._tell(one)]

    def ask(self) -> list[Action]:
        """The OS is to let go: `leaving` is true until its client has. Who asks for the seat from
        now on, waits."""
        self._foreground = False
        one = self._holder()
        if one is None or one.phase is not Phase.ACTIVE:
            return []
        self._move(one, Phase.LEAVING)
        return self._tell(one)

    def disable(self) -> list[Action]:
        """The OS has nothing any more, whether its client has acknowledged or not."""
        self._foreground = False
        one = self._holder()
        if one is None or one.phase not in (Phase.ACTIVE, Phase.LEAVING):
            return []
        self._move(one, Phase.PAUSED)
        return self._tell(one)

    # -- inside ------------------------------------------------------------------------------------

    def _open_seat(self, one: _Client, _: Request) -> list[Action]:
        if one.phase is not Phase.NEW:
            return self._cut(one, "a second OPEN_SEAT")
        if self._holder() is not None:
            return [Send(one.number, seatwire.error(errno.EBUSY))]
        if not self._foreground:
            self._move(one, Phase.WAITING)
            return []
        self._move(one, Phase.ACTIVE)
        return [Send(one.number, seatwire.seat_opened()), *self._tell(one), Came()]

    def _close_seat(self, one: _Client, _: Request) -> list[Action]:
        if one.phase is Phase.NEW:
            return self._cut(one, "CLOSE_SEAT without a seat")
        return [*self._leave(one), Send(one.number, seatwire.plain(Say.SEAT_CLOSED))]

    def _open_device(self, one: _Client, request: Request) -> list[Action]:
        if one.phase in (Phase.NEW, Phase.WAITING):
            return self._cut(one, "OPEN_DEVICE without a seat")
        if one.phase is not Phase.ACTIVE:
            return [Send(one.number, seatwire.error(errno.EPERM))]
        found = CARD.fullmatch(request.path) or EVENT.fullmatch(request.path)
        if found is None:
            return [Send(one.number, seatwire.error(errno.ENOENT))]
        if len(one.devices) >= DEVICES_MAX:
            return [Send(one.number, seatwire.error(errno.EMFILE))]
        self._number += 1
        one.devices[self._number] = found.group(1)
        return [Open(one.number, self._number, found.group(1))]

    def _close_device(self, one: _Client, request: Request) -> list[Action]:
        if one.phase in (Phase.NEW, Phase.WAITING):
            return self._cut(one, "CLOSE_DEVICE without a seat")
        name = one.devices.pop(request.number, None)
        if name is None:
            return [Send(one.number, seatwire.error(errno.EBADF))]
        # The answer first: to close an evdev node takes the kernel some ten milliseconds.
        closed = seatwire.plain(Say.DEVICE_CLOSED)
        return [Send(one.number, closed), Shut(one.number, request.number, name)]

    def _disable_seat(self, one: _Client, _: Request) -> list[Action]:
        if one.phase in (Phase.NEW, Phase.WAITING):
            return self._cut(one, "DISABLE_SEAT without a seat")
        actions: list[Action] = []
        if self._answers:
            actions.append(Send(one.number, seatwire.plain(Say.SEAT_DISABLED)))
        if not one.owed:
            return actions  # nobody asked it: it goes on
        one.owed -= 1
        if one.phase is Phase.LEAVING and not one.owed and not one.enabled:
            self._move(one, Phase.PAUSED)
        return [*actions, *self._tell(one)]

    def _switch_session(self, one: _Client, request: Request) -> list[Action]:
        if one.phase in (Phase.NEW, Phase.WAITING):
            return self._cut(one, "SWITCH_SESSION without a seat")
        actions: list[Action] = []
        if self._answers:
            actions.append(Send(one.number, seatwire.plain(Say.SESSION_SWITCHED)))
        if one.phase is Phase.ACTIVE:
            actions.append(Switch(request.number))
        return actions

    def _ping(self, one: _Client, _: Request) -> list[Action]:
        return [Send(one.number, seatwire.plain(Say.PONG))]

    _handlers: dict[Ask, Callable[["Seat", _Client, Request], list[Action]]] = {  # noqa: RUF012
        Ask.OPEN_SEAT: _open_seat,
        Ask.CLOSE_SEAT: _close_seat,
        Ask.OPEN_DEVICE: _open_device,
        Ask.CLOSE_DEVICE: _close_device,
        Ask.DISABLE_SEAT: _disable_seat,
        Ask.SWITCH_SESSION: _switch_session,
        Ask.PING: _ping,
    }

    def _tell(self, one: _Client) -> list[Action]:
        """What the client is told, so that it knows how it stands; nothing if it does."""
        wanted = one.phase is Phase.ACTIVE
        if one.enabled == wanted or one.owed >= OWED_MAX:
            return []
        one.enabled = wanted
        if wanted:
            return [Send(one.number, seatwire.plain(Say.ENABLE_SEAT))]
        one.owed += 1
        return [Send(one.number, seatwire.plain(Say.DISABLE_SEAT))]

    def _leave(self, one: _Client) -> list[Action]:
        """The client has no seat any more."""
        if one.phase is Phase.NEW:
            return []
        self._move(one, Phase.NEW)
        one.enabled, one.owed = False, 0
        shut: list[Action] = [Shut(one.number, n, name) for n, name in one.devices.items()]
        one.devices.clear()
        return [*shut, Left()]

    def _cut(self, one: _Client, why: str) -> list[Action]:
        return [*self.gone(one.number), Cut(one.number, why)]

    def _holder(self) -> _Client | None:
        number = self.holder
        return None if number is None else self._clients[number]

    def _move(self, one: _Client, to: Phase) -> None:
        move = (one.phase, to)
        assert move in MOVES, f"client {one.number}: {move[0].value} -> {to.value} is forbidden"
        one.phase = to
