# SPDX-License-Identifier: Apache-2.0
"""The seat's state machine: the protocol step by step, and its rules whatever a client says."""

import contextlib
import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hostsim.kmc import seatwire
from hostsim.kmc.seat import (
    MOVES,
    OWED_MAX,
    Action,
    Came,
    Cut,
    Left,
    Open,
    Phase,
    Seat,
    Send,
    Shut,
    Switch,
)
from hostsim.kmc.seatwire import BODY_MAX, DEVICES_MAX, Ask, Request, Say

OPENED = seatwire.seat_opened()
ENABLE, DISABLE = seatwire.plain(Say.ENABLE_SEAT), seatwire.plain(Say.DISABLE_SEAT)


def asked(ask: int, body: bytes = b"") -> bytes:
    return struct.pack("=HH", ask, len(body)) + body


def opening(path: str) -> bytes:
    raw = path.encode() + b"\0"
    return asked(Ask.OPEN_DEVICE, struct.pack("=H", len(raw)) + raw)


ACK = asked(Ask.DISABLE_SEAT)


def active(answers: bool = False) -> Seat:
    """A seat whose client 1 is active."""
    seat = Seat(answers)
    assert seat.enable() == []
    seat.connected(1)
    assert seat.received(1, asked(Ask.OPEN_SEAT)) == [Send(1, OPENED), Send(1, ENABLE), Came()]
    return seat


def cut(actions: list[Action]) -> str:
    assert isinstance(actions[-1], Cut), actions
    return actions[-1].why


def test_the_bytes_are_seatds() -> None:
    assert bytes.fromhex("0180 0800 0600") + b"seat0\0" == OPENED
    assert seatwire.device_opened(7) == bytes.fromhex("0380 0400 07000000")
    assert seatwire.error(errno.ENOENT) == bytes.fromhex("ffff 0400 02000000")
    assert (bytes.fromhex("0680 0000"), bytes.fromhex("0580 0000")) == (ENABLE, DISABLE)


def test_a_turn_step_by_step() -> None:
    seat = active()
    assert seat.received(1, opening("/dev/dri/card0")) == [Open(1, 1, "card0")]
    assert seat.received(1, opening("/dev/input/event3")) == [Open(1, 2, "event3")]
    assert seat.ask() == [Send(1, DISABLE)]
    assert seat.leaving
    closed = seatwire.plain(Say.DEVICE_CLOSED)
    assert seat.received(1, asked(Ask.CLOSE_DEVICE, struct.pack("=i", 2))) == [
        Send(1, closed),
        Shut(1, 2, "event3"),
    ]
    assert seat.received(1, ACK) == []
    assert not seat.leaving
    assert seat.disable() == []
    assert seat.received(1, opening("/dev/dri/card0")) == [Send(1, seatwire.error(errno.EPERM))]
    assert seat.enable() == [Send(1, ENABLE)]
    assert seat.received(1, asked(Ask.CLOSE_SEAT)) == [
        Shut(1, 1, "card0"),
        Left(),
        Send(1, seatwire.plain(Say.SEAT_CLOSED)),
    ]
    assert seat.holder is None


def test_a_compositor_that_starts_in_the_background_waits_for_its_seat() -> None:
    seat = Seat()
    seat.connected(1)
    assert seat.received(1, asked(Ask.OPEN_SEAT)) == []
    assert seat.phase(1) is Phase.WAITING
    assert seat.enable() == [Send(1, OPENED), Send(1, ENABLE)]


def test_who_asks_during_a_flip_waits() -> None:
    seat = Seat()
    seat.enable()
    assert seat.ask() == []
    seat.connected(1)
    assert seat.received(1, asked(Ask.OPEN_SEAT)) == []
    assert not seat.leaving
    assert seat.disable() == []
    assert seat.phase(1) is Phase.WAITING


def test_a_late_acknowledgement_is_not_taken_for_the_next_flips() -> None:
    seat = active()
    assert seat.ask() == [Send(1, DISABLE)]
    assert seat.disable() == []
    assert seat.enable() == [Send(1, ENABLE)]
    assert seat.ask() == [Send(1, DISABLE)]
    assert seat.received(1, ACK) == []
    assert seat.leaving  # that was the first flip's
    assert seat.received(1, ACK) == []
    assert not seat.leaving


def test_a_stopped_client_is_told_no_more_than_it_can_read_and_catches_up() -> None:
    seat = active()
    sent = 0
    for _ in range(100):
        sent += len(seat.ask()) + len(seat.disable()) + len(seat.enable())
    assert sent == 2 * OWED_MAX - 1  # DISABLE and ENABLE in turn, and DISABLE last
    told: list[Action] = []
    for _ in range(OWED_MAX):
        told += seat.received(1, ACK)
    assert told == [Send(1, ENABLE)]
    assert seat.ask() == [Send(1, DISABLE)]
    assert seat.received(1, ACK) == []
    assert not seat.leaving


def test_an_acknowledgement_that_nobody_asked_for_changes_nothing() -> None:
    seat = active()
    assert seat.received(1, ACK) == []
    assert seat.phase(1) is Phase.ACTIVE
    assert seat.ask() == [Send(1, DISABLE)]
    assert seat.leaving


def test_clients_of_0_8_get_answers_that_would_end_one_of_0_7() -> None:
    seat = active(answers=True)
    seat.ask()
    assert seat.received(1, ACK) == [Send(1, seatwire.plain(Say.SEAT_DISABLED))]
    seat.disable()
    seat.enable()
    assert seat.received(1, asked(Ask.SWITCH_SESSION, struct.pack("=i", 2))) == [
        Send(1, seatwire.plain(Say.SESSION_SWITCHED)),
        Switch(2),
    ]


def test_a_second_client_hears_that_the_seat_is_taken() -> None:
    seat = active()
    seat.connected(2)
    busy = Send(2, seatwire.error(errno.EBUSY))
    assert seat.received(2, asked(Ask.OPEN_SEAT)) == [busy]
    assert seat.gone(1) == [Left()]
    assert seat.received(2, asked(Ask.OPEN_SEAT)) == [Send(2, OPENED), Send(2, ENABLE), Came()]


@pytest.mark.parametrize(
    "path",
    [
        "/dev/dri/card0/../../sda",
        "/dev/dri/renderD128",
        "/dev/input/../sda",
        "/dev/input/event",
        "/dev/input/mouse0",
        "/dev/dri/card0\n",
        "/dev/dri/card٣",
        "/etc/shadow",
        "dev/dri/card0",
        "/dev/dri/card00000",
    ],
)
def test_nothing_but_cards_and_evdev_nodes_is_opened(path: str) -> None:
    assert active().received(1, opening(path)) == [Send(1, seatwire.error(errno.ENOENT))]


def test_no_client_has_more_devices_than_seatd_allows() -> None:
    seat = active()
    for number in range(DEVICES_MAX):
        assert isinstance(seat.received(1, opening("/dev/input/event1"))[0], Open), number
    full = [Send(1, seatwire.error(errno.EMFILE))]
    assert seat.received(1, opening("/dev/input/event1")) == full
    seat.failed(1, 5)
    assert seat.received(1, opening("/dev/input/event1")) == [
        Open(1, DEVICES_MAX + 1, "event1"),
    ]
    assert len([x for x in seat.gone(1) if isinstance(x, Shut)]) == DEVICES_MAX


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (asked(8), "there is no message 8"),
        (asked(0x8006), "there is no message"),
        (struct.pack("=HH", Ask.PING, BODY_MAX + 1), "a message of"),
        (asked(Ask.PING, b"x"), "PING of 1 bytes"),
        (asked(Ask.CLOSE_DEVICE, b"xyz"), "CLOSE_DEVICE of 3 bytes"),
        (asked(Ask.OPEN_DEVICE), "another length"),
        (asked(Ask.OPEN_DEVICE, b"\x09\x00/x\0"), "another length"),
        (asked(Ask.OPEN_DEVICE, b"\x03\x00a\0b"), "does not end where it says"),
        (asked(Ask.OPEN_DEVICE, b"\x03\x00abc"), "does not end where it says"),
        (asked(Ask.OPEN_SEAT), "a second OPEN_SEAT"),
    ],
)
def test_what_is_not_the_protocol_cuts_off(data: bytes, why: str) -> None:
    seat = active()
    seat.received(1, opening("/dev/dri/card0"))
    actions = seat.received(1, data)
    assert why in cut(actions)
    assert actions[:-1] == [Shut(1, 1, "card0"), Left()]


@pytest.mark.parametrize(
    "data",
    [
        asked(Ask.CLOSE_SEAT),
        ACK,
        opening("/dev/dri/card0"),
        asked(Ask.CLOSE_DEVICE, struct.pack("=i", 1)),
        asked(Ask.SWITCH_SESSION, struct.pack("=i", 1)),
    ],
)
def test_without_a_seat_there_is_nothing_to_ask(data: bytes) -> None:
    seat = Seat()
    seat.connected(1)
    assert "without a seat" in cut(seat.received(1, data))


def test_nothing_after_an_offence_is_looked_at() -> None:
    seat = active()
    actions = seat.received(1, asked(99) + opening("/dev/dri/card0"))
    assert not [x for x in actions if isinstance(x, Open)]
    assert seat.holder is None


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_a_message_may_come_in_any_pieces(pieces: list[bytes], answers: bool) -> None:
    whole = b"".join(asked(Ask.PING) for _ in pieces)
    seat = active(answers)
    got: list[Action] = []
    at = 0
    for piece in pieces:
        got += seat.received(1, whole[at : at + len(piece)])
        at += len(piece)
    got += seat.received(1, whole[at:])
    assert got == [Send(1, seatwire.plain(Say.PONG))] * len(pieces)


@settings(deadline=None)
@given(st.binary(max_size=4000))
def test_no_bytes_break_the_reader_and_it_keeps_little(data: bytes) -> None:
    reader = seatwire.Reader()
    with contextlib.suppress(seatwire.WireError):
        for request in reader.feed(data):
            assert isinstance(request, Request)
        assert len(reader._data) < 4 + BODY_MAX


NUMBERS = st.sampled_from([1, 2, 3])


class AnyOrder(RuleBasedStateMachine):
    """Three clients that say anything at any time, and a KMC that flips."""

    @initialize(answers=st.booleans())
    def begin(self, answers: bool) -> None:
        self.seat = Seat(answers)
        self.here: set[int] = set()
        self.open: dict[int, set[int]] = {}
        self.stage = "background"
        self.before: dict[int, Phase] = {}

    def note(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Open(client, device, name):
                    assert self.stage in ("foreground", "asked")
                    assert name.startswith(("card", "event"))
                    assert client in self.here
                    self.open[client].add(device)
                case Shut(client, device, _):
                    self.open[client].remove(device)
                case Switch(_):
                    assert self.stage == "foreground"
                case Cut(client, _):
                    assert not self.open.pop(client)
                    self.here.remove(client)
                case Send(client, data):
                    assert len(data) <= 12
                    assert client in self.here

    @rule(client=NUMBERS)
    def connect(self, client: int) -> None:
        if client not in self.here:
            self.seat.connected(client)
            self.here.add(client)
            self.open[client] = set()

    @rule(
        client=NUMBERS,
        data=st.one_of(
            st.sampled_from([asked(Ask.OPEN_SEAT), ACK, asked(Ask.CLOSE_SEAT), asked(Ask.PING)]),
            st.sampled_from(["/dev/dri/card0", "/dev/input/event1", "/x"]).map(opening),
            st.integers(-2, 9).map(lambda n: asked(Ask.CLOSE_DEVICE, struct.pack("=i", n))),
            st.integers(-1, 4).map(lambda n: asked(Ask.SWITCH_SESSION, struct.pack("=i", n))),
        ),
    )
    def say(self, client: int, data: bytes) -> None:
        if client in self.here:
            self.note(self.seat.received(client, data))

    @rule(client=NUMBERS, data=st.binary(max_size=12))
    def rubbish(self, client: int, data: bytes) -> None:
        if client in self.here:
            self.note(self.seat.received(client, data))

    @rule(client=NUMBERS, device=st.integers(1, 3))
    def fail(self, client: int, device: int) -> None:
        if client in self.here and device in self.open[client]:
            self.seat.failed(client, device)
            self.open[client].discard(device)

    @rule(client=NUMBERS)
    def hang_up(self, client: int) -> None:
        if client in self.here:
            self.note(self.seat.gone(client))
            assert not self.open.pop(client)
            self.here.remove(client)

    @precondition(lambda self: self.stage == "background")
    @rule()
    def enable(self) -> None:
        self.stage = "foreground"
        self.note(self.seat.enable())

    @precondition(lambda self: self.stage == "foreground")
    @rule()
    def ask(self) -> None:
        self.stage = "asked"
        self.note(self.seat.ask())

    @precondition(lambda self: self.stage != "background")
    @rule()
    def disable(self) -> None:
        self.stage = "background"
        self.note(self.seat.disable())

    @invariant()
    def rules_hold(self) -> None:
        if not hasattr(self, "seat"):
            return
        phases = {client: self.seat.phase(client) for client in self.here}
        held = [p for p in phases.values() if p is not Phase.NEW]
        assert len(held) <= 1
        allowed = {
            "background": {Phase.NEW, Phase.WAITING, Phase.PAUSED},
            "foreground": {Phase.NEW, Phase.ACTIVE},
            "asked": {Phase.NEW, Phase.WAITING, Phase.LEAVING, Phase.PAUSED},
        }
        assert set(phases.values()) <= allowed[self.stage]
        for client in self.here:
            assert set(self.seat.devices(client)) == self.open[client]
            assert len(self.open[client]) <= DEVICES_MAX


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_table_forbids_what_the_text_forbids() -> None:
    for here in (Phase.NEW, Phase.WAITING):
        assert not {(here, Phase.LEAVING), (here, Phase.PAUSED)} & MOVES
    for there in (Phase.LEAVING, Phase.PAUSED, Phase.ACTIVE):
        assert (there, Phase.WAITING) not in MOVES
    assert (Phase.LEAVING, Phase.ACTIVE) not in MOVES
    assert (Phase.PAUSED, Phase.LEAVING) not in MOVES
