# SPDX-License-Identifier: Apache-2.0
"""Chains of VMs through switch and direct links: what outside witnesses see of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from help.net import ADDRESSES, Net, made
from help.programs import program
from help.waiting import until

pytestmark = pytest.mark.root

ROUTES = """
[[route]]
match = { proto = "tcp", dport = [23, 80, "5000-5999"] }
through = ["fw", "ids"]
[[route]]
match = { proto = "udp", dport = 7 }
through = ["fw", "ids"]
bypass = "never"
[[route]]
match = { proto = "udp", dport = 9 }
through = ["ids"]
[[route]]
match = { proto = "icmp" }
through = ["fw", "ids"]
[[route]]
match = { proto = "icmpv6", dst = "fd00:18::20/128" }
through = ["fw", "ids"]
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with made("rt", ADDRESSES + ROUTES, tmp_path_factory.mktemp("rt")) as net:
        yield net


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with made("rtx", ADDRESSES + ROUTES, tmp_path) as net:
        yield net


@pytest.mark.parametrize("target", ["198.18.0.20", "fd00:18::20"])
def test_a_hop_leaves_the_switch_once_it_has_its_rule(net: Net, target: str) -> None:
    net.ping(5, target)  # the third packet asks for the direct link
    net.pump()
    before = {name: net.port(name) for name in ("fw", "ids")}
    net.ping(50, target)
    after = {name: net.port(name) for name in ("fw", "ids")}
    # Of the 50 each way only the first three take the switch from one VM to the other. What else
    # a port carries is neighbour discovery.
    for name in ("fw", "ids"):
        taken = after[name]["tx_packets"] - before[name]["tx_packets"]
        assert 50 <= taken - 3 <= 75, (name, taken)  # it would be 100 without the direct link
    rules = net.dataplane.report.rules()
    assert sorted((rule["vm"], rule["to"], rule["packets"]) for rule in rules) == [
        ("fw", "ids", 47),
        ("ids", "fw", 47),
    ]
    direct = net.ip("fw", "-s", "link", "show", "hsd2").split("TX:")[1].splitlines()[1].split()
    assert int(direct[1]) == 47
    assert net.dataplane.report.counters()["forged"] == 0
    net.conserved()


def test_every_hop_says_its_path_and_why(net: Net) -> None:
    net.ping(2)
    flow = net.flow("icmp:198.18.0.10")
    assert (flow["route"], flow["direction"]) == (3, "forward")
    assert net.hops("icmp:198.18.0.10") == [("fw", "ids", "switch"), ("ids", "bridge", "switch")]
    assert flow["hops"][0]["reason"] == "first packets: 2 of 3 seen"
    assert flow["hops"][1]["reason"] == "next is outside: the switch delivers"
    reply = net.flow("icmp:198.18.0.20")
    assert reply["direction"] == "reply"
    assert [hop["vm"] for hop in reply["hops"]] == ["ids", "fw"]


@pytest.mark.parametrize("target", ["198.18.0.20", "fd00:18::20"])
def test_bypass_never_stays_on_the_switch(shared: Net, target: str) -> None:
    echo(shared, target, 7, 50, 64)
    flow = next(
        row for row in shared.dataplane.report.flows() if row["key"].endswith(key_end(target, 7))
    )
    assert flow["hops"][0]["packets"] == 50
    assert flow["hops"][0]["paths"]["veth"]["packets"] == 0
    assert flow["hops"][0]["reason"] == "route says bypass = never"


@pytest.mark.parametrize("target", ["198.18.0.20", "fd00:18::20"])
def test_datagrams_in_fragments_take_the_route_of_their_ports(shared: Net, target: str) -> None:
    """Later fragments have no ports; all of a datagram go the same way, and none is lost."""
    before = shared.dataplane.report.counters()["orphan-fragment"]
    echo(shared, target, 9, 20, 4000)
    flow = next(
        row for row in shared.dataplane.report.flows() if row["key"].endswith(key_end(target, 9))
    )
    assert [hop["vm"] for hop in flow["hops"]] == ["ids"]
    assert flow["hops"][0]["packets"] == 20 * 3
    assert shared.dataplane.report.counters()["orphan-fragment"] == before


def key_end(target: str, port: int) -> str:
    return f">[{target}]:{port}" if ":" in target else f">{target}:{port}"


def echo(net: Net, target: str, port: int, count: int, size: int) -> None:
    server = net.serve("server", program("udp", "echo", port, count))
    ask = program("udp", "ask", target, port, count, size)
    assert net.run("client", *ask) == "all back\n"
    assert server.wait(10) == 0
    server.close()


def test_a_firewall_in_the_chain_holds_on_both_paths(net: Net) -> None:
    """nft in fw rejects a port: before there is a direct link, and once there is one."""
    net.run(
        "fw",
        "nft",
        "add table inet t; add chain inet t f "
        "{ type filter hook forward priority 0; }; "
        "add rule inet t f tcp dport 5023 reject with tcp reset",
    )
    listeners = [net.serve("server", program("tcp", "sink", port)) for port in (5023, 5024)]
    send = program("tcp", "fill", "198.18.0.20")
    assert "ConnectionRefusedError" in net.run("client", *send, "5023", "1", check=False)
    for _ in range(2):
        net.run("client", *send, "5024", "100000")
        net.pump()
    assert any(rule["packets"] for rule in net.dataplane.report.rules())
    assert "ConnectionRefusedError" in net.run("client", *send, "5023", "1", check=False)
    net.run("fw", "nft", "flush ruleset")
    net.run("client", *send, "5023", "1")
    for listener in listeners:
        listener.close()


def test_a_large_transfer_is_whole_and_counted_on_both_paths(net: Net) -> None:
    """Super-packets with unfinished checksums cross every hop."""
    listener = net.serve("server", program("tcp", "sink", 80))
    net.run("client", *program("tcp", "fill", "198.18.0.20", 80, 1_000_000))
    net.pump()
    port = net.run("client", *program("tcp", "fill", "198.18.0.20", 80, 50_000_000)).strip()
    flow = net.flow(f"tcp:198.18.0.10:{port}>")
    first, last = flow["hops"]
    assert first["paths"]["veth"]["bytes"] > 49_000_000
    assert first["paths"]["switch"]["packets"] == 3
    assert last["bytes"] == first["bytes"] > 50_000_000
    listener.close()


def test_an_icmp_error_takes_the_way_of_its_flow(net: Net) -> None:
    """A port with nobody there: the server's error comes back through the chain, as of the flow."""
    ask = program("udp", "ask", "198.18.0.20", 9, 1, 8)
    said = net.run("client", *ask, check=False)
    assert "ConnectionRefusedError" in said
    reply = net.flow("udp:198.18.0.20:9>")
    assert reply["direction"] == "reply"
    assert [(hop["vm"], hop["packets"]) for hop in reply["hops"]] == [("ids", 1)]


def test_nothing_gets_past_the_switch_without_a_rule(net: Net) -> None:
    """A VM that puts frames on the direct link by hand: they are dropped, by a counter's name."""
    net.ping(5)
    net.pump()
    frame = net.vms["ids"].mac.replace(":", "") + "020000000001" + "0800"
    frame += "4500001c00010000401100000a0000010a00000204d204d200080000"
    before = received(net, "ids")
    net.run("fw", *program("raw", "repeat", "hsd2", 10, frame))
    until(lambda: net.dataplane.report.counters()["forged"] == 10)
    assert received(net, "ids") == before


def received(net: Net, vm: str) -> int:
    """IPv4 packets that the VM's kernel got, by any interface (/proc/net/snmp)."""
    names, values = (line.split() for line in net.run(vm, "cat", "/proc/net/snmp").splitlines()[:2])
    return int(values[names.index("InReceives")])


def test_a_vm_that_dies_takes_its_rules_along(net: Net) -> None:
    net.ping(5)
    net.pump()
    net.ping(5)
    assert len(net.dataplane.report.rules()) == 2
    net.vms["ids"].kill()
    until(lambda: not net.vms["ids"].alive)
    net.dataplane.vm_gone("ids")
    assert net.dataplane.report.rules() == []
    said = net.run("client", "ping", "-c", "3", "-i", "0.1", "-W", "1", "198.18.0.20", check=False)
    assert "100% packet loss" in said
    assert net.dataplane.report.counters()["vm-gone"] == 3
    net.ping(2, "198.18.0.1")  # the others are untouched


def test_what_is_idle_is_swept(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    net.ping(5)
    net.pump()
    net.ping(5)
    net.dataplane.tick()
    assert len(net.dataplane.report.rules()) == 2
    monkeypatch.setattr("hostsim.routing.dataplane.FLOW_IDLE", 0.05)

    def swept() -> bool:
        net.dataplane.tick()
        return net.dataplane.report.flows() == []

    until(swept)
    assert net.dataplane.report.rules() == []
    net.ping(5)
    assert len(net.dataplane.report.rules()) == 2
