# SPDX-License-Identifier: Apache-2.0
"""Floods of the control socket: who says nothing, half of something, or reads nothing, many times
over. Others are answered; what the daemon keeps is bounded, and back afterwards."""

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.cli import ask, host
from help.waiting import until
from hostsim import clients, protocol
from hostsim.daemon import NAME as DAEMON

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NAME = "hsfloods"
FILE = f"""
[host]
name = "{NAME}"
[[endpoint]]
name = "client"
address = "198.18.61.1/24"
[[vm]]
name = "fw"
address = "198.18.61.2/24"
"""
MANY = 300
ROOM = 128 << 20
"""Bytes that the daemon may have more once it was flooded: 50 MB seen."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a small host, its pid. It has answered before: what it needs for that is there."""
    with host(FILE, tmp_path_factory.mktemp("floods")):
        (pid,) = [row["pid"] for row in ask("ls") if row["host"] == NAME]
        ask("status", NAME)
        yield int(pid)


def files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> int:
    """Bytes of its own, and not of a child's copy."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


def children(pid: int) -> list[str]:
    """Those that answer."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = {}
    for one in found:
        with contextlib.suppress(OSError):  # it has just ended
            names[one] = Path(f"/proc/{one}/comm").read_text().strip()
    return [one for one, name in names.items() if name == DAEMON]


@contextlib.contextmanager
def flood(says: bytes, count: int = MANY) -> Iterator[list[socket.socket]]:
    """So many connections of this process; each sends as much of this as is taken, reads nothing,
    and stays."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            one.connect(f"/run/hostsim/{NAME}/control.sock")
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                one.send(says)
            made.append(one)
        yield made


def ended(connections: list[socket.socket]) -> int:
    """How many the daemon has closed, though what it said may be unread."""
    looks = select.poll()
    for one in connections:
        looks.register(one, 0)
    return sum(bool(event & select.POLLHUP) for _, event in looks.poll(0))


STATUS = protocol.encode({"op": "status"})
FLOODS = {
    "says-nothing": (b"", MANY),
    "half-a-request": (b'{"op": "sta', MANY),
    "half-a-long-one": (b"x" * (8 << 20), MANY),
    "reads-no-status": (STATUS * 2000, MANY),
    "reads-no-answer": (protocol.encode({"op": "links"}) * 5000, MANY),
    "reads-no-flows": (protocol.encode({"op": "flows"}) * 5000, 3),  # a fork for each that fits
}


@pytest.mark.parametrize(("says", "count"), FLOODS.values(), ids=FLOODS)
def test_a_flood_of_who(daemon: int, says: bytes, count: int) -> None:
    files_before, memory_before = files(daemon), memory(daemon)
    with flood(says, count) as connections:
        assert ask("status", NAME)["host"] == NAME
        assert ask("devices", "--host", NAME) == []
        until(lambda: ended(connections) >= count - clients.EACH, 30, "the others have had to go")
        assert files(daemon) <= files_before + 4 * clients.EACH
        assert memory(daemon) <= memory_before + ROOM
        assert ask("flows", NAME) == []
    until(lambda: files(daemon) <= files_before, 90, "its files are back")
    until(lambda: not children(daemon), 90, "nobody answers any more")
    assert memory(daemon) <= memory_before + ROOM


@pytest.mark.parametrize("says", [b'{"op": "sta', b"x" * (1 << 20)], ids=["short", "long"])
def test_half_a_request_ends_its_connection(daemon: int, says: bytes) -> None:
    with flood(says, 1) as connections:
        until(lambda: ended(connections) == 1, 90, "it has had its time")


@pytest.mark.parametrize("op", ["links", "status"])
def test_who_does_not_read_is_let_go(daemon: int, op: str) -> None:
    """It has its place for a while, and not for as long as an answer may take (80 s)."""
    with flood(protocol.encode({"op": op}) * 5000, 1) as connections:
        until(lambda: ended(connections) == 1, 90, "its connection is closed")
