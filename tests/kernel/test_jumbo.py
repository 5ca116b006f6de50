# SPDX-License-Identifier: Apache-2.0
"""Frames of up to 9000 bytes through packet functions: over the switch, and by both kinds of rings.

The kernel hands them over in pieces of a page, and takes them so (cext/port/xsk.h).
"""

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext.ns.netns import socket_at
from help.chain import Chain, chained, route, vm
from help.net import endpoint
from hostsim.bench.chain import counts_of

pytestmark = pytest.mark.root

MTU = 9000
HEADERS = 28
"""An IPv4 header and a UDP header."""
SIZES = (0, 1, 1472, 1473, 3826, 4096, 4097, 7666, 8191, 8971, MTU - HEADERS)
COUNT = 2400
"""More than a function has frames: one that is not given back would be missed."""
BURST = 24
SO_RCVBUFFORCE = 33


def host(path: str) -> str:
    big = f"mtu = {MTU}\n"
    ends = endpoint("client", "198.18.0.10/24", more=big)
    ends += endpoint("server", "198.18.0.20/24", more=big)
    more = 'bypass = "never"' if path == "switch" else f'ring = "{path}"'
    functions = "".join(vm(name) + big for name in ("one", "two", "three"))
    return ends + functions + route('proto = "udp"', "one two three", more)


@contextlib.contextmanager
def ends(chain: Chain) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket of the client and one of the server, connected to each other."""
    names = {"client": ("198.18.0.10", 4000), "server": ("198.18.0.20", 7)}
    with contextlib.ExitStack() as stack:
        made = {}
        for name, address in names.items():
            fd = chain.net.vms[name].netns_fd
            made[name] = stack.enter_context(socket_at(fd, socket.AF_INET, socket.SOCK_DGRAM, 0))
            made[name].bind(address)
            made[name].settimeout(10)
            made[name].setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        made["client"].connect(names["server"])
        made["server"].connect(names["client"])
        yield made["client"], made["server"]


def exchange(one: socket.socket, other: socket.socket, count: int, seed: int) -> None:
    """Datagrams of all sizes, there and back, a few at a time; each has to come, as it was."""
    dice = random.Random(seed)
    for first in range(0, count, BURST):
        sent = [dice.randbytes(dice.choice(SIZES)) for _ in range(first, min(first + BURST, count))]
        for source, target in ((one, other), (other, one)):
            for data in sent:
                source.send(data)
            assert [target.recv(1 << 16) for _ in sent] == sent


@pytest.mark.parametrize("path", ["switch", "isolated", "shared"])
def test_frames_of_all_sizes_come_as_they_were(path: str, tmp_path: Path) -> None:
    with chained(host(path), tmp_path) as chain, ends(chain) as (client, server):
        for _ in range(3):
            exchange(client, server, 10, 1)
            chain.sync()
        exchange(client, server, COUNT, 2)
        wanted = "switch" if path == "switch" else "ring"
        hops = [hop["path"] for hop in chain.net.flow("udp:198.18.0.10:4000>")["hops"]]
        assert hops == [wanted, wanted, "switch"]
        chain.net.settled()
        assert all(counts["too_long"] == 0 for counts in counts_of(chain.functions).values())


def test_what_is_longer_than_the_mtu_is_cut_by_ip(tmp_path: Path) -> None:
    with chained(host("isolated"), tmp_path) as chain, ends(chain) as (client, server):
        data = random.Random(3).randbytes(3 * MTU)
        client.send(data)
        assert server.recv(1 << 16) == data
