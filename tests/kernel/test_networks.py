# SPDX-License-Identifier: Apache-2.0
"""What a host file says of a VM's own network: mtu, gateway, routes, offload; and names in VMs."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext.ns.netns import socket_at
from help.net import Net, endpoint, made
from help.programs import program
from hostsim import etc
from hostsim.nf.settings import checksum

pytestmark = pytest.mark.root

JUMBO = 9000
ICMP_HEADERS = 28
"""An IPv4 header and an ICMP header: what ping puts before its data."""


def vm(name: str, address: str, more: str = "") -> str:
    return f'[[vm]]\nname = "{name}"\naddress = "{address}"\n{more}\n'


def ends(mtu: int) -> str:
    more = f"mtu = {mtu}"
    return endpoint("client", "198.18.0.10/24", "fd00:18::10/64", more=more) + endpoint(
        "server", "198.18.0.20/24", "fd00:18::20/64", more=more
    )


def route(bypass: str, through: str = '"fw", "ids"', proto: str = "icmp") -> str:
    return (
        f'[[route]]\nmatch = {{ proto = "{proto}" }}\nthrough = [{through}]\nbypass = "{bypass}"\n'
    )


@contextlib.contextmanager
def network(text: str, folder: Path) -> Iterator[Net]:
    with made(f"nw{os.getpid()}", text, folder) as net:
        yield net


def echo(net: Net, size: int, target: str = "198.18.0.20", count: int = 20) -> str:
    """Echo requests of one flow, in packets of that size, which nobody may cut in pieces."""
    words = ("ping", "-q", "-e", "7", "-M", "do", "-i", "0.02", "-W", "2", "-c", str(count))
    return net.run("client", *words, "-s", str(size - ICMP_HEADERS), target, check=False)


@pytest.mark.parametrize(("bypass", "path"), [("never", "switch"), ("veth", "veth")])
def test_jumbo_frames_through_a_chain(bypass: str, path: str, tmp_path: Path) -> None:
    big = f"mtu = {JUMBO}"
    text = ends(JUMBO) + vm("fw", "198.18.0.1/24", big) + vm("ids", "198.18.0.2/24", big)
    with network(text + route(bypass), tmp_path) as net:
        assert "20 received" in echo(net, JUMBO)
        net.pump()
        assert "20 received" in echo(net, JUMBO)
        assert net.hops("icmp:198.18.0.10")[0] == ("fw", "ids", path)
        net.settled()
        net.conserved()
        assert "20 received" not in echo(net, JUMBO + 1)
        assert net.run("client", "cat", "/sys/class/net/eth0/mtu").strip() == str(JUMBO)


def test_what_is_too_long_for_the_next_vm_is_lost_on_each_path(tmp_path: Path) -> None:
    """A link past the switch takes no packet that the switch would not deliver."""
    text = ends(JUMBO) + vm("fw", "198.18.0.1/24", f"mtu = {JUMBO}") + vm("ids", "198.18.0.2/24")
    with network(text + route("veth"), tmp_path) as net:
        assert "20 received" in echo(net, 1500)
        net.pump()
        assert "20 received" in echo(net, 1500)
        assert net.hops("icmp:198.18.0.10")[0] == ("fw", "ids", "veth")
        assert "0 received" in echo(net, 1600, count=2)


def test_who_takes_shorter_packets_is_known(tmp_path: Path) -> None:
    """The sender's kernel knows; a router on the way tells a sender that does not."""
    near = endpoint("client", "198.18.0.10/24", more=f'mtu = {JUMBO}\ngateway = "198.18.0.1"')
    far = endpoint("server", "198.19.0.20/24", more='gateway = "198.19.0.1"')
    both = '[[vm]]\nname = "fw"\naddress = ["198.18.0.1/24", "198.19.0.1/24"]\nmtu = 9000\n'
    beside = endpoint("beside", "198.18.0.30/24")
    text = near + far + beside + both + route("auto", '"fw"')
    with network(text, tmp_path) as net:
        assert "20 received" in echo(net, 1500, "198.19.0.20")
        assert "Frag needed and DF set (mtu = 1500)" in net.run(
            "client", "ping", "-M", "do", "-c", "1", "-W", "2", "-s", "2000", "198.19.0.20",
            check=False,
        )  # fmt: skip
        assert "mtu 1500" in net.ip("client", "route", "get", "198.19.0.20")
        assert "mtu 1500" in net.ip("client", "route", "get", "198.18.0.30")
        assert "0 received" in echo(net, 1600, "198.18.0.30", count=1)


def test_gateway_and_routes(tmp_path: Path) -> None:
    four = '["203.0.113.0/24 via 198.18.0.2 mtu 1400", "192.0.2.0/24", "198.19.0.0/24"]'
    one = endpoint(
        "client",
        "198.18.0.10/24",
        "fd00:18::10/64",
        more=f'gateway = ["198.18.0.1", "fd00:18::1"]\nroutes = {four}',
    )
    text = one + endpoint("server", "198.18.7.20/24", "fd00:19::20/64") + endpoint(
        "other", "198.19.0.9/24"
    )  # fmt: skip
    with network(text, tmp_path) as net:
        routes = net.ip("client", "route")
        assert "default via 198.18.0.1 dev eth0" in routes
        assert "203.0.113.0/24 via 198.18.0.2 dev eth0 proto static mtu 1400" in routes
        assert "192.0.2.0/24 dev eth0 proto static scope link" in routes
        assert "198.19.0.0/24 dev eth0 proto static scope link" in routes
        assert "198.18.7.0/24" not in routes  # the gateway's
        assert "default via fd00:18::1 dev eth0" in net.ip("client", "-6", "route")
        assert "fd00:19::/64" not in net.ip("client", "-6", "route")
        assert "198.18.0.0/24 dev eth0 proto static scope link" in net.ip("server", "route")


def seen(sock: socket.socket, port: int) -> list[bytes]:
    """The TCP frames to that port that a packet socket has received."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = sock.recv(1 << 17, socket.MSG_DONTWAIT)
            if frame[12:14] == b"\x08\x00" and frame[23] == 6 and frame[36:38] == port.to_bytes(2):
                found.append(frame)
    return found


def whole(frame: bytes) -> bool:
    """Whether the TCP checksum of an IPv4 frame is right (RFC 9293)."""
    length = int.from_bytes(frame[16:18]) - 20
    pseudo = frame[26:34] + b"\0\x06" + length.to_bytes(2)
    return checksum(pseudo + frame[34 : 34 + length]) == 0


@pytest.mark.parametrize("offload", [True, False])
def test_without_offload_packets_are_as_on_a_wire(*, offload: bool, tmp_path: Path) -> None:
    more = "" if offload else "offload = false"
    text = ends(1500) + vm("fw", "198.18.0.1/24") + vm("ids", "198.18.0.2/24", more)
    with network(text + route("auto", proto="tcp"), tmp_path) as net:
        server = net.serve("server", program("tcp", "sink", 80))
        sock = socket_at(net.vms["ids"].netns_fd, socket.AF_PACKET, socket.SOCK_RAW, 0x0300)
        with contextlib.closing(server), sock:
            sock.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            net.run("client", *program("tcp", "fill", "198.18.0.20", 80, 1 << 20))
            net.pump()
            frames = seen(sock, 80)
        assert len(frames) > 10
        plain = max(map(len, frames)) <= 1514 and all(map(whole, frames))
        assert plain is not offload
        hops = {hop["vm"]: hop for hop in net.flow("tcp:198.18.0.10")["hops"]}
        if not offload:
            assert (hops["fw"]["path"], hops["fw"]["reason"]) == (
                "switch",
                "ids has offload = false: the switch must see its packets",
            )


def test_names_of_vms_resolve_in_vms(tmp_path: Path) -> None:
    text = ends(1500) + vm("fw", "198.18.0.1/24")
    with network(text, tmp_path) as net:
        assert "198.18.0.20" in net.run("fw", "getent", "ahostsv4", "server")
        assert "fd00:18::10" in net.run("server", "getent", "ahostsv6", "client")
        assert "127.0.0.1" in net.run("fw", "getent", "ahostsv4", "localhost")
        before = net.vms["fw"].names
        net.run("server", "sh", "-c", "echo 198.18.0.99 mine >> /etc/hosts")
        for one in ("fw", "server"):
            etc.rename(net.vms[one].pid, before, "198.18.0.77 new\n")
        assert "198.18.0.77" in net.run("fw", "getent", "ahostsv4", "new")
        assert net.run("fw", "getent", "ahostsv4", "server", check=False) == ""
        assert "198.18.0.99" in net.run("server", "getent", "ahostsv4", "mine")
        assert "new" not in net.run("server", "cat", "/etc/hosts")
    assert "server" not in Path("/etc/hosts").read_text()
