# SPDX-License-Identifier: Apache-2.0
"""What user 0 of a VM does to its own network costs that VM its direct links, and nobody a packet.

Each case changes something in fw, in the chain fw -> ids of pings from client to server, while the
hop goes by veth: then it goes by the switch, `flows`, `explain` and `status` say why, and nothing
is lost. When it is undone, the hop goes by veth again."""

import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cext.bpf import objects
from cext.ns.netns import socket_at
from help.frames import ipv4
from help.net import ADDRESSES, Net, made
from help.programs import program
from help.waiting import until
from hostsim.routing import watch

pytestmark = pytest.mark.root

ROUTE = '[[route]]\nmatch = { proto = "icmp" }\nthrough = ["fw", "ids"]\n'
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
FLOW = 7
"""The echo requests' identifier: all of them are one flow, whichever program sends them."""
CLSACT = ("tc", "qdisc", "add", "dev", "eth0", "clsact")
EGRESS = ("dev", "eth0", "egress", "pref", "7", "protocol", "ip", "u32")
MARK = ("tc", "filter", "add", *EGRESS, "match", "u32", "0", "0", "classid", "1:1")


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with made("own", ADDRESSES + ROUTE, tmp_path) as net:
        yield net


def ping(net: Net, count: int) -> None:
    net.ping(count, ident=FLOW)


def hop(net: Net) -> tuple[str, str]:
    """Path and reason of fw's hop of the echo requests, which are all of one flow."""
    net.pump()
    rows = [row for row in net.dataplane.report.flows() if row["route"] == 0]
    (row,) = [row for row in rows if row["direction"] == "forward"]
    first = next(hop for hop in row["hops"] if hop["vm"] == "fw")
    explained = net.dataplane.report.explain("fw", row["key"])
    again = next(hop for hop in explained["hops"] if hop["vm"] == "fw")
    assert (again["path"], again["reason"]) == (first["path"], first["reason"])
    return first["path"], first["reason"]


def unlike(net: Net, what: bool = True) -> None:
    """Wait until some VM's network is unlike what was made, or none is."""

    def seen() -> bool:
        net.pump()
        return bool(net.dataplane.report.unlike()) == what

    until(seen, 30)


def by_veth(net: Net) -> None:
    unlike(net, False)
    ping(net, 5)

    def is_veth() -> bool:
        net.pump()
        ping(net, 5)
        return hop(net)[0] == "veth"

    until(is_veth, 30)


def by_switch(net: Net, why: str, vm: str = "fw") -> None:
    def said() -> bool:
        net.pump()
        return why in net.dataplane.report.unlike().get(vm, "")

    until(said, 30)
    ping(net, 20)
    path, reason = hop(net)
    assert path == "switch"
    assert reason.startswith(f"{vm}: ")
    assert why in reason


CASES = {
    # what is done, undone, and what is said of it
    "link down": (
        ("ip", "link", "set", "hsd2", "down"),
        ("ip", "link", "set", "hsd2", "up"),
        "hsd2",
    ),
    "link deleted": (("ip", "link", "del", "hsd2"), (), "hsd2"),
    "mtu": (
        ("ip", "link", "set", "eth0", "mtu", "1400"),
        ("ip", "link", "set", "eth0", "mtu", "1500"),
        "an MTU of 1400",
    ),
    "qdisc": (
        ("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "99mbit", "burst", "15k",
         "latency", "50ms"),
        ("tc", "qdisc", "del", "dev", "eth0", "root"),
        "discipline of its own, tbf",
    ),
    "filter": (MARK, ("tc", "filter", "del", *EGRESS), "filters of its own"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_its_hops_go_by_the_switch_and_come_back(net: Net, case: str) -> None:
    done, undone, why = CASES[case]
    if case == "filter":
        net.run("fw", *CLSACT, check=objects.has_tcx())
    by_veth(net)
    net.run("fw", *done)
    by_switch(net, why)
    net.settled()
    if undone:
        net.run("fw", *undone)
    by_veth(net)
    net.settled()


OWN = ("link", "add", "name", "own")
ALL = ("protocol", "ip", "u32", "match", "u32", "0", "0", "classid", "1:1")
OVER: dict[str, list[tuple[str, ...]]] = {
    "macvlan": [("ip", *OWN, "link", "{}", "type", "macvlan"), ("ip", "link", "set", "own", "up")],
    "ipvlan": [("ip", *OWN, "link", "{}", "type", "ipvlan"), ("ip", "link", "set", "own", "up")],
    "vlan": [("ip", *OWN, "link", "{}", "type", "vlan", "id", "7"),
             ("ip", "link", "set", "own", "up")],
    "tc": [("tc", "qdisc", "add", "dev", "{}", "clsact"),
           ("tc", "filter", "add", "dev", "{}", "ingress", *ALL),
           ("tc", "filter", "add", "dev", "{}", "egress", *ALL)],
    "nft": [("nft", "add table netdev t; add chain netdev t c "
                    "{{ type filter hook ingress device {} priority 0; }}; "
                    "add rule netdev t c counter accept"),
            ("nft", "add chain netdev t e {{ type filter hook egress device {} priority 0; }}; "
                    "add rule netdev t e counter accept")],
    "fq": [("tc", "qdisc", "add", "dev", "{}", "root", "pfifo")],
    "bridge": [("ip", *OWN, "type", "bridge"), ("ip", "link", "set", "own", "up"),
               ("ip", "link", "set", "hsd2", "master", "own")],
    "bond": [("ip", *OWN, "type", "bond"), ("ip", "link", "set", "hsd2", "down"),
             ("ip", "link", "set", "hsd2", "master", "own"), ("ip", "link", "set", "own", "up"),
             ("ip", "link", "set", "hsd2", "up")],
}  # fmt: skip
"""By kind: what is put on an interface. Not every kernel has all kinds; those of the part stock
have."""
PAIRS = [
    (kind, on)
    for kind in OVER
    for on in ("hsd2", "eth0")
    if on in str(OVER[kind]) or "{}" in str(OVER[kind])
    if (kind, on) != ("tc", "eth0")  # before TCX (6.6) its own clsact is in place of hostsim's
]
LACKING = ("Unknown device type", "Operation not supported", "Not supported")


@pytest.mark.stock
@pytest.mark.parametrize(("kind", "on"), PAIRS)
def test_what_is_put_on_an_interface_takes_no_packet(net: Net, kind: str, on: str) -> None:
    """The flow goes on, by the direct link, or by the switch for a reason that is said."""
    if kind == "tc":
        net.run("fw", "tc", "qdisc", "del", "dev", on, "clsact", check=False)
    by_veth(net)
    for words in OVER[kind]:
        said = net.run("fw", *(word.format(on) for word in words), check=False)
        if any(lacks in said for lacks in LACKING):
            return
        assert not said, (words, said)
    for _ in range(3):
        net.pump()
        ping(net, 20)
    path, reason = hop(net)
    assert path == "veth" or reason.startswith("fw: "), (path, reason)
    net.settled()
    net.conserved()


def test_its_new_mac_address_is_learnt(net: Net) -> None:
    by_veth(net)
    before = net.vms["fw"].mac
    net.run("fw", "ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    by_switch(net, "another MAC address, 02:00:00:00:00:99")
    net.settled()
    net.run("fw", "ip", "link", "set", "eth0", "address", before)
    by_veth(net)


def test_its_own_shaping_holds(net: Net) -> None:
    """A queue that lets some 1,000 bytes a second pass, and holds one packet."""
    by_veth(net)
    slow = ("rate", "8kbit", "burst", "1500", "limit", "1500")
    net.run("fw", "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *slow)
    unlike(net)
    words = ("ping", "-q", "-c", "20", "-i", "0.01", "-s", "900", "-W", "1", "198.18.0.20")
    received = re.search(r"(\d+) received", net.run("client", *words, check=False))
    assert received is not None
    assert int(received[1]) < 10


def test_flapping_is_held_down(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gets a new epoch for it, and nothing is lost once the first change was seen. Defence:
    the hold, without which the hop goes back to a link that is about to go down."""
    by_veth(net)
    epoch = net.dataplane.epoch
    for _ in range(10):
        net.run("fw", "ip", "link", "set", "hsd2", "down")
        unlike(net)
        net.run("fw", "ip", "link", "set", "hsd2", "up")
        net.pump()
        assert net.dataplane.report.unlike()
    ping(net, 20)
    assert net.dataplane.epoch == epoch


def past_it(net: Net, key: str, packets: int) -> list[dict[str, Any]]:
    """Once so many packets of fw have gone past its transfer component: `verify`'s rows of it.
    key: how the flow's begins."""

    def rows() -> list[dict[str, Any]]:
        found = [row for row in net.dataplane.report.verify() if row["vm"] == "fw"]
        return [x for x in found if x["key"].startswith(key) and x["beside"] == packets]

    return until(rows)


def test_what_goes_past_the_transfer_component_is_named(net: Net) -> None:
    """PACKET_QDISC_BYPASS (packet(7)): no tc program sees it, and the switch does."""
    net.run("fw", *program("udp", "send", "198.18.0.20", "9", "5", "4000"))
    fw, server = net.vms["fw"], net.vms["server"]
    here, there = (ip_address(one).packed for one in ("198.18.0.1", "198.18.0.20"))
    datagram = struct.pack("!HHHH", 4000, 9, 8 + 4, 0) + b"past"
    frame = bytes.fromhex((server.mac + fw.mac).replace(":", "")) + b"\x08\0"
    with socket_at(fw.netns_fd, socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        sock.bind(("eth0", 0))
        for _ in range(20):
            sock.send(frame + ipv4(here, there, socket.IPPROTO_UDP, datagram))

    (row,) = past_it(net, "udp:", 20)
    assert (row["sent"], row["switch"], row["missing"]) == (25, 25, 0)


def test_a_kernel_without_tcx_has_the_transfer_component_at_clsact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "attach_tcx", lambda *_, **__: False)
    monkeypatch.setattr(objects, "has_tcx", lambda: False)
    with made("own", ADDRESSES + ROUTE, tmp_path) as net:
        by_veth(net)
        command = ("ip", "netns", "exec", net.vms["fw"].netns, "tc", "filter", "show", "dev")
        shown = subprocess.run((*command, "eth0", "egress"), check=True, capture_output=True)
        assert watch.TRANSFER.encode() in shown.stdout
        net.run("fw", "tc", "qdisc", "del", "dev", "eth0", "clsact")
        by_switch(net, "transfer component was taken off")
        assert all(row["missing"] == 0 for row in past_it(net, "icmp:", 20))
