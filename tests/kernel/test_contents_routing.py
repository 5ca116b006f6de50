# SPDX-License-Identifier: Apache-2.0
"""Routing by what is said above L4: real TLS, HTTP and DNS clients, through different VMs."""

import os
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cext.switch import maps
from help.cli import run
from help.net import ENDS_V4, Net, made
from help.programs import program
from help.waiting import becomes, until

pytestmark = pytest.mark.root

HOST = f"""{ENDS_V4}
[[vm]]
name = "a"
[[vm]]
name = "b"
[[route]]
match = {{ sni = "*.example.com" }}
through = ["a"]
[[route]]
match = {{ sni = ["www.example.org", "x.example.org"] }}
through = ["b"]
[[route]]
match = {{ http_host = "web.test" }}
through = ["a"]
[[route]]
match = {{ proto = "udp", dport = 53, dns_name = "*.internal" }}
through = ["b"]
[[route]]
match = {{ proto = "tcp", dport = 8443 }}
through = ["a", "b"]
"""


SAY = ("tcp", "tls-say", "198.18.0.20")


class Daemon:
    """Plays the daemon: contents are looked at while a client runs."""

    def __init__(self, net: Net) -> None:
        self.net = net

    def run(self, name: str, *words: object) -> str:
        return self.tool(*program(name, *words))

    def tool(self, *words: str) -> str:
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            client = self.net.vms["client"].popen(
                words, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing
            )
        finally:
            os.close(nothing)
        assert client.stdout is not None
        while client.poll() is None:
            self.net.pump()
        self.net.pump()  # what it sent between the last look and its end
        said = client.stdout.read().decode()
        client.close()
        return said.strip()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("ct")
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "1", "-subj", "/CN=x"),
        *("-keyout", str(folder / "key"), "-out", str(folder / "cert")),
    )
    with made("ct", HOST, folder) as net:
        tls = program("tcp", "tls-echo", folder / "cert", folder / "key")
        servers = [net.serve("server", [*tls, port]) for port in ("443", "8443")]
        servers += [net.serve("server", program("web", "ok", 8080))]
        servers += [net.serve("server", program("dns", "serve"))]
        yield net
        for server in servers:
            server.close()


def test_what_the_daemon_has_taken_is_no_longer_charged(net: Net) -> None:
    """Else its share of the ring buffer would be used up one day."""
    daemon, plane = Daemon(net), net.dataplane
    before = plane.report.counters()
    for _ in range(3):
        daemon.run("dns", "ask", "198.18.0.20", "x.test")
    after, client = plane.report.counters(), net.vms["client"].index
    assert after["asked"] >= before["asked"] + 3
    assert after["events-lost"] == before["events-lost"]
    (done,) = struct.unpack("=Q", plane._map("taken").get(maps.pack_u32(client)) or b"")
    assert done == maps.read_asked(plane._map("shares"), client) > 0


def flow(net: Net, start: str) -> Any:
    found = net.flow(start)
    return found["route"], [hop["vm"] for hop in found["hops"]]


@pytest.mark.parametrize(
    ("name", "route", "through"),
    [
        ("www.example.com", 0, ["a"]),
        ("deep.www.example.com", 0, ["a"]),
        ("www.example.org", 1, ["b"]),
        ("example.com", None, []),
        ("other.test", None, []),
    ],
)
def test_tls_by_name(net: Net, name: str, route: int | None, through: list[str]) -> None:
    port = Daemon(net).run(*SAY, 443, name)
    assert flow(net, f"tcp:198.18.0.10:{port}>") == (route, through)
    assert flow(net, f"tcp:198.18.0.20:443>198.18.0.10:{port}") == (route, through)
    if through:
        hop = net.flow(f"tcp:198.18.0.10:{port}>")["hops"][0]
        assert hop["packets"] > 10
        explained = net.dataplane.report.explain(
            "client", f"tcp:198.18.0.10:{port}>198.18.0.20:443"
        )
        assert explained["contents"] == {"sni": name}


def test_a_name_changes_the_route_of_ports(net: Net) -> None:
    port = Daemon(net).run(*SAY, 8443, "www.example.com")
    assert flow(net, f"tcp:198.18.0.10:{port}>") == (0, ["a"])
    port = Daemon(net).run(*SAY, 8443, "other.test")
    assert flow(net, f"tcp:198.18.0.10:{port}>") == (4, ["a", "b"])


@pytest.mark.parametrize(("name", "route"), [("web.test", 2), ("Web.Test:8080", 2), ("x.y", None)])
def test_http_by_host(net: Net, name: str, route: int | None) -> None:
    port = Daemon(net).run("web", "ask", "198.18.0.20", 8080, name)
    assert flow(net, f"tcp:198.18.0.10:{port}>")[0] == route


@pytest.mark.parametrize(
    ("said", "own", "found"),
    [
        (b"\r\nGET / HTTP/1.1\r\nHost: web.test\r\n\r\n", 40011, (2, None)),
        (b"PROPFIND / HTTP/1.1\r\nHost: web.test\r\n\r\n", 40012, (2, None)),
        (b"GET http://web.test/ HTTP/1.1\r\nHost: web.test\r\n\r\n", 40013, (2, None)),
        (b"GET http://x.y/ HTTP/1.1\r\nHost: x.y\r\n\r\n", 40014, (None, None)),
        (b"GET http://web.test/ HTTP/1.1\r\nHost: x.y\r\n\r\n", 40015, (0, "unseen")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 40016, (0, "unseen")),
        (b"\x15\3\1\0\2\1\0", 40017, (0, "unseen")),
    ],
    ids=["empty-line", "method", "absolute", "other", "two-names", "h2", "alert"],
)
def test_what_servers_take_for_a_request(
    net: Net, said: bytes, own: int, found: tuple[int | None, str | None]
) -> None:
    """The first route that a name may choose has those of which only the server knows."""
    listener = net.serve("server", program("tcp", "silent", 8090))
    client = net.serve("client", program("web", "say", "198.18.0.20", 8090, own, said.hex()))

    def way() -> tuple[int | None, str | None]:
        net.pump()
        row = net.flow(f"tcp:198.18.0.10:{own}>")
        return row["route"], row["contents"]

    becomes(way, found)
    client.close()
    listener.close()


@pytest.mark.parametrize(("name", "route"), [("db.internal", 3), ("example.net", None)])
def test_dns_by_name(net: Net, name: str, route: int | None) -> None:
    port = Daemon(net).run("dns", "ask", "198.18.0.20", name)
    assert flow(net, f"udp:198.18.0.10:{port}>")[0] == route


DIG = ("dig", "+short", "+tries=1", "+time=5", "@198.18.0.20")
TLS_CLIENT = ("openssl", "s_client", "-connect", "198.18.0.20:443", "-bind")
MANY = ",".join(f"p{nth:03}{'x' * 200}" for nth in range(40))  # a hello of 8 KB
MANY_PAGES = "http://198.18.0.20:8080/[1-200]"  # by one connection: the daemon may take its time
CURL = ("curl", "-s", "-k", "-m", "5", "-w", "%{http_code}", "-o", "/dev/null")


@pytest.mark.parametrize(
    ("words", "said", "key", "route"),
    [
        ((*DIG, "-b", "198.18.0.10#40001", "db.internal"), "198.18.0.99", "udp:{}:40001", 3),
        ((*DIG, "-b", "198.18.0.10#40002", "DB.Internal."), "198.18.0.99", "udp:{}:40002", 3),
        ((*DIG, "-b", "198.18.0.10#40003", "internal.net"), "198.18.0.99", "udp:{}:40003", None),
        (
            (*CURL, "--local-port", "40004", "-H", "Host: web.test", MANY_PAGES),
            "200",
            "tcp:{}:40004",
            2,
        ),
        (
            (*TLS_CLIENT, "198.18.0.10:40005", "-servername", "www.example.com"),
            "CONNECTED",
            "tcp:{}:40005",
            0,
        ),
        (
            (*TLS_CLIENT, "198.18.0.10:40006", "-noservername"),
            "CONNECTED",
            "tcp:{}:40006",
            None,
        ),
        (
            (*TLS_CLIENT, "198.18.0.10:40007", "-servername", "www.example.com", "-alpn", MANY),
            "CONNECTED",
            "tcp:{}:40007",
            0,
        ),
    ],
    ids=["dig", "dig-capitals", "dig-other", "curl", "openssl", "openssl-no-name", "big-hello"],
)
def test_the_tools_that_people_use(
    net: Net, words: tuple[str, ...], said: str, key: str, route: int | None
) -> None:
    assert said in Daemon(net).tool(*words)
    assert flow(net, key.format("198.18.0.10"))[0] == route


def test_host_asks_by_name(net: Net) -> None:
    """And its port is its own."""
    before = {row["key"] for row in net.dataplane.report.flows() if row["route"] == 3}
    assert "has address 198.18.0.99" in Daemon(net).tool(
        "host", "-t", "A", "h.internal", "198.18.0.20"
    )
    found = [row["key"] for row in net.dataplane.report.flows() if row["route"] == 3]
    assert len([key for key in found if key not in before]) == 2  # and the reply


def test_a_flood_of_undecided_flows_starves_nobody(net: Net) -> None:
    """More flows with contents than the ring buffer holds, and nobody reads it meanwhile: all of
    them pass, what was lost is counted, and a name is still found afterwards."""
    question = "1234010000010000000000000362616400" + bytes(500).hex()
    before = net.port("server")["tx_packets"]
    net.run("client", *program("udp", "many", "198.18.0.20", 53, 1500, question))
    assert net.port("server")["tx_packets"] - before >= 1500
    assert net.dataplane.report.counters()["events-lost"] > 0
    net.pump()
    port = Daemon(net).run(*SAY, 443, "www.example.com")
    assert flow(net, f"tcp:198.18.0.10:{port}>") == (0, ["a"])


def test_what_is_given_up_is_counted(net: Net) -> None:
    """A request that goes on without an end, and more unfinished ones than are kept.
    The last one here, for its connections take many ports."""
    before = net.dataplane.report.counters()

    def given_up() -> int:
        net.pump()
        return net.dataplane.report.counters()["given-up"] - before["given-up"]

    Daemon(net).run("tcp", "pieces", "198.18.0.20", 8080, 12)
    until(lambda: given_up() == 1)
    listener = net.serve("server", program("tcp", "silent", 8081))
    for _ in range(12):  # by turns: what finds the ring buffer full is counted elsewhere
        Daemon(net).run("tcp", "begin", "198.18.0.20", 8081, 100)
    listener.close()
    assert net.dataplane.report.counters()["pushed-out"] - before["pushed-out"] > 100


def test_explain_says_that_nobody_looks_into_quic(net: Net) -> None:
    def why(flow: str) -> str:
        return str(net.dataplane.report.explain("client", flow)["why"])

    assert "QUIC" in why("udp:198.18.0.10:5000>198.18.0.20:443")
    assert "QUIC" not in why("udp:198.18.0.10:5000>198.18.0.20:53")
    assert "QUIC" not in why("tcp:198.18.0.10:5000>198.18.0.20:443")
