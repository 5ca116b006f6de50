# SPDX-License-Identifier: Apache-2.0
"""A packet that is longer than the next link takes is lost under one name, `too-long`, whoever is
next and by whichever path; its flow has lost it, to the packet."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from cext.ns.netns import socket_at
from help.chain import Chain, chained, route, vm
from help.net import Net, endpoint, made
from help.waiting import until
from hostsim.bench.chain import counts_of

pytestmark = pytest.mark.root

JUMBO = "mtu = 9000\n"
SHORT, LONG = 100, 3000
COUNT = 20
TOLD = {"too-long": COUNT}
ROUTER = '[[vm]]\nname = "fw"\naddress = "198.18.0.1/24"\n'


def ends(server: str = JUMBO) -> str:
    one = endpoint("client", "198.18.0.10/24", more=JUMBO)
    return one + endpoint("server", "198.18.0.20/24", more=server)


def send(net: Net, size: int, count: int = COUNT) -> None:
    """Datagrams of one flow, from the client to the server. The client's kernel believes that the
    way takes them, and cuts none."""
    net.ip("client", "route", "replace", "198.18.0.20", "dev", "eth0", "mtu", "9000")
    with socket_at(net.vms["client"].netns_fd, socket.AF_INET, socket.SOCK_DGRAM, 0) as sock:
        sock.bind(("198.18.0.10", 4000))
        for _ in range(count):
            sock.sendto(bytes(size), ("198.18.0.20", 7))
    net.pump()


def lost(net: Net) -> dict[str, dict[str, int]]:
    """What each VM's flow to the server has lost, but for what nobody listens to there."""
    rows = net.dataplane.report.verify()
    if any(row["missing"] or row["beside"] for row in rows):
        return {}  # something is under way
    return {row["vm"]: row["drops"] for row in rows if row["drops"] and row["vm"] != "server"}


def all_lost(net: Net, vm: str) -> None:
    """Every packet was this VM's loss, and the switch has named it."""
    until(lambda: lost(net) == {vm: TOLD})
    kernel = net.dataplane.report.kernel_drops()
    assert kernel is not None
    assert "NOT_SPECIFIED" not in kernel[""]


def loses_the_long(text: str, tmp_path: Path) -> None:
    """What is too long is the client's loss; the others arrive."""
    with made(f"tl{os.getpid()}", text, tmp_path) as net:
        send(net, SHORT)
        send(net, LONG)
        all_lost(net, "client")


@pytest.mark.stock
def test_an_endpoint(tmp_path: Path) -> None:
    loses_the_long(ends(""), tmp_path)


@pytest.mark.stock
@pytest.mark.parametrize("link", ["loss = 1e-9", 'delay = "1ms"', 'rate = "1gbit"'])
def test_an_impaired_link(link: str, tmp_path: Path) -> None:
    """To an endpoint; a router tells who sends (test_path_mtu.py)."""
    loses_the_long(f'{ends("")}[[link]]\nof = "server"\n{link}\n', tmp_path)


@pytest.mark.stock
def test_a_router_with_a_rate(tmp_path: Path) -> None:
    """Nothing goes past its queue."""
    text = f'{ends()}{ROUTER}rate = "100mbit"\n' + route('proto = "udp"', "fw")
    loses_the_long(text, tmp_path)


@pytest.mark.stock
def test_a_vm_that_takes_shorter_packets_than_it_was_made_for(tmp_path: Path) -> None:
    """User 0 there may say so; its port does not hear of it."""
    text = ends() + ROUTER + route('proto = "udp"', "fw")
    with made(f"tl{os.getpid()}", text, tmp_path) as net:
        send(net, SHORT)
        net.ip("fw", "link", "set", "eth0", "mtu", "1000")
        send(net, 1300)
        all_lost(net, "client")


def settled_ring(chain: Chain) -> None:
    """The flow goes by ring. All are there before more are sent: no socket gets full."""
    for _ in range(20):
        send(chain.net, SHORT)
        chain.sync()
        chain.net.settled()
        if ("one", "two", "ring") in chain.net.hops("udp:198.18.0.10:4000>"):
            return
    pytest.fail("no ring")


def test_a_function_by_switch(tmp_path: Path) -> None:
    text = ends() + vm("one") + route('proto = "udp"', "one")
    with chained(text, tmp_path) as chain:
        send(chain.net, SHORT)
        send(chain.net, LONG)
        all_lost(chain.net, "client")
        assert chain.counter("one", "too_long") == 0


@pytest.mark.parametrize("ring", ["isolated", "shared"])
@pytest.mark.parametrize("short", ["one", "two"])
def test_a_function_by_ring(ring: str, short: str, tmp_path: Path) -> None:
    """It gets by ring what the switch would deliver, and nothing longer."""
    functions = "".join(vm(name) + (JUMBO if name != short else "") for name in ("one", "two"))
    text = ends() + functions + route('proto = "udp"', "one two", f'ring = "{ring}"')
    with chained(text, tmp_path) as chain:
        settled_ring(chain)
        send(chain.net, LONG)
        loser = "client" if short == "one" else "one"
        until(lambda: lost(chain.net) == {loser: TOLD})
        ports = counts_of(chain.functions)
        assert ports["one"]["too_long"] == (COUNT if loser == "one" else 0)
        assert ports["two"]["too_long"] == 0
        send(chain.net, 1472)  # as long as may be
        wanted = ports["two"]["ring_in"] + COUNT
        until(lambda: chain.counter("two", "ring_in") == wanted)


@pytest.mark.stock
def test_what_a_function_sends_to_the_switch(tmp_path: Path) -> None:
    """Its frames have no place in them yet that says where the packet begins."""
    text = ends() + vm("one") + route('proto = "udp"', "one")
    with chained(text, tmp_path) as chain:
        net = chain.net
        send(net, SHORT)
        switch = ("ip", "-n", f"hs-{net.spec.name}-switch", "link", "set", "one", "mtu", "1000")
        subprocess.run(switch, check=True)
        send(net, 1300)
        until(lambda: lost(net) == {"one": TOLD})
