# SPDX-License-Identifier: Apache-2.0
"""Packet network functions in a chain, on AF_XDP sockets and rings, between kernel-stack endpoints
that have every offload on: what arrives is whole, and the paths are what the counters say."""

import asyncio
import hashlib
import os
import select
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from help.chain import Chain, chained
from help.net import ENDS, seen_in
from help.waiting import until
from hostsim.bench.chain import counts_of
from hostsim.hostfile.file import parse
from hostsim.nf import functions
from netns.process import Process

pytestmark = pytest.mark.root

HOST = (
    ENDS
    + """
[[vm]]
name = "one"
nf = "forward"
[[vm]]
name = "two"
nf = "count"
[[vm]]
name = "three"
nf = "forward"
[[route]]
match = { proto = "tcp" }
through = ["one", "two", "three"]
[[route]]
match = { proto = "udp", dport = 9 }
through = ["one", "three"]
bypass = "never"
[[route]]
match = { proto = "udp" }
through = ["one", "three"]
"""
)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with chained(HOST, tmp_path) as made:
        yield made


def test_packets_leave_the_switch_for_the_ring(chain: Chain) -> None:
    chain.send(7, 5)
    chain.sync()
    before, counted = chain.net.port("three"), counts_of(chain.functions)
    chain.send(7, 50)
    until(lambda: chain.counter("three", "ring_in") - counted["three"]["ring_in"] >= 50)
    until(lambda: chain.net.port("three")["rx_packets"] - before["rx_packets"] >= 50)
    after, now = chain.net.port("three"), counts_of(chain.functions)
    # Nothing of the flow; what the server says of its closed port comes this way.
    assert after["tx_packets"] - before["tx_packets"] <= 20
    assert after["rx_packets"] - before["rx_packets"] >= 50
    assert now["one"]["ring_out"] - counted["one"]["ring_out"] == 50
    assert now["three"]["ring_in"] - counted["three"]["ring_in"] == 50
    assert not any(now[name][loss] for name in now for loss in ("full_ring", "full_eth0"))
    assert chain.net.hops("udp:198.18.0.10:4000>")[0] == ("one", "three", "ring")


def test_a_mirror_takes_the_flow_back_to_the_switch(chain: Chain, tmp_path: Path) -> None:
    chain.send(7, 5)
    chain.sync()
    chain.send(7, 10)
    until(lambda: chain.counter("one", "ring_out") >= 10)
    before = chain.counter("one", "ring_out")
    assert before == 10
    mirrored = HOST + '[[mirror]]\nmatch = { proto = "udp", dport = 7 }\nto = "two"\n'
    name = chain.net.spec.name
    chain.net.dataplane.apply(
        parse(f'[host]\nname = "{name}"\n{mirrored}', tmp_path / "mirrored.toml")
    )
    chain.send(7, 10)
    chain.sync()
    chain.send(7, 10)
    assert counts_of(chain.functions)["one"]["ring_out"] == before


def test_never_means_the_switch(chain: Chain) -> None:
    for _ in range(3):
        chain.send(9, 20)
        chain.sync()
    until(lambda: chain.counter("one", "eth0_out") >= 60)
    assert chain.counter("one", "ring_out") == 0


def test_tcp_with_offloads_arrives_whole_while_the_paths_flip(chain: Chain, tmp_path: Path) -> None:
    body = os.urandom(1 << 20) * 100
    (tmp_path / "body").write_bytes(body)
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    server = chain.net.vms["server"].popen(
        ["python3", "-m", "http.server", "80", "--directory", str(tmp_path)],
        stdout=nowhere,
        stderr=nowhere,
    )
    try:
        until(lambda: ":80 " in chain.net.run("server", "ss", "-ltn"))
        got = seen_in(chain.net.vms["client"], tmp_path / "got")
        client = chain.net.vms["client"].popen(
            ["curl", "-s", "-m", "50", "-o", str(tmp_path / "got"), "http://198.18.0.20/body"]
        )
        flips = 0
        while not select.select([client.fileno()], [], [], 0.05)[0]:
            chain.sync() if flips % 2 == 0 else chain.functions.new_epoch(0)
            flips += 1
        assert client.wait(1) == 0
        assert flips > 4
        digest = hashlib.sha256(got.read_bytes()).hexdigest()
        assert digest == hashlib.sha256(body).hexdigest()
        counters = counts_of(chain.functions)
        assert all(counters[name]["ring_out"] > 100 for name in ("one", "two", "three"))
        assert all(counters[name]["eth0_out"] > 100 for name in ("one", "two", "three"))
        client.close()
    finally:
        server.close()
        os.close(nowhere)


def restarted(chain: Chain, old: Process) -> bool:
    """Whether `three` is another process than it was."""
    chain.sync()
    now = chain.functions.process("three")
    return now is not None and now is not old


def by_ring(chain: Chain, count: int) -> bool:
    """Whether so many packets have come to the last function by ring since it was started."""
    return chain.counter("three", "ring_in") >= count


def goes_by_ring(chain: Chain) -> bool:
    """Whether one more datagram reaches the last function by ring: the rule for it comes with the
    daemon's next look."""
    before = chain.counter("three", "ring_in")
    chain.send(7, 1)
    chain.sync()
    return chain.counter("three", "ring_in") > before


def test_a_killed_function_comes_back_with_its_rings(chain: Chain) -> None:
    chain.send(7, 5)
    chain.sync()
    for _ in range(3):
        before_it = chain.functions.process("three")
        assert before_it is not None
        before_it.kill()
        until(partial(restarted, chain, before_it), 20)
        until(partial(goes_by_ring, chain), 20)
        before = chain.counter("three", "ring_in")
        chain.send(7, 20)
        until(partial(by_ring, chain, before + 20))


def test_a_function_that_hangs_is_waited_for_once(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody else waits meanwhile. What it counted last stays to be seen."""
    chain.send(7, 5)
    process = chain.functions.process("two")
    assert process is not None

    async def twice() -> tuple[Any, Any]:
        fine = await chain.functions.report()
        os.kill(process.pid, signal.SIGSTOP)
        monkeypatch.setattr(functions, "ANSWER", 0.2)
        others = asyncio.Event()
        asyncio.get_running_loop().call_soon(others.set)
        first = asyncio.create_task(chain.functions.report())
        await others.wait()
        assert not first.done()
        await first
        monkeypatch.setattr(functions, "ANSWER", 1000.0)  # nobody is to wait so long
        hung = await chain.functions.report()
        os.kill(process.pid, signal.SIGCONT)
        return fine, hung

    try:
        fine, hung = asyncio.run(twice())
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert any(fine["two"]["counters"].values())
    assert hung["two"]["counters"] == fine["two"]["counters"]
    assert [hung[name]["silent"] for name in ("one", "two", "three")] == [False, True, False]
    until(lambda: not asyncio.run(chain.functions.report())["two"]["silent"])
