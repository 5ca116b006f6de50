# SPDX-License-Identifier: Apache-2.0
"""A port without eth0: rules, batches, and two ports joined by rings in one process."""

import mmap
import os
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext import INCLUDE
from cext.port.port import Batch, Port
from cext.port.rules import Rules, flow_of
from cext.ring.channel import Shape, make_channel
from hostsim.bench.chain import packet
from hostsim.nf import runner

SHAPE = Shape(ring=64, data=1 << 17, max_len=1600)


@pytest.fixture
def rules() -> Iterator[Rules]:
    made = Rules(64)
    yield made
    made.close()


@pytest.fixture
def joined(rules: Rules) -> Iterator[tuple[Port, Port]]:
    """Ports of VM 1 and VM 2; VM 1 has the rules."""
    one, two = Port(256), Port(256)
    channels = [make_channel(SHAPE), make_channel(SHAPE)]
    bells = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(2)]
    one.neighbour(2, SHAPE, channels[0], channels[1], (bells[0][0], bells[1][1]))
    two.neighbour(1, SHAPE, channels[1], channels[0], (bells[1][0], bells[0][1]))
    one.rules(rules.fd, rules.entries)
    for fd in channels:
        os.close(fd)
    yield one, two
    one.close()
    two.close()


def send(port: Port, *packets: bytes) -> None:
    port.send(port.make(*packets))


def flow() -> bytes:
    found = flow_of(packet())
    assert found is not None
    return found


def test_a_rule_sends_past_the_switch(joined: tuple[Port, Port], rules: Rules) -> None:
    one, two = joined
    send(one, packet())
    assert one.counters()["full_eth0"] == 1  # no rule, and no eth0 here
    rules.set_epoch(1)
    assert rules.put(flow(), 2, 1)
    send(one, packet(), b"not a flow of any kind", packet())
    assert one.counters()["ring_out"] == 2
    batch = two.recv()
    assert [bytes(data) for data in batch] == [packet(), packet()]
    assert [batch.source(index) for index in range(2)] == [1, 1]


def test_a_neighbour_that_keeps_its_ring_full_does_not_starve_another() -> None:
    """Each of two gets its turn, though the first one always has a whole burst waiting."""
    taker, senders, tables = Port(256), [Port(256), Port(256)], [Rules(64), Rules(64)]
    try:
        for vm, (sender, rules) in enumerate(zip(senders, tables, strict=True), start=1):
            channels = [make_channel(SHAPE), make_channel(SHAPE)]
            bells = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(2)]
            sender.neighbour(3, SHAPE, channels[0], channels[1], (bells[0][0], bells[1][1]))
            taker.neighbour(vm, SHAPE, channels[1], channels[0], (bells[1][0], bells[0][1]))
            for fd in channels:
                os.close(fd)
            sender.rules(rules.fd, rules.entries)
            rules.set_epoch(1)
            assert rules.put(flow(), 3, 1)
        send(senders[1], packet())
        seen = []
        for _ in range(3):
            send(senders[0], *[packet()] * 64)
            batch = taker.recv()
            seen += [batch.source(index) for index in range(len(batch))]
            taker.send(batch)  # nowhere: its frames are free again
        assert 2 in seen
    finally:
        for port in (taker, *senders):
            port.close()
        for rules in tables:
            rules.close()


@pytest.mark.parametrize("end", ["epoch", "remove", "forget", "other VM"])
def test_a_rule_that_ends_sends_to_the_switch(
    joined: tuple[Port, Port], rules: Rules, end: str
) -> None:
    one, _ = joined
    rules.set_epoch(1)
    rules.put(flow(), 2, 1)
    send(one, packet())
    assert one.counters()["ring_out"] == 1
    if end == "epoch":
        rules.set_epoch(2)
    elif end == "remove":
        rules.remove(flow())
    elif end == "forget":
        one.forget(2)
    else:
        rules.set_epoch(2)
        rules.put(flow(), 77, 2)
    send(one, packet())
    assert one.counters()["ring_out"] == 1
    assert one.counters()["full_eth0"] == 1


def test_a_full_ring_drops_and_counts(joined: tuple[Port, Port], rules: Rules) -> None:
    one, two = joined
    rules.set_epoch(1)
    rules.put(flow(), 2, 1)
    for _ in range(10):
        send(one, *[packet()] * 10)
    counted = one.counters()
    assert (counted["ring_out"], counted["full_ring"]) == (64, 36)
    assert len(two.recv()) == 64


def test_a_rule_that_waits_loses_nothing(joined: tuple[Port, Port], rules: Rules) -> None:
    one, two = joined
    rules.set_epoch(1)
    rules.put(flow(), 2, 1, wait=True)
    arrived: list[int] = []
    ended = threading.Event()

    def take() -> None:
        while not ended.is_set() or two.wait(0) == 1:
            two.wait(0.002)
            batch = two.recv()
            arrived.append(len(batch))
            two.send(batch)

    taker = threading.Thread(target=take)
    taker.start()
    for _ in range(100):
        send(one, *[packet()] * 50)
    ended.set()
    taker.join(20)
    counted = one.counters()
    assert (counted["ring_out"], counted["full_ring"]) == (5000, 0)
    assert sum(arrived) == 5000


def test_one_that_is_stuck_is_waited_for_once(joined: tuple[Port, Port], rules: Rules) -> None:
    one, two = joined
    rules.set_epoch(1)
    rules.put(flow(), 2, 1, wait=True)
    started = time.monotonic()
    for _ in range(300):
        send(one, packet())
    assert time.monotonic() - started < 236 * 0.05 / 2  # not 50 ms for each
    assert one.counters()["full_ring"] == 300 - 64
    assert len(two.recv()) == 64
    send(one, *[packet()] * 64)
    assert one.counters()["full_ring"] == 300 - 64


def test_a_batch_is_sent_without_what_was_dropped(joined: tuple[Port, Port], rules: Rules) -> None:
    one, two = joined
    rules.set_epoch(1)
    rules.put(flow(), 2, 1)
    batch = one.make(*[packet()] * 4)
    for index, data in enumerate(batch):
        data[-1] = index
    batch.drop(1)
    with pytest.raises(IndexError):
        batch.drop(4)
    one.send(batch)
    assert [data[-1] for data in two.recv()] == [0, 2, 3]
    assert one.counters()["dropped"] == 1


def test_a_sleeper_is_woken(joined: tuple[Port, Port], rules: Rules) -> None:
    one, two = joined
    rules.set_epoch(1)
    rules.put(flow(), 2, 1)
    woken: list[int] = []
    sleeper = threading.Thread(target=lambda: woken.append(two.wait(20)))
    sleeper.start()
    while not two.counters()["sleeps"]:
        select.select([], [], [], 0.001)
    send(one, packet())
    sleeper.join(20)
    assert woken == [1]


def test_waiting_ends_in_time_or_by_control(joined: tuple[Port, Port]) -> None:
    _, two = joined
    assert two.wait(0.01) == 0
    readable, writable = os.pipe()
    os.write(writable, b"x")
    two.control = readable
    assert two.wait(5) == 2
    os.close(readable)
    os.close(writable)


def test_frames_come_back_whatever_happens_to_packets(
    joined: tuple[Port, Port], rules: Rules
) -> None:
    one, two = joined
    rules.set_epoch(1)
    rules.put(flow(), 2, 1)
    for _ in range(100):
        send(one, *[packet()] * 50)
        two.send(two.recv())
    assert one.native.umem.free_count == two.native.umem.free_count == 256


def test_a_function_of_ones_own_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine_nf.py").write_text("def every(port): return port\n")
    assert runner.load("mine_nf:every", str(tmp_path))(None) is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no function"):
        runner.load("mine_nf:other", str(tmp_path))
    with pytest.raises(ValueError, match="there are: forward"):
        runner.load("missing", str(tmp_path))


def test_the_table_is_for_reading(rules: Rules) -> None:
    with pytest.raises(PermissionError):
        mmap.mmap(rules.fd, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def test_an_empty_batch_is_empty() -> None:
    port = Port(64)
    batch: Batch = port.recv()
    assert len(batch) == 0
    with pytest.raises(IndexError):
        batch[0]
    port.close()
    port.close()


def test_the_readmes_plug_in_works(joined: tuple[Port, Port], rules: Rules, tmp_path: Path) -> None:
    readme = Path(__file__).parents[2] / "hostsim/nf/README.md"
    source = readme.read_text().split("```c\n")[1].split("```")[0]
    assert len(source.splitlines()) < 30
    (tmp_path / "no_dns.c").write_text(source)
    library = tmp_path / "no_dns.so"
    command = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-I", str(INCLUDE)]
    subprocess.run(
        [*command, "-o", str(library), str(tmp_path / "no_dns.c")], check=True, timeout=60
    )
    one, two = joined
    rules.set_epoch(1)
    rules.put(flow(), 2, 1)
    dns = bytearray(packet())
    dns[36:38] = b"\0\x35"
    its_flow = flow_of(bytes(dns))
    assert its_flow is not None
    rules.put(its_flow, 2, 1)
    send(one, packet(), bytes(dns), packet())
    readable, writable = os.pipe()
    os.write(writable, b"x")
    two.control = readable
    two.on_control = lambda: False
    runner.load("no_dns.so", str(tmp_path))(two)
    assert two.counters()["dropped"] == 1
    assert two.counters()["full_eth0"] == 2  # sent on, and no eth0 here
    os.close(readable)
    os.close(writable)
