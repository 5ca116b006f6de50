# SPDX-License-Identifier: Apache-2.0
"""What users do through a chain of three packet functions, between endpoints with every offload on,
while the flows' rules flip between switch and ring every 50 ms: it arrives whole, and every packet
is accounted for."""

import contextlib
import hashlib
import json
import os
import select
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from help.chain import Chain, chained, route, vm
from help.net import ENDS, seen_in
from help.programs import program
from help.waiting import until
from netns.process import Process

pytestmark = pytest.mark.root

FLIP = 0.05  # seconds
BODY = 200 << 20  # bytes


@pytest.fixture(params=["isolated", "shared"])
def chain(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Chain]:
    vms = vm("one") + vm("two", "count") + vm("three")
    routes = route('proto = "tcp"', "one two three", f'ring = "{request.param}"')
    with chained(ENDS + vms + routes, tmp_path) as made:
        yield made


@contextlib.contextmanager
def served(chain: Chain, *argv: str) -> Iterator[Process]:
    """A program at the server, until the end of the block."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    server = chain.net.vms["server"].popen(argv, stdout=nowhere, stderr=nowhere)
    try:
        yield server
    finally:
        server.close()
        os.close(nowhere)


def listens(chain: Chain, port: int) -> bool:
    """Whether the server has a TCP socket that listens on the port."""
    return f":{port} " in chain.net.run("server", "ss", "-ltn")


def flipping(chain: Chain, *argv: str) -> bytes:
    """What a program at the client says, while rules come and go."""
    client = chain.net.vms["client"].popen(argv, stdout=subprocess.PIPE)
    flips, said = 0, bytearray()
    assert client.stdout is not None
    watched = [client.stdout.fileno(), client.fileno()]
    while client.poll() is None:
        ready = select.select(watched, [], [], FLIP)[0]
        if watched[0] in ready:
            said += os.read(watched[0], 65536)
            continue
        chain.sync() if flips % 2 == 0 else chain.functions.new_epoch(0)
        flips += 1
    said += client.stdout.read()
    assert client.wait(1) == 0, said
    client.close()
    assert flips > 4
    return bytes(said)


def conserved(chain: Chain) -> None:
    """Once everything is quiet."""
    by_way = {"switch": 0, "ring": 0}
    for row in chain.net.settled():
        for way in by_way:
            by_way[way] += row[way]
    assert min(by_way.values()) > 100, by_way


def test_downloads_by_http_and_tls(chain: Chain, tmp_path: Path) -> None:
    body = os.urandom(1 << 20) * (BODY >> 20)
    wanted = hashlib.sha256(body).hexdigest()
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "body").write_bytes(body)
    pem = str(tmp_path / "server.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=198.18.0.20", "-keyout", pem, "-out", f"{pem}.crt"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    Path(pem).write_text(Path(pem).read_text() + Path(f"{pem}.crt").read_text())
    got = seen_in(chain.net.vms["client"], tmp_path / "got")
    for port, cert, url in ((80, "", "http"), (443, pem, "https")):
        with served(chain, *program("web", "files", tmp_path / "www", port, cert)):
            until(partial(listens, chain, port))
            curl = ("curl", "-s", "-k", "-m", "100", "-o", str(tmp_path / "got"))
            flipping(chain, *curl, f"{url}://198.18.0.20:{port}/body")
        assert hashlib.sha256(got.read_bytes()).hexdigest() == wanted
        got.unlink()
    conserved(chain)


def test_four_streams_of_iperf3(chain: Chain) -> None:
    with served(chain, "iperf3", "-s", "-B", "198.18.0.20"):
        until(partial(listens, chain, 5201))
        said = flipping(chain, "iperf3", "-c", "198.18.0.20", "-P", "4", "-t", "4", "-J")
    end = json.loads(said)["end"]
    assert len(end["streams"]) == 4
    assert end["sum_received"]["bytes"] > 10 << 20
    assert all(stream["receiver"]["bytes"] > 0 for stream in end["streams"])
    conserved(chain)
