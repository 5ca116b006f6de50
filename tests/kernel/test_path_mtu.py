# SPDX-License-Identifier: Apache-2.0
"""A router in a chain whose link takes shorter packets than the sender's: it tells the sender, also
of packets that its port does not take, and the message goes back through the policy (RFC 1191, RFC
8201). On each path that leads to a router, impaired or not."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext.ns.netns import socket_at
from help.net import Net, endpoint, made
from help.waiting import until
from netns import interfaces, tc

pytestmark = pytest.mark.root

BIG, SMALL = 9000, 1500
SERVER, SERVER6 = "198.18.0.20", "fd00:18::20"
ENDS = endpoint("client", "198.18.0.10/24", "fd00:18::10/64", more=f"mtu = {BIG}")
ENDS += endpoint("server", f"{SERVER}/24", f"{SERVER6}/64", more=f"mtu = {BIG}")
FW = '[[vm]]\nname = "fw"\naddress = ["198.18.0.1/24", "fd00:18::1/64"]\n'
PROTOCOLS = ("icmp", "icmpv6", "udp", "tcp")


def routes(through: str, bypass: str) -> str:
    return "".join(
        f'[[route]]\nmatch = {{ proto = "{proto}" }}\nthrough = [{through}]\nbypass = "{bypass}"\n'
        for proto in PROTOCOLS
    )


CHAINS = {
    "first": FW + routes('"fw"', "auto"),
    "second": f'{FW}mtu = {BIG}\n[[vm]]\nname = "ids"\n' + routes('"fw", "ids"', "never"),
    "past-the-switch": f'{FW}mtu = {BIG}\n[[vm]]\nname = "ids"\n' + routes('"fw", "ids"', "veth"),
    "as-on-a-wire": f"{FW}offload = false\n" + routes('"fw"', "auto"),
}
IMPAIRED = {
    "loss": 'of = "fw"\nloss = 1e-9',
    "delay": 'of = "fw"\ndelay = "2ms"\njitter = "1ms"',
    "rate": 'of = "fw"\nrate = "100mbit"',
    "sender": 'of = "client"\nduplicate = 1e-9',
}
CHAINS |= {name: f"{CHAINS['first']}[[link]]\n{link}\n" for name, link in IMPAIRED.items()}
CHAINS["second-impaired"] = f'{CHAINS["second"]}[[link]]\nof = "ids"\nloss = 1e-9\n'


TOLD = {
    SERVER: (28, "Frag needed and DF set (mtu = 1500)"),
    SERVER6: (48, "Packet too big: mtu=1500"),
}
"""Bytes of a ping's headers, and what ping says of the message."""
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0  # ip(7)
LONG = 5000
COUNT = 20


@pytest.fixture(params=CHAINS)
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Net]:
    """Its pings of identifier 7 go by the direct link, if there is one."""
    with made(f"pm{os.getpid()}", ENDS + CHAINS[request.param], tmp_path) as net:
        for target, name in ((SERVER, "icmp:198.18.0.10"), (SERVER6, "icmpv6:[fd00:18::10]")):
            for _ in range(2):
                net.ping(5, target, ident=7)
                net.pump()
            if request.param == "past-the-switch":
                assert ("fw", "ids", "veth") in net.hops(name)
        yield net


def pair(net: Net, kind: int) -> tuple[socket.socket, socket.socket]:
    """A socket of the client's, and one of the server's at port 7; the caller closes them."""
    near, far = (
        socket_at(net.vms[name].netns_fd, socket.AF_INET, kind, 0) for name in ("client", "server")
    )
    for one in (near, far):
        one.settimeout(20)
    far.bind((SERVER, 7))
    return near, far


def drops(net: Net) -> dict[str, int]:
    """What the client's datagrams have been lost by."""
    rows = net.dataplane.report.verify()
    (row,) = [row for row in rows if row["key"].startswith("udp:") and row["vm"] == "client"]
    return dict(row["drops"])


def cut_on_the_way(net: Net) -> None:
    """What may be cut comes whole."""
    near, far = pair(net, socket.SOCK_DGRAM)
    with near, far:
        near.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        near.sendto(os.urandom(LONG), (SERVER, 7))
        assert len(far.recv(1 << 16)) == LONG


def connection(net: Net) -> None:
    """It does not hang with the first long segment in either direction."""
    near, far = pair(net, socket.SOCK_STREAM)
    with near, far:
        far.listen()
        near.connect((SERVER, 7))
        there, _ = far.accept()
        with there:
            there.settimeout(20)
            for source, target in ((near, there), (there, near)):
                source.sendall(bytes(LONG))
                assert len(target.recv(LONG, socket.MSG_WAITALL)) == LONG


@pytest.mark.stock
def test_who_sends_too_long_packets_is_told(net: Net) -> None:
    cut_on_the_way(net)
    connection(net)
    net.ip("client", "route", "flush", "cache")
    for target, (headers, told) in TOLD.items():
        size = str(LONG - headers)
        words = ("ping", "-e", "7", "-M", "do", "-c", "1", "-W", "9", "-s", size, target)
        assert told in net.run("client", *words, check=False)
        assert f"mtu {SMALL}" in net.ip("client", "route", "get", target)
        net.ping(2, target, ident=7)
    net.pump()
    net.settled()
    net.conserved()


@pytest.mark.stock
@pytest.mark.parametrize("link", ['of = "fw"\ndirection = "in"', 'of = "client"'])
@pytest.mark.parametrize("what", ["down = true", "loss = 1"])
def test_no_packet_is_too_long_for_its_link_to_lose_it(
    link: str, what: str, tmp_path: Path
) -> None:
    """Defence: what is for a router goes out by the port, and past it only then."""
    text = f"{ENDS}{CHAINS['first']}[[link]]\n{link}\n{what}\n"
    with made(f"pm{os.getpid()}", text, tmp_path) as net:
        words = ("lladdr", net.vms["server"].mac, "dev", "eth0")
        net.ip("client", "neigh", "replace", SERVER, *words)  # else ARP's packets are lost
        near, far = pair(net, socket.SOCK_DGRAM)
        with near, far:
            near.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            for _ in range(COUNT):
                near.sendto(bytes(LONG), (SERVER, 7))
        net.pump()
        until(lambda: drops(net) == {"link-loss": COUNT})


@pytest.mark.stock
def test_none_is_lost_while_the_last_impairment_goes(tmp_path: Path) -> None:
    """A packet comes after each step of that. Defence: what passes it on goes last."""
    with made(f"pm{os.getpid()}", ENDS + CHAINS["loss"], tmp_path) as net:
        cut_on_the_way(net)
        for step in (
            net.dataplane.impairing({}),
            lambda: net.dataplane.impair({}),
            net.dataplane.let_go,
        ):
            step()
            cut_on_the_way(net)
        exits = interfaces.filters(net.switch.netns_fd, net.vms["fw"].port, tc.EGRESS)
        assert exits == []
        net.pump()
        net.settled()


@pytest.mark.stock
def test_a_router_without_an_address_may_take_longer_packets_than_the_ends(tmp_path: Path) -> None:
    """It has the way to each of them once."""
    ends = endpoint("client", "198.18.0.10/24") + endpoint("server", f"{SERVER}/24")
    text = f'{ends}[[vm]]\nname = "fw"\nmtu = {BIG}\n' + routes('"fw"', "auto")
    with made(f"pm{os.getpid()}", text, tmp_path) as net:
        net.ping(5)
        for way in (SERVER, "198.18.0.0/24"):
            assert net.ip("fw", "route", "show", way).count("\n") == 1
