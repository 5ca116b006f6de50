# SPDX-License-Identifier: Apache-2.0
"""The input forwarder's rules, with sockets in place of nodes: no root, no uinput.

A socket answers no evdev ioctl, so the device tells nothing of itself: no axes, no LEDs, no repeat
timer. What depends on those is tested in tests/input.
"""

import errno
import socket
import struct
import time
from collections.abc import Iterator
from os import environ

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.input.forward import CHORD, GONE, Forwarder
from help.waiting import until

EVENT = struct.Struct("llHHi")
SYN, KEY, REL, MSC, LED, SND = 0, 1, 2, 4, 17, 18
A, B, LEFTCTRL, RIGHTCTRL, LEFTSHIFT = 30, 48, 29, 97, 42
BELL, TONE = 1, 2
Event = tuple[int, int, int]


class Bench:
    """A forwarder with one device (more by `plug`) and two OSes."""

    def __init__(self) -> None:
        self.forwarder = Forwarder(2)
        self.sockets: list[socket.socket] = []
        self.hardware, self.oses, self.device = self.plug()

    def plug(self, waiting: int = 0) -> tuple[socket.socket, list[socket.socket], int]:
        """A device, with so many key strokes in it already."""
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        for pair in pairs:
            for end in pair:
                end.setblocking(False)
                self.sockets.append(end)
        for _ in range(waiting):
            pairs[0][0].send(b"".join(EVENT.pack(0, 0, *e) for e in ((KEY, A, 1), (SYN, 0, 0))))
        device = self.forwarder.add(pairs[0][1].fileno(), [p[1].fileno() for p in pairs[1:]])
        return pairs[0][0], [pair[0] for pair in pairs[1:]], device

    def pair(self) -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (near, far):
            end.setblocking(False)
            self.sockets.append(end)
        return near, far

    def type(self, *events: Event, report: bool = True) -> None:
        """One frame."""
        frame = [*events, (SYN, 0, 0)] if report else events
        self.hardware.send(b"".join(EVENT.pack(0, 0, *event) for event in frame))

    def flip(self, to: int) -> None:
        """Everything typed before is with the old owner when this returns."""
        self.forwarder.release()
        self.forwarder.take(to)

    def read(self, os: int, source: list[socket.socket] | None = None) -> list[Event]:
        """All the OS has got, without SYN_REPORT."""
        found: list[Event] = []
        while True:
            try:
                data = (source or self.oses)[os].recv(65536)
            except BlockingIOError:
                return found
            events = [event[2:] for event in EVENT.iter_unpack(data)]
            assert events[-1] == (SYN, 0, 0), "a frame ends with SYN_REPORT"
            found += events[:-1]

    def settle(self) -> None:
        """The forwarder has taken what was typed (a release drains the device)."""
        self.forwarder.release()

    def close(self) -> None:
        self.forwarder.close()
        for end in self.sockets:
            end.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_frames_go_to_the_owner_only(bench: Bench) -> None:
    bench.type((KEY, A, 1))
    bench.type((KEY, A, 0))
    bench.flip(0)
    assert bench.read(0) == []  # typed while nobody owned it
    bench.type((MSC, 4, 30), (KEY, A, 1))
    bench.type((KEY, A, 0))
    bench.flip(1)
    bench.type((KEY, B, 1), (REL, 0, 5))
    bench.settle()
    assert bench.read(0) == [(MSC, 4, 30), (KEY, A, 1), (KEY, A, 0)]
    assert bench.read(1) == [(KEY, B, 1), (REL, 0, 5), (KEY, B, 0)]
    stats = bench.forwarder.stats(bench.device)
    assert stats["events"] == 7
    assert (stats["forwarded"], stats["unowned"]) == (5, 2)


def test_what_waits_on_a_device_is_read_to_its_end(bench: Bench) -> None:
    _, _, device = bench.plug(waiting=50)
    end = time.monotonic() + 5
    while bench.forwarder.stats(device)["events"] < 50:
        assert time.monotonic() < end, bench.forwarder.stats(device)


def test_a_held_key_is_released_for_the_old_and_unknown_to_the_new(bench: Bench) -> None:
    bench.flip(0)
    bench.type((KEY, A, 1))
    bench.flip(1)
    assert bench.read(0) == [(KEY, A, 1), (KEY, A, 0)]
    bench.type((KEY, A, 2))
    bench.type((MSC, 4, 30), (KEY, A, 0))
    bench.type((KEY, B, 1))
    bench.settle()
    assert bench.read(1) == [(KEY, B, 1), (KEY, B, 0)]
    assert bench.read(0) == []
    assert bench.forwarder.stats(bench.device)["suppressed"] == 3


def test_a_modifier_is_carried_and_lifted_in_both(bench: Bench) -> None:
    bench.forwarder.carry(True)
    bench.flip(0)
    bench.type((KEY, LEFTSHIFT, 1))
    bench.type((KEY, A, 1))
    bench.flip(1)
    assert bench.read(0) == [
        *((KEY, LEFTSHIFT, 1), (KEY, A, 1)),
        *((KEY, A, 0), (KEY, LEFTSHIFT, 0)),
    ]
    assert bench.read(1) == [(KEY, LEFTSHIFT, 1)]
    bench.type((KEY, A, 0))
    bench.type((KEY, LEFTSHIFT, 0))
    bench.settle()
    assert bench.read(1) == [(KEY, LEFTSHIFT, 0)]
    assert bench.read(0) == []


def test_a_modifier_is_carried_on_and_back(bench: Bench) -> None:
    bench.forwarder.carry(True)
    bench.flip(0)
    bench.type((KEY, LEFTSHIFT, 1))
    bench.flip(1)
    bench.flip(0)
    bench.type((KEY, LEFTSHIFT, 0))
    bench.flip(1)
    assert bench.read(0) == [(KEY, LEFTSHIFT, 1), (KEY, LEFTSHIFT, 0)] * 2
    assert bench.read(1) == [(KEY, LEFTSHIFT, 1), (KEY, LEFTSHIFT, 0)]


def test_what_no_owner_held_or_is_let_go_is_not_carried(bench: Bench) -> None:
    bench.forwarder.carry(True)
    bench.type((KEY, LEFTSHIFT, 1))
    bench.flip(0)  # held at the first take: nobody's
    bench.flip(1)
    bench.type((KEY, LEFTSHIFT, 0))
    bench.type((KEY, LEFTCTRL, 1))
    bench.forwarder.release()
    bench.type((KEY, LEFTCTRL, 0))
    bench.forwarder.take(0)
    bench.settle()
    assert bench.read(0) == []
    assert bench.read(1) == [(KEY, LEFTCTRL, 1), (KEY, LEFTCTRL, 0)]


def test_the_hotkey_is_not_carried(bench: Bench) -> None:
    bench.forwarder.carry(True)
    bench.forwarder.chord(bench.device, [LEFTCTRL, RIGHTCTRL])
    bench.flip(0)
    bench.type((KEY, LEFTCTRL, 1))
    bench.type((KEY, A, 1))
    bench.type((KEY, A, 0))
    bench.type((KEY, RIGHTCTRL, 1))
    bench.flip(1)
    bench.type((KEY, LEFTCTRL, 0))
    bench.type((KEY, RIGHTCTRL, 0))
    bench.settle()
    assert bench.forwarder.notice() == (CHORD, bench.device)
    assert bench.read(0) == [(KEY, LEFTCTRL, 1), (KEY, A, 1), (KEY, A, 0), (KEY, LEFTCTRL, 0)]
    assert bench.read(1) == []


def test_a_sound_belongs_to_its_os(bench: Bench) -> None:
    bench.flip(0)
    bench.oses[0].send(EVENT.pack(0, 0, SND, TONE, 440))
    bench.oses[1].send(EVENT.pack(0, 0, SND, BELL, 1))
    heard = sounds(bench, 1)
    assert heard == [(TONE, 440)]
    bench.flip(1)
    assert sounds(bench, 2) == [(TONE, 0), (BELL, 1)]
    bench.flip(0)
    assert sounds(bench, 2) == [(BELL, 0), (TONE, 440)]


def test_a_sound_that_is_set_just_before_the_take_is_made_once(bench: Bench) -> None:
    for _ in range(100):
        bench.flip(0)
        bench.oses[1].send(EVENT.pack(0, 0, SND, BELL, 1))
        bench.flip(1)
        bench.oses[1].send(EVENT.pack(0, 0, SND, BELL, 0))
        assert sounds(bench, 2) == [(BELL, 1), (BELL, 0)]


def sounds(bench: Bench, count: int) -> list[tuple[int, int]]:
    """(code, value) of the next sounds that the hardware is to make."""
    found: list[tuple[int, int]] = []
    bench.hardware.settimeout(5)
    while len(found) < count:
        events = [event[2:] for event in EVENT.iter_unpack(bench.hardware.recv(4096))]
        found += [(code, value) for kind, code, value in events if kind == SND]
    bench.hardware.setblocking(False)
    return found


def test_two_owners_are_refused(bench: Bench) -> None:
    bench.forwarder.take(0)
    with pytest.raises(OSError, match="take") as caught:
        bench.forwarder.take(1)
    assert caught.value.errno == errno.EBUSY
    bench.type((KEY, A, 1))
    bench.settle()
    assert bench.read(0) == [(KEY, A, 1), (KEY, A, 0)]
    assert bench.read(1) == []


def test_the_hotkey_is_taken_back(bench: Bench) -> None:
    bench.forwarder.chord(bench.device, [LEFTCTRL, RIGHTCTRL])
    bench.flip(0)
    for event in ((LEFTCTRL, 1), (LEFTCTRL, 2), (RIGHTCTRL, 1), (RIGHTCTRL, 0), (LEFTCTRL, 0)):
        bench.type((KEY, *event))
    bench.settle()
    assert bench.forwarder.notice() == (CHORD, bench.device)
    assert bench.forwarder.notice() is None
    assert bench.read(0) == [(KEY, LEFTCTRL, 1), (KEY, LEFTCTRL, 2), (KEY, LEFTCTRL, 0)]


def test_both_keys_in_one_frame_are_a_hotkey_too(bench: Bench) -> None:
    bench.forwarder.chord(bench.device, [LEFTCTRL, RIGHTCTRL])
    bench.flip(0)
    bench.type((MSC, 4, 1), (KEY, LEFTCTRL, 1), (MSC, 4, 2), (KEY, RIGHTCTRL, 1))
    bench.settle()
    assert bench.forwarder.notice() == (CHORD, bench.device)
    assert [event for event in bench.read(0) if event[0] == KEY] == [
        (KEY, LEFTCTRL, 1),
        (KEY, LEFTCTRL, 0),
    ]


def test_a_key_of_the_hotkey_that_is_held_alone_arrives(bench: Bench) -> None:
    bench.forwarder.chord(bench.device, [LEFTCTRL, RIGHTCTRL])
    bench.flip(0)
    bench.type((KEY, LEFTCTRL, 1))
    until(lambda: bench.read(0) == [(KEY, LEFTCTRL, 1)], what="it is there while it is held")


def test_a_hotkey_lies_on_two_devices_while_a_third_key_hangs(bench: Bench) -> None:
    other, oses, device = bench.plug()
    for number in (bench.device, device):
        bench.forwarder.chord(number, [LEFTCTRL, RIGHTCTRL])
    bench.flip(0)
    bench.type((KEY, A, 1))
    bench.type((KEY, LEFTCTRL, 1))
    until(lambda: bench.forwarder.stats(bench.device)["events"] == 2, what="the first is read")
    other.send(EVENT.pack(0, 0, KEY, RIGHTCTRL, 1) + EVENT.pack(0, 0, SYN, 0, 0))
    until(lambda: bench.forwarder.stats(device)["events"] == 1, what="the second is read")
    assert bench.forwarder.notice() == (CHORD, device)
    assert bench.read(0) == [(KEY, A, 1), (KEY, LEFTCTRL, 1), (KEY, LEFTCTRL, 0)]
    assert bench.read(0, oses) == []
    bench.forwarder.remove(device)
    bench.type((KEY, RIGHTCTRL, 1))
    bench.settle()
    assert bench.forwarder.notice() == (CHORD, bench.device)


def test_a_part_of_the_hotkey_arrives_as_typed(bench: Bench) -> None:
    bench.forwarder.chord(bench.device, [LEFTCTRL, RIGHTCTRL])
    bench.flip(0)
    for event in ((LEFTCTRL, 1), (A, 1), (A, 0), (LEFTCTRL, 0), (RIGHTCTRL, 1), (RIGHTCTRL, 0)):
        bench.type((KEY, *event))
    bench.settle()
    assert bench.forwarder.notice() is None
    assert bench.read(0) == [
        (KEY, code, value)
        for code, value in (
            *((LEFTCTRL, 1), (A, 1), (A, 0), (LEFTCTRL, 0)),
            *((RIGHTCTRL, 1), (RIGHTCTRL, 0)),
        )
    ]


def test_a_modifier_is_there_before_another_device_speaks(bench: Bench) -> None:
    mouse, oses, _ = bench.plug()
    bench.forwarder.chord(bench.device, [LEFTCTRL, RIGHTCTRL])
    bench.flip(0)
    bench.type((KEY, LEFTCTRL, 1))
    bench.forwarder.take(0)  # nothing changes: but the frame is in before the mouse speaks
    wait_events(bench, 1)
    mouse.send(EVENT.pack(0, 0, KEY, 272, 1) + EVENT.pack(0, 0, SYN, 0, 0))
    bench.settle()
    assert bench.read(0)[0] == (KEY, LEFTCTRL, 1)
    assert bench.read(0, oses)[0] == (KEY, 272, 1)


def wait_events(bench: Bench, count: int) -> None:
    while bench.forwarder.stats(bench.device)["events"] < count:
        pass


def test_an_overlong_frame_is_dropped_and_counted(bench: Bench) -> None:
    bench.flip(0)
    for _ in range(10):
        bench.type(*[(REL, 0, 1)] * 60, report=False)
    bench.type()
    bench.type((REL, 0, 7))
    bench.settle()
    assert bench.read(0) == [(REL, 0, 7)]
    stats = bench.forwarder.stats(bench.device)
    assert stats["overflow"] == 257
    assert stats["resyncs"] == 1


def test_syn_dropped_leaves_no_half_frame(bench: Bench) -> None:
    bench.flip(0)
    bench.type((REL, 0, 1), (SYN, 3, 0), (REL, 0, 2))
    bench.type((REL, 0, 3))
    bench.settle()
    assert bench.read(0) == [(REL, 0, 3)]
    assert bench.forwarder.stats(bench.device)["resyncs"] == 1


def test_a_device_that_goes_is_noticed_once(bench: Bench) -> None:
    bench.hardware.close()
    seen: list[tuple[int, int]] = []
    while not seen:
        seen = [notice for _ in range(3) if (notice := bench.forwarder.notice())]
    assert seen == [(GONE, bench.device)]
    bench.forwarder.remove(bench.device)
    with pytest.raises(FileNotFoundError):
        bench.forwarder.remove(bench.device)


def test_leds_are_kept_for_each_os(bench: Bench) -> None:
    bench.flip(0)
    for os, code in ((0, 1), (1, 0)):
        bench.oses[os].send(EVENT.pack(0, 0, LED, code, 1))
    bench.flip(1)
    bench.flip(0)
    assert bench.forwarder.os_state(bench.device, 0) == (0b10, 0)
    assert bench.forwarder.os_state(bench.device, 1) == (0b01, 0)


typed = st.sampled_from((A, B, LEFTCTRL, RIGHTCTRL, LEFTSHIFT))
keys = st.tuples(st.just("key"), typed, st.integers(0, 2))
flips = st.tuples(st.just("flip"), st.integers(0, 1), st.just(0))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(keys, keys, flips), max_size=40), st.booleans(), st.booleans())
def test_every_os_sees_a_sound_keyboard(
    steps: list[tuple[str, int, int]], chord: bool, carry: bool
) -> None:
    """Whatever is typed and however it is flipped: each OS sees press, repeats, release in turn,
    nothing stays pressed, and the counters add up."""
    bench = Bench()
    try:
        bench.forwarder.carry(carry)
        if chord:
            bench.forwarder.chord(bench.device, [LEFTCTRL, RIGHTCTRL])
        for step, number, value in steps:
            if step == "flip":
                bench.flip(number)
            else:
                bench.type((KEY, number, value))
        bench.settle()
        for os in (0, 1):
            down: set[int] = set()
            for kind, code, value in bench.read(os):
                assert kind == KEY
                if value == 0:
                    down.remove(code)
                elif value == 2:
                    assert code in down
                else:
                    down.add(code)
            assert not down
            assert bench.forwarder.os_state(bench.device, os)[1] == 0
        stats = bench.forwarder.stats(bench.device)
        fates = ("forwarded", "unowned", "suppressed", "chord", "overflow", "failed")
        assert stats["events"] == sum(stats[fate] for fate in fates)
    finally:
        bench.close()


def test_a_watched_device_only_tells_its_hotkey(bench: Bench) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.setblocking(False)
        device = bench.forwarder.watch(theirs.fileno())
        bench.forwarder.chord(device, [LEFTCTRL, RIGHTCTRL])
        bench.forwarder.take(0)
        for event in ((A, 1), (LEFTCTRL, 1), (RIGHTCTRL, 1), (A, 0), (RIGHTCTRL, 0)):
            ours.send(EVENT.pack(0, 0, KEY, *event) + EVENT.pack(0, 0, SYN, 0, 0))
        ours.send(EVENT.pack(0, 0, KEY, RIGHTCTRL, 1) + EVENT.pack(0, 0, SYN, 0, 0))
        bench.settle()
        while bench.forwarder.stats(device)["events"] < 6:
            pass
        for _ in range(2):  # though A was down the first time
            assert bench.forwarder.notice() == (CHORD, device)
        assert bench.forwarder.notice() is None
        bench.forwarder.remove(device)
    assert bench.read(0) == []


devices = st.integers(0, 2)
FLIP = 3
strokes = st.tuples(devices, st.sampled_from((A, B, LEFTCTRL, RIGHTCTRL)), st.booleans())
flipping = st.tuples(st.just(FLIP), st.just(0), st.booleans())
EXAMPLES = int(environ.get("HOSTSIM_STROKES", "2000")) // 40
"""Of the next test, of some 40 strokes each."""


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.one_of(strokes, strokes, strokes, flipping), min_size=20, max_size=60))
def test_every_press_that_is_no_hotkey_arrives_once_and_in_order(
    strokes: list[tuple[int, int, bool]],
) -> None:
    """Devices 0 and 1 have the hotkey, 2 has none. Held against a model of a few lines."""
    bench = Bench()
    try:
        plugs = [(bench.hardware, bench.oses, bench.device), bench.plug(), bench.plug()]
        for number in (0, 1):
            bench.forwarder.chord(plugs[number][2], [LEFTCTRL, RIGHTCTRL])
        bench.flip(0)
        owner = 0
        physical: set[tuple[int, int]] = set()
        seen: set[tuple[int, int]] = set()
        expected: list[tuple[list[Event], list[Event]]] = [([], []), ([], []), ([], [])]
        fired = 0
        counts = [0, 0, 0]

        def whole() -> bool:
            return all(any((d, key) in physical for d in (0, 1)) for key in (LEFTCTRL, RIGHTCTRL))

        for number, code, down in strokes:
            if number == FLIP:
                for device, key in sorted(seen):
                    expected[device][owner].append((KEY, key, 0))
                seen.clear()
                owner = int(down)
                bench.flip(owner)
                continue
            if ((number, code) in physical) == down:
                continue  # the kernel reports changes only
            before = whole()
            (physical.add if down else physical.discard)((number, code))
            if whole() and not before:
                fired += 1
                for device, key in sorted(seen):
                    if device != 2 and key in (LEFTCTRL, RIGHTCTRL):
                        expected[device][owner].append((KEY, key, 0))
                        seen.discard((device, key))
            elif down or (number, code) in seen:
                expected[number][owner].append((KEY, code, int(down)))
                (seen.add if down else seen.discard)((number, code))
            plugs[number][0].send(
                EVENT.pack(0, 0, KEY, code, int(down)) + EVENT.pack(0, 0, SYN, 0, 0)
            )
            counts[number] += 1
            plug, end = plugs[number][2], time.monotonic() + 20
            while bench.forwarder.stats(plug)["events"] != counts[number]:
                assert time.monotonic() < end, "it is not read"
        for (_, oses, _), sides in zip(plugs, expected, strict=True):
            for number, events in enumerate(sides):
                assert bench.read(number, oses) == events
        notices = 0
        while bench.forwarder.notice() is not None:
            notices += 1
        assert notices == fired
    finally:
        bench.close()


def test_an_os_joins_and_leaves_a_device(bench: Bench) -> None:
    """It gets what is typed in its turn; another one with its number has nothing of it."""
    with pytest.raises(OSError, match="join") as there:
        bench.forwarder.join(bench.device, 1, bench.sockets[0].fileno())
    assert there.value.errno == errno.EEXIST
    bench.forwarder.take(1)
    with pytest.raises(OSError, match="leave") as owned:
        bench.forwarder.leave(bench.device, 1)
    assert owned.value.errno == errno.EBUSY
    bench.oses[1].send(b"".join(EVENT.pack(0, 0, *e) for e in ((LED, 0, 1), (SYN, 0, 0))))
    until(lambda: bench.forwarder.os_state(bench.device, 1)[0] == 1)
    bench.forwarder.release()
    bench.forwarder.leave(bench.device, 1)
    bench.forwarder.leave(bench.device, 1)
    with pytest.raises(FileNotFoundError):
        bench.forwarder.take(1, bench.device)
    assert bench.forwarder.os_state(bench.device, 1) == (0, 0)
    near, far = bench.pair()
    bench.forwarder.join(bench.device, 1, far.fileno())
    bench.forwarder.take(1)
    bench.type((KEY, A, 1), (KEY, A, 0))
    bench.settle()
    assert bench.read(0, [near]) == [(KEY, A, 1), (KEY, A, 0)]
    assert bench.read(1) == []
    near.send(b"".join(EVENT.pack(0, 0, *e) for e in ((LED, 1, 1), (SYN, 0, 0))))
    until(lambda: bench.forwarder.os_state(bench.device, 1)[0] == 2)


def test_a_device_has_no_clone_for_a_number_that_no_os_has(bench: Bench) -> None:
    pairs = [bench.pair() for _ in range(2)]
    device = bench.forwarder.add(pairs[0][1].fileno(), [pairs[1][1].fileno(), -1])
    bench.forwarder.take(0, device)
    bench.forwarder.release()
    with pytest.raises(FileNotFoundError):
        bench.forwarder.take(1, device)
    bench.forwarder.remove(device)
