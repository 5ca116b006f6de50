# SPDX-License-Identifier: Apache-2.0
"""A packet function that does its worst to its neighbour: it writes anything into what they share,
rings its bell without end, never takes a packet, hangs up, dies. The neighbour goes on serving
everybody else, to the packet, and counts what it refused."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.chain import Chain, chained, route, vm
from help.functions import put
from help.net import ENDS
from help.waiting import until
from hostsim.bench.chain import counts_of

pytestmark = pytest.mark.root


@pytest.fixture
def chain(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Chain]:
    put("evil", tmp_path)
    vms = vm("one") + vm("evil", f"evil:{request.param}") + vm("three")
    routes = route('proto = "udp", dport = 666', "one evil", 'on_full = "wait"')
    routes += route('proto = "udp"', "one three")
    with chained(ENDS + vms + routes, tmp_path) as made:
        yield made


def good(chain: Chain) -> None:
    """A hundred datagrams to the good neighbour, while some go to the bad one."""
    before = counts_of(chain.functions)["three"]["ring_in"]
    for _ in range(4):
        chain.send(666, 300)
        chain.send(7, 25)
        chain.sync()
    until(lambda: counts_of(chain.functions)["three"]["ring_in"] - before == 100)


@pytest.mark.parametrize("chain", ["vandal", "bells", "hang_up", "deaf"], indirect=True)
def test_the_neighbour_goes_on(chain: Chain, request: pytest.FixtureRequest) -> None:
    for port in (7, 666):
        chain.send(port, 5)
    chain.sync()
    served, evil = chain.functions.process("one"), chain.functions.process("evil")
    assert served is not None
    assert evil is not None
    good(chain)
    os.kill(evil.pid, signal.SIGKILL)
    until(lambda: evil.poll() is not None)
    chain.sync()
    good(chain)
    assert chain.functions.process("one") is served
    assert served.poll() is None
    counters = counts_of(chain.functions)["one"]
    if "vandal" in request.node.name:
        assert sum(counters[f"bad_{what}"] for what in ("index", "length", "options")) > 0
    if "deaf" in request.node.name:
        assert counters["full_ring"] > 0
    rows = [row for row in chain.net.dataplane.report.verify() if row["key"].endswith(":7")]
    assert not any(row["missing"] or row["beside"] for row in rows), rows
