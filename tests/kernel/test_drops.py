# SPDX-License-Identifier: Apache-2.0
"""What the kernel drops has the kernel's name, to the packet: in a VM, on its way out, in the
switch; and nothing has that is not lost, is another's, or has a name already."""

import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cext.bpf import ids
from cext.ns.netns import socket_at
from cext.switch import drops
from help.cli import ask, host, hostsim, run
from help.frames import UDP, ipv4
from help.net import ADDRESSES, Net, made
from help.programs import program
from help.waiting import until
from hostsim.hostfile.file import parse
from hostsim.routing import dataplane, kerneldrops

pytestmark = pytest.mark.root

HOST = f'{ADDRESSES}[[route]]\nmatch = {{ proto = "udp" }}\nthrough = ["fw", "ids"]\n'


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with made("dr", HOST, tmp_path) as net:
        yield net


def send(net: Net, port: int, count: int, target: str = "198.18.0.20", source: int = 777) -> None:
    net.run("client", *program("udp", "send", target, port, count, source))
    net.pump()


def nft(net: Net, vm: str, *rules: str) -> None:
    for rule in ("add table inet t", *rules):
        net.run(vm, "nft", rule)


def rows(net: Net, vm: str, key: str) -> list[Any]:
    """Of `verify`, those of a VM for flows to this."""
    return [
        one for one in net.dataplane.report.verify() if one["vm"] == vm and one["key"].endswith(key)
    ]


def row(net: Net, vm: str, key: str) -> Any:
    """The one of them."""
    (found,) = rows(net, vm, key)
    parts = found["switch"] + found["veth"] + found["ring"] + sum(found["drops"].values())
    assert found["sent"] == parts + found["missing"], found
    return found


def settled(net: Net, vm: str, key: str) -> bool:
    """Whether a flow to this has got as far as the VM, and nothing of it is on its way."""
    found = rows(net, vm, key)
    return bool(found) and not found[0]["missing"]


def kernel(net: Net, name: str) -> dict[str, int]:
    """What `status` has: by reason, in a VM, or with "" in the switch."""
    found = net.dataplane.report.kernel_drops()
    assert found is not None
    return found[name]


@pytest.mark.parametrize("target", ["198.18.0.20", "fd00:18::20"])
def test_a_filter_of_the_vms_own(net: Net, target: str) -> None:
    hook = "add chain inet t f { type filter hook forward priority 0; }"
    nft(net, "fw", hook, "add rule inet t f udp dport 9 drop")
    send(net, 7, 4, target)
    before = kernel(net, "fw").get("NETFILTER_DROP", 0)
    send(net, 9, 23, target)
    assert kernel(net, "fw")["NETFILTER_DROP"] - before == 23
    found = row(net, "fw", ":9")
    assert (found["sent"], found["drops"]) == (23, {"NETFILTER_DROP": 23})
    assert row(net, "fw", ":7")["drops"] == {}
    assert not any(one["missing"] for one in net.dataplane.report.verify())


def test_no_route(net: Net) -> None:
    net.ip("client", "route", "add", "203.0.113.0/24", "via", "198.18.0.1")
    send(net, 9, 11, "203.0.113.9")
    assert row(net, "fw", "203.0.113.9:9")["drops"] == {"IP_INNOROUTES": 11}
    assert kernel(net, "fw")["IP_INNOROUTES"] == 11


def test_a_socket_that_is_full(net: Net) -> None:
    server = net.serve("server", program("udp", "full", 9, 2304))
    assert server.stdin is not None
    assert server.stdout is not None
    send(net, 9, 40)
    until(lambda: row(net, "ids", "20:9")["switch"] == 40)
    server.stdin.write(b"\n")
    server.stdin.flush()
    got = int(server.stdout.readline())
    assert 0 < got < 40
    assert row(net, "server", "20:9")["drops"] == {"SOCKET_RCVBUFF": 40 - got}
    assert kernel(net, "server")["SOCKET_RCVBUFF"] == 40 - got
    server.close()


@pytest.mark.stock
def test_behind_the_transfer_component(net: Net) -> None:
    """What a queue of the VM's own drops has been counted as sent: it is missing at the switch, and
    the kernel says why."""
    qdisc = ("tc", "-n", net.vms["fw"].netns, "qdisc", "replace", "dev", "eth0", "root", "tbf")
    subprocess.run((*qdisc, "rate", "8kbit", "burst", "300", "limit", "300"), check=True)
    send(net, 9, 20)
    until(lambda: settled(net, "fw", "20:9"))  # what waits there goes on
    found = row(net, "fw", "20:9")
    assert found["sent"] == 20
    assert sum(found["drops"].values()) == 20 - found["switch"] > 0
    assert "QDISC_DROP" in found["drops"]


IN_VLAN = '[[route]]\nmatch = { proto = "udp", vlan = 7 }\nthrough = ["fw"]\n'


@pytest.mark.stock
@pytest.mark.parametrize("tags", [b"\x81\0\0\7", b"\x88\xa8\x40\0\x81\0\x40\7", b"\x81\0\0\7" * 2])
def test_in_a_vlan_behind_the_transfer_component(tmp_path: Path, tags: bytes) -> None:
    """Behind a second VLAN's tag there is no flow of anybody's."""
    with made("dr", HOST + IN_VLAN, tmp_path) as net:
        fw, server = (bytes.fromhex(net.vms[vm].mac.replace(":", "")) for vm in ("fw", "server"))
        datagram = struct.pack("!HHHH", 777, 9, 208, 0) + bytes(200)
        packet = ipv4(bytes([198, 18, 0, 1]), bytes([198, 18, 0, 20]), UDP, datagram)
        qdisc = ("tc", "-n", net.vms["fw"].netns, "qdisc", "replace", "dev", "eth0", "root", "tbf")
        subprocess.run((*qdisc, "rate", "8kbit", "burst", "300", "limit", "300"), check=True)
        with socket_at(net.vms["fw"].netns_fd, socket.AF_PACKET, socket.SOCK_RAW) as own:
            own.bind(("eth0", 0))
            for _ in range(20):
                with contextlib.suppress(OSError):  # ENOBUFS, from the queue
                    own.send(server + fw + tags + b"\x08\0" + packet)
        drops = {one["key"]: one["drops"] for one in net.settled() if one["vm"] == "fw"}
        key = "udp{}:198.18.0.1:777>198.18.0.20:9"
        assert key.format("") not in drops
        assert bool(drops.get(key.format("@7"))) == (tags.count(7) == 1)
        assert kernel(net, "fw")["QDISC_DROP"] > 10


@pytest.mark.stock
def test_in_a_vlan_by_a_filter_of_the_vms_own(tmp_path: Path) -> None:
    """No tag is there yet. Not every kernel has interfaces of VLANs; those of the part stock do."""
    with made("dr", HOST + IN_VLAN, tmp_path) as net:
        try:
            interface(net, "fw", "eth0", 7)
        except subprocess.CalledProcessError as error:
            assert "Unknown device type" in error.stderr  # noqa: PT017
            return
        interface(net, "fw", "eth0.7", 9)
        nft(net, "fw", "add chain inet t o { type filter hook output priority 0; }",
            "add rule inet t o udp dport 9 drop")  # fmt: skip
        for target in ("198.18.7.2", "198.18.9.2"):
            net.run("fw", *program("udp", "send", target, 10, 5, 777))
            for _ in range(5):  # the filter's verdict comes back as an error
                net.run("fw", *program("udp", "send", target, 9, 1, 777), check=False)
        drops = {one["key"]: one["drops"] for one in net.settled() if one["vm"] == "fw"}
        assert drops["udp@7:198.18.7.1:777>198.18.7.2:9"] == {"NETFILTER_DROP": 5}
        assert drops["udp@7:198.18.7.1:777>198.18.7.2:10"] == {}
        assert not [key for key in drops if "198.18.9." in key]
        assert kernel(net, "fw")["NETFILTER_DROP"] == 10


def interface(net: Net, vm: str, link: str, number: int) -> None:
    """One of a VLAN on another, with addresses, and the server's at its far end."""
    name = f"{link}.{number}"
    net.ip(vm, "link", "add", "link", link, "name", name, "type", "vlan", "id", str(number))
    net.ip(vm, "link", "set", name, "up")
    net.ip(vm, "address", "add", f"198.18.{number}.1/24", "dev", name)
    far = ("lladdr", net.vms["server"].mac, "dev", name)
    net.ip(vm, "neigh", "add", f"198.18.{number}.2", *far)


@pytest.mark.stock
def test_in_the_switch_behind_the_classifier(net: Net) -> None:
    """What a VM's rate drops on the way to it, was the sender's."""
    limited = HOST.replace('name = "ids"', 'name = "ids"\nrate = "1mbit"')
    net.dataplane.apply(parse(f'[host]\nname = "dr"\n{limited}', Path("dr.toml")))
    before = net.port("ids")["tx_packets"]
    send(net, 9, 5000)
    found = row(net, "fw", "20:9")
    assert (found["sent"], found["missing"]) == (5000, 0)
    lost = sum(found["drops"].values())
    assert 0 < lost < 5000
    assert kernel(net, "")["QDISC_DROP"] + kernel(net, "").get("NOT_SPECIFIED", 0) >= lost
    assert found["switch"] == 5000 - lost
    until(lambda: row(net, "ids", "20:9")["sent"] >= found["switch"])
    assert net.port("ids")["tx_packets"] - before >= found["switch"]
    assert row(net, "ids", "20:9")["sent"] == found["switch"]


def test_a_frame_for_somebody_else_is_not_lost(net: Net) -> None:
    """A mirror's target that only looks on: in its status, and not among losses of the flow."""
    text = HOST + '[[mirror]]\nmatch = { proto = "icmp" }\nto = "ids"\n'
    net.dataplane.apply(parse(f'[host]\nname = "dr"\n{text}', Path("dr.toml")))
    net.ping(10)
    assert kernel(net, "ids")["OTHERHOST"] >= 10
    assert not [one for one in net.dataplane.report.verify() if one["drops"]]


def test_a_copy_that_is_lost_is_not_the_packet(net: Net) -> None:
    """The mirror's target is slow: the flow itself loses nothing."""
    text = HOST + '[[mirror]]\nmatch = { proto = "udp", dport = 9 }\nto = "server"\n'
    net.dataplane.apply(parse(f'[host]\nname = "dr"\n{text}', Path("dr.toml")))
    qdisc = ("tc", "-n", net.switch.netns, "qdisc", "replace", "dev", "server", "root", "tbf")
    subprocess.run((*qdisc, "rate", "80kbit", "burst", "2000", "limit", "2000"), check=True)
    send(net, 9, 100)
    assert kernel(net, "")["QDISC_DROP"] > 100  # copies, and packets behind the chain
    assert row(net, "fw", "20:9")["drops"] == {}
    assert sum(row(net, "ids", "20:9")["drops"].values()) < 100
    assert not [one for one in net.dataplane.report.verify() if one["vm"] == "client"]


def test_what_has_a_name_already_is_not_counted_twice(net: Net) -> None:
    text = HOST + '[[filter]]\nmatch = { proto = "udp", dport = 9 }\n'
    net.dataplane.apply(parse(f'[host]\nname = "dr"\n{text}', Path("dr.toml")))
    before = kernel(net, "")
    send(net, 9, 50)
    assert net.dataplane.report.counters()["filter"] == 50
    now = kernel(net, "")
    assert {k: n for k, n in now.items() if n != before.get(k, 0)} == {}
    of_client = row(net, "client", "20:9")
    assert (of_client["sent"], of_client["drops"]) == (50, {"filter": 50})


def test_a_filters_drops_stay_a_filters(net: Net) -> None:
    """When it is taken away, what it dropped of a flow is not put down to a VM that is gone."""
    send(net, 9, 5)
    text = HOST + '[[filter]]\nmatch = { proto = "udp", dport = 9 }\n'
    net.unguarded("client")
    program = ("tc", "-n", net.switch.netns, "filter", "del", "dev", "client", "ingress")
    subprocess.run(program, check=True)  # so that it reaches fw, and is dropped behind it
    net.ip("client", "neigh", "replace", "198.18.0.20", "lladdr", net.vms["fw"].mac, "dev", "eth0")
    net.dataplane.apply(parse(f'[host]\nname = "dr"\n{text}', Path("dr.toml")))
    send(net, 9, 5)
    assert row(net, "fw", "20:9")["drops"] == {"filter": 5}
    net.dataplane.apply(parse(f'[host]\nname = "dr"\n{HOST}', Path("dr.toml")))
    send(net, 9, 5)
    found = row(net, "fw", "20:9")
    assert (found["sent"], found["drops"], found["missing"]) == (15, {"filter": 5}, 0)


def test_what_arrives_is_no_drop(net: Net) -> None:
    """UDP and ICMP that are taken in, and frames to everybody that nobody waits for."""
    net.ping(20)
    server = net.serve("server", program("udp", "take", 9, 50))
    send(net, 9, 50)
    server.wait(10)
    server.close()
    assert {name: found for name in ("", *net.vms) if (found := kernel(net, name))} == {}
    assert not [one for one in net.dataplane.report.verify() if one["drops"]]


def test_a_group_that_a_vm_has_no_way_to_is_no_drop(net: Net) -> None:
    """As before its eth0 has an address of its own, or where it was taken."""
    net.ip("ids", "-6", "route", "del", "ff00::/8", "dev", "eth0", "table", "local")
    before = net.dataplane.report.kernel_drops()
    send(net, 9, 5, "ff02::198%eth0")
    seen = net.ip("ids", "-s", "-j", "link", "show", "eth0")
    assert json.loads(seen)[0]["stats64"]["rx"]["packets"] >= 5
    assert net.dataplane.report.kernel_drops() == before


def test_other_namespaces_do_not_count(net: Net) -> None:
    """A drop in a namespace that is not the host's."""
    before = {name: dict(kernel(net, name)) for name in ("", "fw", "client", "server")}
    run("ip", "netns", "add", "drtest")
    try:
        run("ip", "-n", "drtest", "link", "set", "lo", "up")
        send = program("udp", "send", "127.0.0.1", 9, 1, 777)
        run("ip", "netns", "exec", "drtest", *send)
    finally:
        run("ip", "netns", "del", "drtest")
    for name, counts in before.items():
        assert "NO_SOCKET" not in kernel(net, name).keys() - counts.keys()


def test_more_flows_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rest is counted without its flow, and not lost."""
    small = drops.Drops
    monkeypatch.setattr(kerneldrops, "Drops", lambda: small(entries=64))
    with made("dr", HOST, tmp_path) as net:
        hook = "add chain inet t f { type filter hook forward priority 0; }"
        nft(net, "fw", hook, "add rule inet t f udp dport 9 drop")
        net.run("client", *program("udp", "many", "198.18.0.20", 9, 400, b"x".hex()))
        assert kernel(net, "fw")["NETFILTER_DROP"] == 400
        rows = [one for one in net.dataplane.report.verify() if one["vm"] == "fw"]
        assert 0 < sum(one["drops"].get("NETFILTER_DROP", 0) for one in rows) < 400


def test_a_kernel_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything else works, and a loss in the queue has the name that hostsim gives it."""

    def none() -> drops.Drops:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(kerneldrops, "Drops", none)
    with made("dr", HOST, tmp_path) as net:
        assert net.dataplane.report.kernel_drops() is None
        send(net, 9, 20)
        assert row(net, "fw", "20:9")["missing"] == 0
        assert not [name for _, name in ids.programs() if name == "kernel_drop"]


def test_counts_outlive_the_vm_and_its_flows(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of a VM before it died are seen, while its flows are remembered and after that."""
    monkeypatch.setattr(dataplane, "FLOW_IDLE", 0.3)
    hook = "add chain inet t f { type filter hook forward priority 0; }"
    nft(net, "fw", hook, "add rule inet t f udp dport 11 drop")
    send(net, 9, 10)
    send(net, 11, 6)
    net.unguarded("fw")
    tc = ("ip", "netns", "exec", net.switch.netns, "tc", "filter", "del", "dev", "fw", "ingress")
    subprocess.run(tc, check=True)
    send(net, 9, 7)
    assert row(net, "fw", "20:9")["missing"] == 7
    net.vms["fw"].kill()
    until(lambda: not net.vms["fw"].alive)
    net.dataplane.vm_gone("fw")
    found = row(net, "fw", "20:9")
    assert (found["sent"], found["missing"]) == (17, 7)
    assert not net.dataplane.report.rules()
    lost = sum(one["missing"] for one in net.dataplane.report.verify())  # and errors that came back
    assert lost >= 7

    def ended() -> list[Any]:
        """The rows of fw for flows that have ended, once all have."""
        net.dataplane.tick()
        rows = [one for one in net.dataplane.report.verify() if one["vm"] == "fw"]
        return [] if still(net) else [one for one in rows if "ended" in one["key"]]

    (kept,) = until(ended)
    assert (kept["missing"], kept["drops"]["NETFILTER_DROP"]) == (lost, 6)
    assert kept["sent"] == kept["switch"] + kept["veth"] + lost + sum(kept["drops"].values())
    (fine,) = [one for one in net.dataplane.report.verify() if one["vm"] == "ids"]
    assert (fine["key"], fine["missing"]) == ("ended flows", 0)
    assert fine["sent"] >= 10


def still(net: Net) -> list[Any]:
    return [one for one in net.dataplane.report.verify() if one["key"] != "ended flows"]


def test_status_and_verify_show_it(tmp_path: Path) -> None:
    with host(f'[host]\nname = "drcli"\n{HOST}', tmp_path):
        for rule in (
            "add table inet t",
            "add chain inet t f { type filter hook forward priority 0; }",
            "add rule inet t f udp dport 9 drop",
        ):
            hostsim("exec", "fw", "--", "nft", rule)
        hostsim("exec", "client", "--", *program("udp", "send", "198.18.0.20", 9, 12, 777))
        found = ask("status")
        (fw,) = [vm for vm in found["vms"] if vm["name"] == "fw"]
        assert fw["drops"]["NETFILTER_DROP"] == 12
        assert isinstance(found["switch"]["drops"], dict)
        assert "NETFILTER_DROP 12" in hostsim("status").stdout
        assert "12 NETFILTER_DROP" in hostsim("verify").stdout
        (fw,) = [one for one in ask("verify") if one["vm"] == "fw"]
        assert (fw["sent"], fw["drops"], fw["missing"]) == (12, {"NETFILTER_DROP": 12}, 0)
        assert [name for _, name in ids.programs() if name == "kernel_drop"]
