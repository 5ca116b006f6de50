# SPDX-License-Identifier: Apache-2.0
"""1,000 routes and 100,000 flows at once: each is decided, remembered and delivered."""

from collections import Counter
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cext.bench import tester
from cext.switch import maps
from help.net import ADDRESSES, Net, made
from hostsim.bench.load import take_in

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ROUTES, FLOWS, FIRST, LAST = 1000, 100_000, 49_999, 50_000
SOURCE = IPv4Address("198.18.0.100")


def routes() -> str:
    """The last one is for port LAST, and stands behind ROUTES - 2 that are for none we send to."""
    ports = [FIRST, *range(20_000, 20_000 + ROUTES - 2), LAST]
    return "".join(
        f'[[route]]\nmatch = {{ proto = "udp", dport = {port} }}\nthrough = ["fw"]\n'
        for port in ports
    )


def stream(net: Net, load: tester.Tester, port: int, number: int, count: int) -> None:
    """New flows from the client to a port of the server; each must arrive, once."""
    client, server = net.vms["client"], net.vms["server"]
    done = load.run(
        (client.netns_fd, client.eth0),
        (client.mac, server.mac),
        SOURCE,
        ms=60_000,
        window=64,
        port=port - FIRST,
        first=number,
        count=count,
        flows=True,
    )
    assert (done.sent, done.got, done.lost) == (count, count, 0)


def test_a_hundred_thousand_flows_by_the_last_of_a_thousand_routes(tmp_path: Path) -> None:
    with made("sc", ADDRESSES + routes(), tmp_path) as net, ExitStack() as closing:
        server = net.vms["server"]
        load = tester.Tester((IPv4Address("198.18.0.20"), FIRST), 2 * FLOWS)
        closing.callback(load.close)
        take_in(server, server.eth0, load)
        net.ping(1)
        net.ping(1, "198.18.0.20", "fw")
        stream(net, load, FIRST, 0, 1000)
        stream(net, load, LAST, 0, FLOWS)
        assert load.twice(LAST - FIRST) == 0
        assert net.dataplane.report.counters()["table-full"] == 0
        stream(net, load, LAST, 0, FLOWS)  # all of them live
        seen = [
            one for one in maps.read_flows(net.dataplane._map("flows")) if one.tuple.proto == 17
        ]
        ports = {name: net.vms[name].index for name in ("client", "fw")}
        for name, number in ports.items():
            mine = [one for one in seen if one.vm == number]
            assert Counter(one.route for one in mine) == {0: 1000, ROUTES - 1: FLOWS}, name
            assert {one.packets for one in mine if one.route} == {2}, name
        sources = {(one.tuple.src, one.tuple.sport) for one in seen if one.route}
        assert len(sources) == FLOWS > tester.SOURCES
        net.dataplane.tick()
        stream(net, load, LAST, FLOWS, 1000)
        assert net.dataplane.report.counters()["table-full"] == 0
