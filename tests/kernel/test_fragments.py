# SPDX-License-Identifier: Apache-2.0
"""The fragments of a datagram go one way, whatever the later ones say: its receiver puts them
together by less than a match may ask for. It takes the protocol (over IPv6), the DSCP and the ports
from the first one alone, and never asks by whose port a fragment came in.
"""

import contextlib
import struct
from collections.abc import Iterator

import pytest

from help.frames import GRE, MF, SCTP, UDP, UDPLITE, ipv4, ipv6
from help.net import ENDS, Net, endpoint, made
from help.receiver import Ear, Wire, swallows
from help.waiting import until

pytestmark = pytest.mark.root

HOST = (
    ENDS
    + endpoint("forger", "198.18.0.30/24", "fd00:18::30/64")
    + """
[[vm]]
name = "hole"
[[route]]
match = { proto = "sctp", from = "client", dst = ["198.18.0.20", "fd00:18::20"] }
through = ["hole"]
[[route]]
match = { proto = "udplite" }
through = ["hole"]
[[route]]
match = { dscp = 46, dst = ["198.18.0.20", "fd00:18::20"] }
through = ["hole"]
"""
)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with made("frag", HOST, tmp_path_factory.mktemp("frag")) as net:
        swallows(net, "hole")
        yield net


class Case:
    """Fragments on their way from an endpoint to the server, with the client's address."""

    def __init__(self, net: Net, sender: str) -> None:
        self.net, self.wire = net, Wire(net, sender)
        self.ear = Ear(net, "server")

    def close(self) -> None:
        self.wire.close()
        self.ear.close()

    def four(self, ident: int, proto: int, tos: tuple[int, int] = (0, 0)) -> list[bytes]:
        """Two fragments of an IPv4 datagram; tos: of the one, of the other."""
        ends, whole = self.wire.ends, struct.pack("!HHHH", 4000, 7, 32, 0) + bytes(24)
        said = [(MF, whole[:16], tos[0]), (2, whole[16:], tos[1])]
        head = ends.mac + ends.here + b"\x08\0"
        return [
            head + ipv4(ends.src4, ends.dst4[0], proto, part, ident=ident, frag=frag, tos=of)
            for frag, part, of in said
        ]

    def six(self, ident: int, *protos: int) -> list[bytes]:
        """Fragments of an IPv6 datagram, each of which says another protocol."""
        ends = self.wire.ends
        whole = struct.pack("!HHHH", 4000, 7, 16 * len(protos), 0) + bytes(16 * len(protos) - 8)
        head = ends.mac + ends.here + b"\x86\xdd"
        found = []
        for at, proto in enumerate(protos):
            more = at < len(protos) - 1
            front = struct.pack("!BBHI", proto, 0, 16 * at | more, ident)
            part = front + whole[16 * at : 16 * at + 16]
            found.append(head + ipv6(ends.src6, ends.dst6[0], 44, part))
        return found

    def sent(self, *several: bytes) -> tuple[list[int], dict[str, int]]:
        """Which of these frames came to the server, by their places, and what was counted."""
        names = ("orphan-fragment", "fragment-conflict", "malformed")
        before = self.net.dataplane.report.counters()
        self.wire.send(list(several))
        after = self.net.dataplane.report.counters()
        found = self.ear.all()
        came = [at for at, frame in enumerate(several) if frame in found]
        return came, {one: after[one] - before[one] for one in names if after[one] > before[one]}


@pytest.fixture
def client(net: Net) -> Iterator[Case]:
    with contextlib.closing(Case(net, "client")) as case:
        yield case


@pytest.fixture
def forger(net: Net) -> Iterator[Case]:
    with contextlib.closing(Case(net, "forger")) as case:
        yield case


def test_a_later_fragment_that_names_another_protocol_goes_with_its_first(client: Case) -> None:
    until(lambda: client.sent(*client.six(1, GRE, GRE))[0] == [0, 1])
    into_the_hole = client.net.port("hole")["tx_packets"]
    assert client.sent(*client.six(2, UDPLITE, GRE, UDP, 60)) == ([], {})
    until(lambda: client.net.port("hole")["tx_packets"] >= into_the_hole + 4)
    assert client.sent(*client.six(3, GRE, UDPLITE, SCTP)) == ([0, 1, 2], {})


def test_a_later_fragment_that_comes_first_waits_for_its_protocol(client: Case) -> None:
    first, second = client.six(4, UDPLITE, GRE)
    into_the_hole = client.net.port("hole")["tx_packets"]
    assert client.sent(second, first) == ([], {})
    until(lambda: client.net.port("hole")["tx_packets"] >= into_the_hole + 2)
    first, second = client.six(5, GRE, GRE)
    came = client.sent(second, first)[0]
    assert came[-1] == 1
    until(lambda: 0 in came or second in client.ear.all(), 20, "it comes after it")
    counters = client.net.dataplane.report.counters
    before = counters()["orphan-fragment"]
    assert client.sent(*client.six(10, GRE, GRE)[1:])[0] == []
    until(lambda: counters()["orphan-fragment"] == before + 1, 20, "no first one ever comes")


def test_a_second_first_fragment_of_another_protocol_is_dropped(client: Case) -> None:
    first, _ = client.six(6, UDPLITE, UDPLITE)
    forged, later = client.six(6, GRE, GRE)
    assert client.sent(first, forged, later) == ([], {"fragment-conflict": 1})


def test_a_later_fragment_that_comes_first_waits_for_its_dscp(client: Case) -> None:
    first, second = client.four(7, UDP, (46 << 2, 0))
    into_the_hole = client.net.port("hole")["tx_packets"]
    assert client.sent(second, first) == ([], {})
    until(lambda: client.net.port("hole")["tx_packets"] >= into_the_hole + 2)
    first, second = client.four(8, UDP, (46 << 2, 0))
    assert client.sent(first, second) == ([], {})


def test_a_fragment_that_comes_first_has_the_owner_of_its_source(forger: Case) -> None:
    """Whoever sends packets of a `from` is judged by them, as by whole ones."""
    into_the_hole = forger.net.port("hole")["tx_packets"]
    assert forger.sent(*forger.four(9, SCTP)[::-1]) == ([], {})
    until(lambda: forger.net.port("hole")["tx_packets"] >= into_the_hole + 2)
