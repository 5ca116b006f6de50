"""1,000 routes and 100,000 flows at once: each is decided, remembered and delivered."""

from collections import Counter
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from net import ADDRESSES, Net, made

from cext import dataplane
from cext.newflows import PORTS, Ends

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ROUTES, FLOWS, FIRST, LAST = 1000, 100_000, 100, 50_000
SOURCE = IPv4Address("198.18.0.100")


def routes() -> str:
    """The last one is for port LAST, and stands behind ROUTES - 2 that are for none we send to."""
    ports = [FIRST, *range(20_000, 20_000 + ROUTES - 2), LAST]
    return "".join(
        f'[[route]]\nmatch = {{ proto = "udp", dport = {port} }}\nthrough = ["fw"]\n'
        for port in ports
    )


def stream(net: Net, port: int, number: int, count: int) -> None:
    """New flows from the client to a port of the server; each must arrive, once."""
    client, server = net.vms["client"], net.vms["server"]
    target = IPv4Address("198.18.0.20"), port
    macs = client.mac, server.mac
    ends = Ends(client.netns_fd, "eth0", server.netns_fd, macs, SOURCE, target)
    try:
        done = ends.run(number, count, 64, 60_000)
    finally:
        ends.close()
    assert (done.sent, done.got, done.lost) == (count, count, 0)


def test_a_hundred_thousand_flows_by_the_last_of_a_thousand_routes(tmp_path: Path) -> None:
    with made("sc", ADDRESSES + routes(), tmp_path) as net:
        net.ping(1)
        net.ping(1, "198.18.0.20", "fw")
        stream(net, FIRST, 0, 1000)
        stream(net, LAST, 0, FLOWS)
        assert net.dataplane.counters()["table-full"] == 0
        stream(net, LAST, 0, FLOWS)  # all of them live
        seen = [
            one
            for one in dataplane.read_flows(net.dataplane._map("flows"))
            if one.tuple.proto == 17
        ]
        ports = {name: net.vms[name].index for name in ("client", "fw")}
        for name, number in ports.items():
            mine = [one for one in seen if one.vm == number]
            assert Counter(one.route for one in mine) == {0: 1000, ROUTES - 1: FLOWS}, name
            assert {one.packets for one in mine if one.route} == {2}, name
        sources = {(one.tuple.src, one.tuple.sport) for one in seen if one.route}
        assert len(sources) == FLOWS > PORTS
        net.dataplane.tick()
        stream(net, LAST, FLOWS, 1000)
        assert net.dataplane.counters()["table-full"] == 0
