"""Routing by what is said above L4: real TLS, HTTP and DNS clients, through different VMs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from help.cli import run
from help.net import Net, made
from help.waiting import until
from netns.process import Process

pytestmark = pytest.mark.root

HOST = """
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[endpoint]]
name = "server"
address = "198.18.0.20/24"
[[vm]]
name = "a"
[[vm]]
name = "b"
[[route]]
match = { sni = "*.example.com" }
through = ["a"]
[[route]]
match = { sni = ["www.example.org", "x.example.org"] }
through = ["b"]
[[route]]
match = { http_host = "web.test" }
through = ["a"]
[[route]]
match = { proto = "udp", dport = 53, dns_name = "*.internal" }
through = ["b"]
[[route]]
match = { proto = "tcp", dport = 8443 }
through = ["a", "b"]
"""

TLS = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(("", int(sys.argv[3])))
print("up", flush=True)
while True:
    with context.wrap_socket(listener.accept()[0], server_side=True) as peer:
        while data := peer.recv(65536):
            peer.sendall(data)
"""
SAY = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
raw = socket.create_connection(("198.18.0.20", int(sys.argv[2])), 5)
with context.wrap_socket(raw, server_hostname=sys.argv[1]) as peer:
    for n in range(20):
        peer.sendall(b"x" * 1000)
        got = 0
        while got < 1000:
            got += len(peer.recv(65536))
    print(peer.getsockname()[1])
"""
HTTP = """
import http.client, sys
peer = http.client.HTTPConnection("198.18.0.20", 8080, timeout=5)
for n in range(10):
    peer.request("GET", "/", headers={"Host": sys.argv[1]})
    port = peer.sock.getsockname()[1]
    answer = peer.getresponse()
    answer.read()
    assert answer.status == 200
print(port)
"""
SERVE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("", 8080), Handler)
print("up", flush=True)
server.serve_forever()
"""
RESOLVER = """
import socket
sock = socket.socket(2, 2)
sock.bind(("", 53))
print("up", flush=True)
while True:
    data, where = sock.recvfrom(512)
    end = 12
    while data[end]:
        end += data[end] + 1
    question = data[12 : end + 5]
    head = data[:2] + bytes.fromhex("85800001000100000000")
    sock.sendto(head + question + bytes.fromhex("c00c000100010000003c0004c6120063"), where)
"""
QUERY = """
import socket, sys
name = b"".join(bytes([len(word)]) + word.encode() for word in sys.argv[1].split("."))
sock = socket.socket(2, 2)
sock.settimeout(5)
sock.connect(("198.18.0.20", 53))
for n in range(5):
    sock.send(bytes.fromhex("123401000001000000000000") + name + bytes([0, 0, 1, 0, 1]))
    assert sock.recv(512)[:2] == bytes.fromhex("1234")
print(sock.getsockname()[1])
"""


class Daemon:
    """Plays the daemon: contents are looked at while a client runs."""

    def __init__(self, net: Net) -> None:
        self.net = net

    def run(self, *words: str) -> str:
        return self.tool(sys.executable, "-c", *words)

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
        servers = [
            serve(net, TLS, str(folder / "cert"), str(folder / "key"), port)
            for port in ("443", "8443")
        ]
        servers += [serve(net, SERVE), serve(net, RESOLVER)]
        yield net
        for server in servers:
            server.close()


def serve(net: Net, *words: str) -> Process:
    server = net.vms["server"].popen([sys.executable, "-c", *words], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"up\n"
    return server


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
    port = Daemon(net).run(SAY, name, "443")
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
    port = Daemon(net).run(SAY, "www.example.com", "8443")
    assert flow(net, f"tcp:198.18.0.10:{port}>") == (0, ["a"])
    port = Daemon(net).run(SAY, "other.test", "8443")
    assert flow(net, f"tcp:198.18.0.10:{port}>") == (4, ["a", "b"])


@pytest.mark.parametrize(("name", "route"), [("web.test", 2), ("Web.Test:8080", 2), ("x.y", None)])
def test_http_by_host(net: Net, name: str, route: int | None) -> None:
    port = Daemon(net).run(HTTP, name)
    assert flow(net, f"tcp:198.18.0.10:{port}>")[0] == route


@pytest.mark.parametrize(("name", "route"), [("db.internal", 3), ("example.net", None)])
def test_dns_by_name(net: Net, name: str, route: int | None) -> None:
    port = Daemon(net).run(QUERY, name)
    assert flow(net, f"udp:198.18.0.10:{port}>")[0] == route


DIG = ("dig", "+short", "+tries=1", "+time=5", "@198.18.0.20")
TLS_CLIENT = ("openssl", "s_client", "-connect", "198.18.0.20:443", "-bind")
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
    ],
    ids=["dig", "dig-capitals", "dig-other", "curl", "openssl", "openssl-no-name"],
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
    flood = (
        "import socket\n"
        "for n in range(1500):\n"
        "    s = socket.socket(2, 2)\n"
        "    s.sendto(bytes.fromhex('1234010000010000000000000362616400') + bytes(500),"
        " ('198.18.0.20', 53))\n"
    )
    before = net.port("server")["tx_packets"]
    net.run("client", "python3", "-c", flood)
    assert net.port("server")["tx_packets"] - before >= 1500
    assert net.dataplane.report.counters()["events-lost"] > 0
    net.pump()
    port = Daemon(net).run(SAY, "www.example.com", "443")
    assert flow(net, f"tcp:198.18.0.10:{port}>") == (0, ["a"])


def test_what_is_given_up_is_counted(net: Net) -> None:
    """A request that goes on without an end, and more unfinished ones than are kept.
    The last one here, for its connections take many ports."""
    before = net.dataplane.report.counters()

    def given_up() -> int:
        net.pump()
        return net.dataplane.report.counters()["given-up"] - before["given-up"]

    slow = (
        "import socket\ns = socket.create_connection(('198.18.0.20', 8080))\n"
        "s.setsockopt(6, 1, 1)\nfor n in range(12):\n    s.send(b'GET /' if not n else b'x')\n"
    )
    Daemon(net).run(slow)
    until(lambda: given_up() == 1)
    many = (
        "import socket\nfor n in range(100):\n"
        "    s = socket.create_connection(('198.18.0.20', 8081))\n    s.send(b'GE')\n"
        "    s.close()\n"
    )
    listener = serve(
        net,
        "import signal, socket\ns = socket.create_server(('', 8081), backlog=4096)\n"
        "print('up', flush=True)\nsignal.pause()\n",
    )
    for _ in range(12):  # by turns: what finds the ring buffer full is counted elsewhere
        Daemon(net).run(many)
    listener.close()
    assert net.dataplane.report.counters()["pushed-out"] - before["pushed-out"] > 100
