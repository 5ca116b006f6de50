"""A packet function that does its worst to its neighbour: it writes anything into what they share,
rings its bell without end, never takes a packet, hangs up, dies. The neighbour goes on serving
everybody else, to the packet, and counts what it refused."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.chain import Chain, chained, route, vm
from help.net import ENDS
from help.waiting import until
from hostsim.bench.chain import counts_of

pytestmark = pytest.mark.root

EVIL = """
import os, random, select
from cext._native import ffi, lib

def ends(port):
    near = [port.native.neighbour[place] for place in range(port.native.neighbours)]
    return [(one, end) for one in near if one.vm for end in (one.out, getattr(one, "in"))]

def told(port):
    return select.select([port.control], [], [], 0)[0] and not port.on_control()

def vandal(port):
    draw = random.Random(1)
    while not told(port):
        for one, end in ends(port):
            memory = ffi.buffer(end.region, end.region_size)
            for _ in range(50):  # in the rings' heads and slots most of all
                at = draw.randrange(128, draw.choice((1024, 8192, end.region_size - 64)))
                memory[at : at + 16] = draw.choice((bytes(16), draw.randbytes(16), b"\\xff" * 16))
            at = 128
            memory[at : at + 4] = draw.randrange(1 << 12).to_bytes(4, "little")  # often likely

def bells(port):
    while not told(port):
        for one, end in ends(port):
            for _ in range(100):
                try:
                    os.write(one.bell_out, b"x" * 512)
                except BlockingIOError:
                    break

def hang_up(port):
    done = set()
    while not told(port):
        for one, end in ends(port):
            if one.bell_out not in done:
                done.add(one.bell_out)
                os.dup2(os.open("/dev/null", os.O_WRONLY), one.bell_out)
        select.select([port.control], [], [], 1)

def deaf(port):
    while not told(port):
        select.select([port.control], [], [], 1)
"""


@pytest.fixture
def chain(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Chain]:
    (tmp_path / "evil_functions.py").write_text(EVIL)
    vms = vm("one") + vm("evil", f"evil_functions:{request.param}") + vm("three")
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
    assert not any(row["missing"] for row in rows), rows
