# SPDX-License-Identifier: Apache-2.0
"""The functions that ship, in the chain client -> firewall -> count -> nat -> server: the server
sees the translator's address alone, replies find their way back through the whole chain, and the
hops between the functions leave the switch for the rings. And the source, which is counted to the
packet."""

import asyncio
import hashlib
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.chain import Chain, chained
from help.net import ENDS_V4, endpoint, seen_in
from help.programs import program
from help.waiting import until
from hostsim.bench.chain import counts_of

pytestmark = pytest.mark.root

NAT = "198.18.0.30"
HOST = (
    ENDS_V4
    + """
[[vm]]
name = "fw"
nf = "firewall"
[[vm.rule]]
match = { proto = "tcp", dport = 23 }
do = "drop"
[[vm.rule]]
match = { src = "198.18.0.10/32" }
do = "accept"
[[vm]]
name = "ids"
nf = "count"
[[vm]]
name = "nat"
nf = "nat"
address = "198.18.0.30/24"
[vm.nat]
ports = "%s"
[[route]]
match = { %s }
through = ["fw", "ids", "nat"]
ring = "%s"
"""
)


SOURCE_MATCHED = 'src = "198.18.0.10/32"'
EVERYTHING = 'dst = "198.18.0.0/24"'


@pytest.fixture(
    params=[(SOURCE_MATCHED, "isolated"), (EVERYTHING, "shared")], ids=["clients", "all-shared"]
)
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chain]:
    """With a route that the translated connection does not match, and with one that it does."""
    with chained(HOST % ("2000-3999", *request.param), tmp_path) as made:
        yield made


def test_a_download_through_firewall_ids_and_nat(chain: Chain, tmp_path: Path) -> None:
    body = os.urandom(1 << 20) * 40
    (tmp_path / "body").write_bytes(body)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    server = chain.net.vms["server"].popen(
        program("web", "files", tmp_path, 80), stdout=log, stderr=log
    )
    try:
        until(lambda: ":80 " in chain.net.run("server", "ss", "-ltn"))
        got = seen_in(chain.net.vms["client"], tmp_path / "got")
        client = chain.net.vms["client"].popen(
            # slow enough for its flow to have its rings before it is done
            [
                *("curl", "-s", "-m", "40", "--limit-rate", "30M"),
                *("-o", str(tmp_path / "got"), "http://198.18.0.20/body"),
            ]
        )
        while not select.select([client.fileno()], [], [], 0.05)[0]:
            chain.functions.sync()
        assert client.wait(1) == 0
        client.close()
        digest = hashlib.sha256(got.read_bytes()).hexdigest()
        assert digest == hashlib.sha256(body).hexdigest()
        address, port = (tmp_path / "log").read_text().split()[:2]
        assert address == NAT
        assert 2000 <= int(port) <= 3999
        counters = counts_of(chain.functions)
        # Nothing that a function sent is unaccounted for, by the tuple it had when it was sent.
        chain.net.settled()
        # Both ways by ring: fw to ids to nat, and nat to ids to fw.
        assert counters["fw"]["ring_out"] > 100
        assert counters["ids"]["ring_out"] > 1000
        assert counters["nat"]["ring_out"] > 1000
        assert counters["nat"]["translated-in"] > 1000
        assert counters["fw"]["accepted"] > 1000
    finally:
        server.close()
        os.close(log)


def test_a_connection_outlives_firewall_and_translator(tmp_path: Path) -> None:
    """Killed in the middle of a download, they are started again and go on with what they would
    have accepted."""
    text = HOST % ("1024-65535", SOURCE_MATCHED, "isolated")
    body = os.urandom(1 << 20) * 30
    (tmp_path / "body").write_bytes(body)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    try:
        with chained(text, tmp_path) as made:
            server = made.net.vms["server"].popen(
                program("web", "files", tmp_path, 80), stdout=log, stderr=log
            )
            until(lambda: ":80 " in made.net.run("server", "ss", "-ltn"))
            got = seen_in(made.net.vms["client"], tmp_path / "got")
            words = ["curl", "-s", "-m", "40", "--limit-rate", "10M", "-o", str(tmp_path / "got")]
            client = made.net.vms["client"].popen([*words, "http://198.18.0.20/body"])
            victims = ["fw", "nat", "fw", "nat"]
            while not select.select([client.fileno()], [], [], 0.05)[0]:
                made.functions.sync()
                arrived = got.stat().st_size if got.exists() else 0
                if victims and arrived > (5 - len(victims)) * len(body) // 6:
                    process = made.functions.process(victims.pop(0))
                    assert process is not None
                    process.kill()
            assert client.wait(1) == 0
            client.close()
            server.close()
            assert not victims
            digest = hashlib.sha256(got.read_bytes()).hexdigest()
            assert digest == hashlib.sha256(body).hexdigest()
            assert len((tmp_path / "log").read_text().splitlines()) == 1  # one connection
            reported = asyncio.run(made.functions.report())
            assert {one["restarts"] for one in reported.values()} == {0, 2}
    finally:
        os.close(log)


def test_ping_and_icmp_errors_come_back(chain: Chain) -> None:
    chain.net.ping(20)
    assert chain.counter("nat", "connections") == 1
    assert chain.counter("nat", "translated-in") == 20
    # Nobody listens there: the server tells the translator, which tells the client.
    assert chain.net.run("client", *program("udp", "say", "198.18.0.20", 9, "x", 5)) == "refused\n"
    assert chain.counter("nat", "translated-in") == 21


def test_the_firewalls_rules_hold(chain: Chain) -> None:
    said = chain.net.run("client", "curl", "-s", "-m", "2", "http://198.18.0.20:23/", check=False)
    assert said == ""
    assert chain.counter("fw", "drop-rule-0") >= 1
    assert chain.counter("fw", "dropped") == chain.counter("fw", "drop-rule-0")
    assert chain.counter("nat", "connections") == 0


def test_nobody_comes_in_from_outside(chain: Chain) -> None:
    chain.net.run("server", "ping", "-c", "2", "-i", "0.2", "-W", "1", NAT, check=False)
    # Where the route matches the asking too, it comes by the firewall first.
    counters = counts_of(chain.functions)
    assert counters["nat"]["drop-unknown"] + counters["fw"]["drop-default"] == 2
    assert counters["ids"]["eth0_in"] + counters["ids"]["ring_in"] == 0


SOURCE = (
    endpoint("server", "198.18.0.20/24")
    + """
[[vm]]
name = "tx"
nf = "source"
[vm.source]
flow = "udp:198.18.0.1:4000>198.18.0.20:9"
size = 200
rate = 5000
count = 2000
[[vm]]
name = "fw"
nf = "forward"
[[route]]
match = { proto = "udp" }
through = ["tx", "fw"]
"""
)


def test_the_source_sends_what_it_is_told(tmp_path: Path) -> None:
    with chained(SOURCE, tmp_path, start=False) as made:
        before = made.net.port("server")
        made.start()

        def all_sent() -> bool:
            made.functions.sync()
            counted = counts_of(made.functions)["fw"]
            return counted["eth0_in"] + counted["ring_in"] == 2000

        until(all_sent, 20)
        counters = counts_of(made.functions)
        assert counters["tx"]["made"] == 2000
        assert counters["tx"]["eth0_out"] + counters["tx"]["ring_out"] == 2000
        after = made.net.port("server")
        assert after["tx_packets"] - before["tx_packets"] >= 2000
        assert 2000 * 200 <= after["tx_bytes"] - before["tx_bytes"] < 2000 * 210
