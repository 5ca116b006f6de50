# SPDX-License-Identifier: Apache-2.0
"""The share of packets that a link loses, packet by packet: within the 99.9 % interval behind hops
of every path, the same packets for the same seed, and the books hold.

HOSTSIM_LINK_PACKETS says how many packets; by hand, 1000000. The sender is WINDOW packets ahead of
what has come at most, so that nothing is lost but by the link; the link says how many did not come.
"""

import contextlib
import math
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from help.net import ENDS_V4
from help.waiting import until
from hostsim import Host
from hostsim.lab.answers import Link

pytestmark = pytest.mark.root

COUNT = int(os.environ.get("HOSTSIM_LINK_PACKETS", "5000"))
WINDOW = 400  # packets under way; a packet function's socket holds 1024
FEW = 100  # after which a flow has its path
SHARE = 0.01
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python has no name for it
PORT = 4000
NF = {"switch": "", "veth": "", "ring": 'nf = "forward"\n'}
BYPASS = {"switch": "never", "veth": "veth", "ring": "ring"}


@pytest.fixture(params=NF)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def net(path: str) -> Iterator[Host]:
    vms = "".join(f'[[vm]]\nname = "{name}"\n{NF[path]}' for name in ("one", "two"))
    route = '[[route]]\nmatch = { proto = "udp" }\nthrough = ["one", "two"]\n'
    text = f'[host]\nname = "hshare"\n{ENDS_V4}{vms}{route}bypass = "{BYPASS[path]}"\n'
    with Host.from_toml(text) as host:
        yield host


class Line:
    """A flow from the client to the server; `send` says which of its packets came."""

    def __init__(self, host: Host) -> None:
        self._host = host
        client, server = host["client"], host["server"]
        for other, address in ((server, "198.18.0.20"), (client, "198.18.0.10")):
            mac = other.run("cat", "/sys/class/net/eth0/address", check=True).stdout.strip()
            words = ("ip", "neigh", "replace", address, "lladdr", mac, "dev", "eth0")
            for name in host:  # ARP's packets would be counted
                if name != other.name:
                    host[name].run(*words, "nud", "permanent", check=True)
        with contextlib.ExitStack() as sockets:
            self._to, self._from = (
                sockets.enter_context(node.socket(socket.AF_INET, socket.SOCK_DGRAM))
                for node in (client, server)
            )
            self._from.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
            self._from.settimeout(20)
            self._from.bind(("198.18.0.20", PORT))
            self._to.bind(("198.18.0.10", PORT))
            self._to.connect(("198.18.0.20", PORT))
            self._sockets = sockets.pop_all()

    def close(self) -> None:
        self._sockets.close()

    def send(self, count: int, settled: Callable[[], bool]) -> set[int]:
        """Numbers of the packets that were lost. All but the first FEW go once it has settled."""
        came: set[int] = set()
        latest = -1
        for number in range(count):
            if number == FEW:
                until(settled, 20, "the path is there")
            self._to.send(struct.pack("=I", number))
            while number - latest >= WINDOW:
                latest = max(latest, self._next(came))
        wanted = count - self._lost(count)
        while len(came) < wanted:
            self._next(came)
        return set(range(count)) - came

    def _next(self, came: set[int]) -> int:
        number = int(struct.unpack("=I", self._from.recv(64))[0])
        came.add(number)
        return number

    def pass_on(self) -> None:
        """One packet, which comes."""
        self._to.send(b"warm")
        assert self._from.recv(64) == b"warm"

    def _lost(self, sent: int) -> int:
        """How many the link has lost, once it has had so many."""
        until(lambda: packets(self.link()) >= sent, 30, f"{sent} packets at the link")
        link = self.link()
        return link.lost - link.groups_lost

    def link(self) -> Link:
        (link,) = self._host.links()
        return link


def packets(link: Link) -> int:
    """Those of the flow: a kernel sends to groups when it likes."""
    return link.packets - link.groups


@pytest.fixture
def line(net: Host) -> Iterator[Line]:
    line = Line(net)
    yield line
    line.close()


def goes_by(host: Host, path: str) -> bool:
    paths = {(hop.vm, hop.path) for flow in host.flows("udp:*") for hop in flow.hops}
    return ("one", path) in paths


def lost(host: Host, line: Line, seed: int, path: str) -> set[int]:
    """What is lost of COUNT packets, nearly all of which go by this path: if a link is impaired,
    each flow goes by the switch again until it has its path."""
    host["server"].link()
    host["server"].link(loss=SHARE, seed=seed, direction="in")
    with one_cpu():
        return line.send(COUNT, lambda: goes_by(host, path))


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """What a thread sends changes places if the thread changes its CPU: the queue of the one it has
    left may still hold packets (veth, netif_rx)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_the_share_the_seed_and_the_books(net: Host, line: Line, path: str) -> None:
    def there() -> bool:
        line.pass_on()
        return goes_by(net, path)

    until(there, 20, f"the hop one -> two by {path}")
    total = 0
    for _ in range(3):  # a packet of a kernel's own that comes between is numbered too
        first = lost(net, line, 7, path)
        link = line.link()
        again = lost(net, line, 7, path)
        total += len(first) + len(again)
        if packets(link) == packets(line.link()) == COUNT and first == again:
            break
    share = len(first)
    print(f"{path}: {share} of {COUNT} lost")
    assert (COUNT, share) == (packets(link), link.lost - link.groups_lost)
    deviation = math.sqrt(COUNT * SHARE * (1 - SHARE))
    assert abs(share - COUNT * SHARE) <= 3.29 * deviation, link
    assert goes_by(net, path)
    assert again == first
    rows = net.verify("udp:*")
    assert not [row for row in net.verify() if row.missing], rows
    assert sum(row.drops.get("link-loss", 0) for row in rows) == total
    assert {name for row in rows for name in row.drops} == {"link-loss"}
