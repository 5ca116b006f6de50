# SPDX-License-Identifier: Apache-2.0
"""The messages between the daemon and a packet function: there and back, and what is no message."""

import json
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cext.ring.channel import Shape
from hostsim.nf import wire

NUMBERS = st.integers(0, (1 << 32) - 1)
COUNTS = st.dictionaries(
    st.from_regex(r"[a-zA-Z0-9_.-]{1,64}", fullmatch=True),
    st.integers(0, (1 << 64) - 1),
    max_size=40,
)
MESSAGES = st.one_of(
    st.builds(wire.Open, st.text(max_size=40), st.text(max_size=40), *[NUMBERS] * 6),
    st.builds(wire.Neighbour, NUMBERS, st.builds(Shape, st.sampled_from(["isolated", "shared"]))),
    st.builds(wire.Forget, NUMBERS),
    st.builds(wire.Counters, COUNTS),
    st.sampled_from([wire.Loaded(), wire.Begin(), wire.Ready(), wire.Ask()]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
)


@given(MESSAGES)
def test_there_and_back(message: wire.Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(data)


@given(st.sampled_from(sorted(wire.KINDS)), st.dictionaries(st.text(max_size=9), VALUES))
def test_documents_that_are_no_message(kind: str, more: dict[str, object]) -> None:
    """None gets in with a field that is not its own, or of another type."""
    try:
        message = wire.decode(json.dumps({"do": kind, **more}).encode())
    except wire.WireError:
        return
    assert wire.decode(wire.encode(message)) == message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60000,
        "{}",
        '{"do": "nothing"}',
        '{"do": ["open"]}',
        '{"do": "forget", "vm": true}',
        '{"do": "forget", "vm": -1}',
        '{"do": "forget", "vm": 4294967296}',
        '{"do": "forget", "vm": 1, "more": 2}',
        '{"do": "counters", "counters": [1]}',
        '{"do": "counters", "counters": {"a": -1}}',
        '{"do": "counters", "counters": {"a": 1.5}}',
        '{"do": "counters", "counters": {"\\u001b[2J": 1}}',
        '{"do": "counters", "counters": {"a": 18446744073709551616}}',
        json.dumps({"do": "counters", "counters": {f"n{nth}": 1 for nth in range(257)}}),
    ],
)
def test_what_a_hostile_function_may_say(text: str) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(text.encode())


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield pair
    for end in pair:
        end.close()


Ends = tuple[socket.socket, socket.socket]


def test_descriptors_travel_beside_it(ends: Ends) -> None:
    one, other = ends
    with open(os.devnull) as file:
        wire.send(one, wire.Ready(), [file.fileno()])
        message, (fd,) = wire.receive(other)
        assert message == wire.Ready()
        assert os.path.sameopenfile(fd, file.fileno())
        assert not os.get_inheritable(fd)
        wire.close([fd])


@pytest.mark.parametrize("data", [b"", b"rubbish", b"x" * (wire.MESSAGE_MAX + 1)])
def test_no_descriptor_stays_open_beside_what_is_no_message(ends: Ends, data: bytes) -> None:
    one, other = ends
    with open(os.devnull) as file:
        before = os.listdir("/proc/self/fd")
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        socket.send_fds(one, [data], [file.fileno()] * 3)
        try:
            assert wire.receive(other) == (None, [])
        except wire.WireError:
            assert data
        assert os.listdir("/proc/self/fd") == before


def test_an_end_that_is_closed_is_seen_by_who_receives(ends: Ends) -> None:
    one, other = ends
    wire.send(one, wire.Ask())
    other.close()
    wire.send(one, wire.Ask())
    assert wire.receive(one) == (None, [])


def test_one_that_does_not_read_is_not_waited_for(ends: Ends) -> None:
    def many() -> None:
        for _ in range(100_000):
            wire.send(ends[0], wire.Ask())

    with pytest.raises(BlockingIOError):
        many()
