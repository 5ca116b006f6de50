# SPDX-License-Identifier: Apache-2.0
"""Policies that change while traffic flows: whole policies, filters, mirrors, rates, contents."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cext.bpf import objects
from help.net import ENDS, Net, endpoint, made
from help.programs import program
from help.waiting import until
from hostsim.errors import HostsimError
from hostsim.hostfile.file import parse
from netns.process import Process

pytestmark = pytest.mark.root

HOST = ENDS + endpoint("probe", "198.18.0.30/24")
HOST += "".join(f'[[vm]]\nname = "{name}"\n' for name in "abcd")
UDP = '[[route]]\nmatch = { proto = "udp" }\nthrough = '


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with made("ap", HOST + UDP + '["a", "b"]\n', tmp_path) as net:
        yield net


def apply(net: Net, text: str) -> None:
    net.dataplane.apply(parse(f'[host]\nname = "ap"\n{HOST}{text}', Path("ap.toml")))


def conserved(net: Net) -> None:
    assert all(
        row["sent"] == row["switch"] + row["veth"] + sum(row["drops"].values())
        for row in net.settled()
    )


def arrived(net: Net, count: int, sender: Process) -> bool:
    """Whether the server got so many packets, or there will be no more."""
    return sender.poll() is not None or net.port("server")["tx_packets"] >= count


def stream(*words: str) -> list[str]:
    return [sys.executable, "-m", "cext.bench.stream", *words]


def test_each_packet_meets_one_policy_whole(net: Net) -> None:
    """Two VMs before, the two in the other order or two others after, a hundred times under
    traffic: every packet passes two VMs. A packet judged by a mixture would pass one or three."""
    server = net.listen("server", 9, program("udp", "ttls"))
    sender = net.vms["client"].popen(
        stream("send", "198.18.0.20", "9", "64", "0", "12000", "4000"), stdout=subprocess.PIPE
    )
    until(lambda: net.dataplane.report.flows())
    applied = 0
    while sender.poll() is None and applied < 100:
        for chain in ('["c", "d"]', '["b", "a"]', '["d", "c"]', '["a", "b"]'):
            apply(net, UDP + chain + "\n")
            applied += 1
            more = net.port("server")["tx_packets"] + 40
            until(partial(arrived, net, more, sender))
            net.pump()
    assert sender.stdout is not None
    assert sender.wait(20) == 0
    sent = json.loads(sender.stdout.readline())["packets"]
    conserved(net)
    net.run("client", *program("udp", "many", "198.18.0.20", 9, 1, b"end".hex()))
    assert server.wait(10) == 0
    assert server.stdout is not None
    got = json.loads(server.stdout.readline())
    assert applied == 100
    assert list(got["ttls"]) == ["62"], got
    counters = net.dataplane.report.counters()
    assert (got["count"], got["late"]) == (sent, 0), counters
    assert counters["rules"] > 10


def test_a_vm_that_comes_into_a_chain_loses_nothing_that_it_sends(tmp_path: Path) -> None:
    """It gets its transfer component meanwhile."""
    text = ENDS + '[[vm]]\nname = "a"\naddress = "198.18.0.1/24"\n'
    with made("ap", text, tmp_path) as net:
        server = net.listen("server", 9, stream("receive", "0", "60000"))
        send = stream("send", "198.18.0.20", "9", "64", "0", "1500", "200000")
        sender = net.vms["a"].popen(send, stdout=subprocess.PIPE)
        until(lambda: net.port("a")["rx_packets"] > 1000)
        route = '[[route]]\nmatch = { proto = "tcp" }\nthrough = ["a"]\n'
        net.dataplane.apply(parse(f'[host]\nname = "ap"\n{text}{route}', Path("ap.toml")))
        assert sender.poll() is None
        assert sender.wait(20) == 0
        server.close()
        drops = net.dataplane.report.kernel_drops()
        assert drops is not None
        assert (drops["a"], drops[""]) == ({}, {})


def test_a_file_of_other_vms_changes_nothing(net: Net) -> None:
    before = net.dataplane.report.routes()
    other = parse('[host]\nname = "ap"\n[[vm]]\nname = "a"\n', Path("x.toml"))
    with pytest.raises(HostsimError, match="not those of the running host"):
        net.dataplane.apply(other)
    assert net.dataplane.report.routes() == before


def test_a_policy_that_is_too_large_changes_nothing(net: Net) -> None:
    before = net.dataplane.report.routes()
    text = HOST.replace('name = "b"', 'name = "b"\nrate = "80mbit"') + UDP + '["a"]\n'
    text += "".join(
        f'[[route]]\nmatch = {{ proto = "tcp", dport = {port} }}\nthrough = ["b"]\n'
        for port in range(1, 2100)
    )
    with pytest.raises(HostsimError, match="more than 2,048 rows of matches"):
        net.dataplane.apply(parse(f'[host]\nname = "ap"\n{text}', Path("ap.toml")))
    assert net.dataplane.report.routes() == before
    qdisc = ("ip", "netns", "exec", net.switch.netns, "tc", "qdisc", "show", "dev", "b", "root")
    assert "tbf" not in subprocess.run(qdisc, capture_output=True, text=True, check=True).stdout


FILTER = '[[filter]]\nmatch = { proto = "udp", dport = 9, src = "198.18.0.10/32" }\n'
MIRROR = '[[mirror]]\nmatch = { proto = "udp", dport = 9 }\nto = "probe"\n'


def bypassed(net: Net) -> bool:
    """Send a few packets; whether the hop from a to b has its rule."""
    net.run("client", *stream("send", "198.18.0.20", "9", "64", "5", "0", "1000"))
    net.pump()
    return any(rule["vm"] == "a" for rule in net.dataplane.report.rules())


@pytest.fixture
def sink(net: Net) -> Iterator[None]:
    server = net.listen("server", 9, stream("receive", "0", "60000"))
    yield
    server.close()


def busy(net: Net, count: int) -> None:
    """Packets of one flow, whose source port stays."""
    net.run("client", *program("udp", "send", "198.18.0.20", 9, count, 777))
    net.pump()


def hop(net: Net) -> Any:
    return net.flow("udp:198.18.0.10:777>")["hops"][0]


def test_what_the_switch_must_see_comes_back_to_it(net: Net, sink: None) -> None:
    """A filter, a mirror and a rate take the flow off the direct link at once, and give it back."""
    routes = UDP + '["a", "b"]\n'
    busy(net, 5)
    busy(net, 5)
    assert hop(net)["path"] == "veth"

    apply(net, routes + MIRROR)
    assert hop(net)["path"] == "switch"
    assert hop(net)["reason"] == "mirrored to probe: the switch must see it"
    carried = hop(net)["paths"]["veth"]["packets"]
    probe = net.port("probe")["tx_packets"]
    busy(net, 20)
    assert net.dataplane.report.counters()["mirrored"] == 20
    assert 20 <= net.port("probe")["tx_packets"] - probe <= 30  # and what is broadcast
    assert hop(net)["paths"]["veth"]["packets"] == carried
    assert hop(net)["reason"] == "mirrored to probe: the switch must see it"

    apply(net, routes + FILTER)
    assert hop(net)["reason"] == "a filter drops it"
    busy(net, 20)
    assert net.dataplane.report.counters()["filter"] == 20
    assert hop(net)["reason"] == "a filter drops it"
    imagined = net.dataplane.report.explain("client", "udp:198.18.0.10:5>198.18.0.20:9")
    assert {one["reason"] for one in imagined["hops"]} == {"a filter drops it"}
    assert hop(net)["paths"]["veth"]["packets"] == carried

    limited = HOST.replace('name = "b"', 'name = "b"\nrate = "80mbit"')
    net.dataplane.apply(parse(f'[host]\nname = "ap"\n{limited}{routes}', Path("ap.toml")))
    busy(net, 20)
    assert hop(net)["paths"]["veth"]["packets"] == carried
    assert hop(net)["reason"] == "b has a rate: the switch must see its packets"
    qdisc = ("ip", "netns", "exec", net.switch.netns, "tc", "qdisc", "show", "dev", "b", "root")
    assert "rate 80Mbit" in subprocess.run(qdisc, capture_output=True, text=True).stdout

    apply(net, routes)
    busy(net, 20)
    busy(net, 20)
    assert hop(net)["path"] == "veth"
    assert hop(net)["paths"]["veth"]["packets"] > carried
    assert "tbf" not in subprocess.run(qdisc, capture_output=True, text=True).stdout
    conserved(net)


def test_packets_that_vanish_are_missed(net: Net, sink: None) -> None:
    """The classifier is taken off a's port for a while: what a sent then is accounted by nobody."""
    busy(net, 2)
    conserved(net)
    net.unguarded("a")
    command = ("ip", "netns", "exec", net.switch.netns, "tc", "filter")
    subprocess.run((*command, "del", "dev", "a", "ingress"), check=True)
    busy(net, 7)
    assert sum(row["missing"] for row in net.dataplane.report.verify()) == 7


def test_explain_says_what_happens(net: Net, sink: None) -> None:
    imagined = net.dataplane.report.explain("client", "udp:198.18.0.10:1>198.18.0.20:9")
    assert (imagined["live"], imagined["route"], imagined["next"]) == (False, 0, "a")
    assert [(hop["vm"], hop["to"]) for hop in imagined["hops"]] == [("a", "b"), ("b", "bridge")]
    plain = net.dataplane.report.explain("client", "tcp:198.18.0.10:1>198.18.0.20:9")
    assert (plain["route"], plain["next"], plain["hops"]) == (None, "bridge", [])
    busy(net, 5)
    busy(net, 5)
    live = net.dataplane.report.explain("a", "udp:198.18.0.10:777>198.18.0.20:9")
    assert (live["live"], live["next"], live["hops"][0]["path"]) == (True, "b", "veth")
    assert live["hops"][0]["reason"] == "rule: straight to b by veth"
    net.vms["b"].kill()
    until(lambda: not net.vms["b"].alive)
    net.dataplane.vm_gone("b")
    assert net.dataplane.report.explain("a", "udp:198.18.0.10:777>198.18.0.20:9")["next"] == "drop"


def test_a_vm_that_is_gone_is_skipped_where_the_route_says_so(net: Net) -> None:
    apply(net, '[[route]]\nmatch = { proto = "icmp" }\nthrough = ["a", "b"]\non_failure = "skip"\n')
    net.ping(5)
    net.vms["b"].kill()
    until(lambda: not net.vms["b"].alive)
    net.dataplane.vm_gone("b")
    net.ping(5)
    assert net.dataplane.report.counters()["vm-gone"] == 0


def test_a_kernel_without_tcx_takes_the_link_s_program_at_clsact(
    net: Net, sink: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "attach_tcx", lambda *_, **__: False)
    busy(net, 5)
    busy(net, 5)
    assert hop(net)["path"] == "veth"
    assert hop(net)["paths"]["veth"]["packets"] > 0
    command = ("ip", "netns", "exec", net.switch.netns, "tc", "filter", "show", "dev")
    link = f"hsd{net.vms['a'].index}-{net.vms['b'].index}"
    shown = subprocess.run((*command, link, "ingress"), check=True, capture_output=True, text=True)
    assert "hostsim:transfer_in" in shown.stdout
    conserved(net)
