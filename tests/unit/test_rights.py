# SPDX-License-Identifier: Apache-2.0
"""Descriptors that nobody asked for: the kernel refuses them, or a thread of their own closes them,
and never who receives the message or closes the socket."""

import os
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from help.waiting import until
from hostsim.nf import wire
from netns import rights

Pair = tuple[socket.socket, socket.socket]
KINDS = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]


@pytest.fixture(params=KINDS, ids=["stream", "seqpacket"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    one, two = socket.socketpair(socket.AF_UNIX, request.param)
    with one, two:
        yield one, two


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Thread and number of descriptors, of each time that some were closed."""
    found: list[tuple[str, int]] = []
    close = rights.close

    def told(fds: Sequence[int]) -> None:
        close(fds)
        found.append((threading.current_thread().name, len(fds)))

    monkeypatch.setattr(rights, "close", told)
    return found


def send(sock: socket.socket, count: int, data: bytes = b"x") -> int:
    """The ends of a pipe that one can write to, all in one message; the end to read from, which
    tells the last one's close."""
    ours, theirs = os.pipe()
    try:
        socket.send_fds(sock, [data], [theirs] * count)
    finally:
        os.close(theirs)
    return ours


def test_the_kernel_refuses_them(pair: Pair) -> None:
    one, two = pair
    if rights.refuse(two):
        with pytest.raises(PermissionError):
            os.close(send(one, 1))
        one.send(b"x")
    else:  # before Linux 6.16
        os.close(send(one, 1))
    assert two.recv(1) == b"x"


def test_a_connection_has_it_from_its_listener() -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as one:
        quick = rights.refuse(listener)
        listener.bind("")  # a name that the kernel chooses (unix(7), autobind)
        listener.listen()
        one.connect(listener.getsockname())
        if quick:
            with pytest.raises(PermissionError):
                os.close(send(one, 1))
        listener.accept()[0].close()


@pytest.mark.parametrize("count", [1, rights.SCM_MAX])
def test_a_thread_closes_what_came_along(
    pair: Pair, closed: list[tuple[str, int]], count: int
) -> None:
    one, two = pair
    closer = rights.Closer(False)
    ours = send(one, count)
    assert closer.receive(two, 10) == (b"x", True)
    assert os.read(ours, 1) == b""  # the last one is closed
    os.close(ours)
    until(lambda: closed == [("closer", count)])
    one.send(b"y")
    assert closer.receive(two, 10) == (b"y", False)


def test_a_thread_closes_a_socket_in_which_some_wait(pair: Pair) -> None:
    one, two = pair
    ours = send(one, 3)
    rights.Closer(False).close(two)
    assert os.read(ours, 1) == b""
    os.close(ours)
    until(lambda: two.fileno() < 0)


def test_much_to_close_is_busy() -> None:
    closer, go = rights.Closer(False), threading.Event()
    pairs = [socket.socketpair() for _ in range(rights.BUSY)]

    class Slow(socket.socket):
        def close(self) -> None:
            go.wait(20)
            super().close()

    for one, two in pairs:
        assert not closer.busy
        closer.close(Slow(fileno=one.detach()))
        two.close()
    assert closer.busy
    go.set()
    until(lambda: closer.idle)


def test_a_function_sends_none(closed: list[tuple[str, int]]) -> None:
    """Neither beside what is a message, nor beside what is none, nor more than a message has."""
    closer = rights.Closer(False)
    for data, count in ((b"{", 1), (wire.encode(wire.Loaded()), 200)):
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with one, two:
            ours = send(one, count, data)
            with pytest.raises(wire.WireError):
                wire.receive(two, closer.shed)
            assert os.read(ours, 1) == b""
            os.close(ours)
    until(lambda: closed == [("closer", 1), ("closer", 200)])
