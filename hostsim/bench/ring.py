# SPDX-License-Identifier: Apache-2.0
"""The ring between two processes on two cores: throughput, round trips, and what idling costs.

`SIZE/isolated` copies every byte in and out, `SIZE/shared` writes and reads 48 bytes of header.
Peers: `memif` (DPDK's dpdk-testpmd with net_memif, which copies every byte in and out too) and
`limit` (the same copies with nothing around them); of `shared`, `rte_ring` too: DPDK's ring of mbuf
pointers between two processes that share all memory and trust each other, with the same header
written and read, and each mbuf taken from its pool and given back; for round trips of a pair that
sleeps, `eventfd` (a bare ping-pong). `rtt/polling` never sleeps; `idle` is what two ends that wait
use. `--peer` may name several, with commas. `cycles` are of each of the two cores, at its nominal
clock.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cext import HERE
from cext.bench import ring as ring_bench
from cext.ring.channel import Channel, Mode, Shape, Umem, make_channel, make_region
from hostsim.bench import common
from hostsim.errors import HostsimError
from hostsim.model import Json

SIZES = (64, 256, 1500, 9000)
RING = 2048
MEMIF_RSIZE = 11  # as a power of two: RING
FRAMES = 2048  # of the shared umem
DATA = {64: 1 << 18, 256: 1 << 20, 1500: 1 << 22, 9000: 1 << 24}
"""Bytes of an isolated channel's data: what RING packets of the size need, and no more: what is
used again and again stays in the caches."""
LIMIT_SLOTS = {64: 2048, 256: 2048, 1500: 2048, 9000: 1024}
WARM_UP = 0.2  # seconds
MEASURED = 0.5
TRIPS = 5000
SPIN = 20e-6  # how long an end polls before it sleeps, as a port does
IDLE = 2.0
PEERS = ("memif", "rte_ring", "limit", "eventfd")
TESTPMD = "dpdk-testpmd"
RTE = HERE / "hostsim-bench-rte"
"""Built only if libdpdk is there."""
RTE_MBUFS, RTE_CACHE = 8192, 512
"""Of its pool (512 is the most that a pool takes)."""
RTE_DEADLINE = 30.0
TESTPMD_DEADLINE = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench ring`."""
    common.add_arguments(parser, [case.name for case in cases(PEERS)])
    parser.add_argument(
        "--peer",
        action="extend",
        type=_peers,
        metavar="PEER,...",
        help=f"only against these; may be given again (default: all that are installed of "
        f"{', '.join(PEERS)})",
    )


def _peers(text: str) -> list[str]:
    found = text.split(",")
    for name in found:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PEERS)}")
    return found


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    if len(os.sched_getaffinity(0)) < 2:
        raise HostsimError("bench ring", "needs two cores", "one for each end of the ring")
    peers = list(options.peer or PEERS)
    for peer, there, hint in (
        ("memif", shutil.which(TESTPMD) is not None, "apt-get install dpdk-dev"),
        ("rte_ring", RTE.exists(), "apt-get install libdpdk-dev, and build again"),
    ):
        if not there:
            if peer in (options.peer or []):
                raise HostsimError(f"bench ring --peer {peer}", "is not installed", hint)
            peers = [one for one in peers if one != peer]
    # An end that loses its core for a moment stops the other too; so both sides, ours and the
    # peer's, are asked to be let alone.
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        return with_cycles(common.run("ring", cases(peers), options))
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def with_cycles(found: Json) -> Json:
    """The document, with the cycles of a core for each packet: hostsim's and the peers'."""
    clock = found["machine"].get("mhz")
    for case in found["cases"]:
        if clock and case["unit"] == "Mpps":
            values = {"hostsim": case["value"], **case["peers"]}
            case["cycles"] = {name: round(clock / value, 1) for name, value in values.items()}
    return found


def cases(peers: Sequence[str]) -> list[common.Case]:
    """Every case, against those of `peers` that fit it."""
    found = []
    for size in SIZES:
        modes: tuple[Mode, ...] = ("isolated", "shared")
        for mode in modes:
            against: dict[str, common.Measure] = {}
            if "memif" in peers:
                against["memif"] = lambda size=size: memif(size)  # type: ignore[misc]
            if "rte_ring" in peers and mode == "shared":
                against["rte_ring"] = lambda size=size: rte_ring(size)  # type: ignore[misc]
            if "limit" in peers and mode == "isolated":
                against["limit"] = lambda size=size: limit(size)  # type: ignore[misc]
            found.append(
                common.Case(
                    f"{size}/{mode}",
                    "Mpps",
                    lambda size=size, mode=mode: throughput(size, mode),  # type: ignore[misc]
                    against,
                )
            )
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        bare: dict[str, common.Measure] = {}
        if "eventfd" in peers:
            bare["eventfd"] = lambda share=share: eventfd(share)  # type: ignore[misc]
        for kind, spin in (("sleeping", 0.0), ("polling", float("inf"))):
            found.append(
                common.Case(
                    f"rtt/{kind}/{name}",
                    "us",
                    lambda spin=spin, share=share: round_trip(spin, share),  # type: ignore[misc]
                    bare,
                )
            )
    found.append(common.Case("idle", "% of a core", idle))
    return found


# -- processes ------------------------------------------------------------------------------------


class Child:
    """A forked process on one CPU that runs a function and hands back what it returns (JSON)."""

    def __init__(self, cpu: int, work: Callable[[], Any]) -> None:
        self.pipe, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.sched_setaffinity(0, {cpu})
                os.write(write, json.dumps(work()).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(write)

    def result(self) -> Any:
        """Wait for it. Raises HostsimError if it failed."""
        with os.fdopen(self.pipe, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        if status != 0:
            raise HostsimError("bench ring", f"an end of the ring failed (status {status})")
        return json.loads(answer)


def cpus() -> tuple[int, int]:
    """Two CPUs of those we may use."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    return first, second


def rate(page: ring_bench.Page, source: Callable[[], None], sink: Callable[[], None]) -> float:
    """Mpps that arrive while both ends run."""
    one, other = cpus()
    ends = [Child(other, sink), Child(one, source)]
    pipes = [end.pipe for end in ends]
    select.select(pipes, [], [], WARM_UP)  # readable only if an end has failed
    begun, before = time.monotonic(), page.count
    select.select(pipes, [], [], MEASURED)
    after, ended = page.count, time.monotonic()
    page.stop()
    for end in ends:
        end.result()
    if page.wrong or after == before:
        raise HostsimError(
            "bench ring", f"{page.wrong} packets were not the ones due, {after - before} came"
        )
    return (after - before) / (ended - begun) / 1e6


def frame_size(size: int) -> int:
    """The smallest frame AF_XDP takes that holds the packet."""
    return 2048 if size <= 2048 else 16384


def throughput(size: int, mode: Mode) -> float:
    """Mpps of packets of `size` bytes through one channel."""
    frame = frame_size(size)
    shape = Shape(mode, ring=RING, data=DATA[size], max_len=size)
    page = ring_bench.Page()
    with contextlib.ExitStack() as fds:
        channel = make_channel(shape)
        fds.callback(os.close, channel)
        region = None
        if mode == "shared":
            region = make_region(FRAMES * frame)
            fds.callback(os.close, region)

        def end(sender: bool) -> Channel:
            owned = FRAMES if mode == "isolated" or sender else 0
            count = FRAMES if region is not None else 512
            umem = Umem(count, frame, region, count=min(owned, count))
            umem.spread(size)
            return Channel(channel, shape, umem, sender=sender)

        return rate(
            page,
            lambda: ring_bench.source(end(True), page, size),
            lambda: ring_bench.sink(end(False), page),
        )


def limit(size: int) -> float:
    """Mpps of the same copies with nothing around them."""
    page = ring_bench.Page()
    memory = ring_bench.Limit(LIMIT_SLOTS[size], size)
    return rate(page, lambda: memory.source(page), lambda: memory.sink(page))


# -- round trips ----------------------------------------------------------------------------------


@contextlib.contextmanager
def both_ways() -> Iterator[tuple[Callable[[int], tuple[Channel, Channel]], list[tuple[int, int]]]]:
    """Two isolated channels and a bell each way: a function that opens side 0's or 1's ends
    (out, in), and for each side (the end to read, the peer's end to write)."""
    shape = Shape(ring=RING, data=1 << 18, max_len=2048)
    with contextlib.ExitStack() as fds:
        channels = [make_channel(shape) for _ in range(2)]
        pipes = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(2)]
        for fd in (*channels, *pipes[0], *pipes[1]):
            fds.callback(os.close, fd)

        def side(number: int) -> tuple[Channel, Channel]:
            umem = Umem(64)
            out = Channel(channels[number], shape, umem, sender=True)
            return out, Channel(channels[1 - number], shape, umem, sender=False, number=2)

        yield side, [(pipes[i][0], pipes[1 - i][1]) for i in range(2)]


def at(times: list[float], share: float) -> float:
    """The given share's value, in microseconds."""
    return sorted(times)[int(len(times) * share)] * 1e6


def round_trip(spin: float, share: float) -> float:
    """Microseconds of a packet of 64 bytes there and back."""
    one, other = cpus()
    with both_ways() as (side, bells):
        answering = Child(other, lambda: ring_bench.answer(*side(1), bells[1], 64, spin, TRIPS))
        asking = Child(one, lambda: ring_bench.round_trips(*side(0), bells[0], 64, spin, TRIPS))
        times: list[float] = asking.result()
        answering.result()
        return at(times, share)


def eventfd(share: float) -> float:
    """Microseconds of a bare eventfd ping-pong."""
    one, other = cpus()
    with contextlib.ExitStack() as fds:
        there, back = os.eventfd(0, os.EFD_CLOEXEC), os.eventfd(0, os.EFD_CLOEXEC)
        fds.callback(os.close, there)
        fds.callback(os.close, back)
        answering = Child(other, lambda: ring_bench.eventfd_answer(there, back, TRIPS))
        asking = Child(one, lambda: ring_bench.eventfd_round_trips(back, there, TRIPS))
        times: list[float] = asking.result()
        answering.result()
        return at(times, share)


def idle() -> float:
    """Percent of a core that a pair uses which waits for packets that do not come."""

    def wait(into: Channel, bell: int) -> float:
        before = resource.getrusage(resource.RUSAGE_SELF)
        ring_bench.idle(into, bell, SPIN, IDLE)
        after = resource.getrusage(resource.RUSAGE_SELF)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    with both_ways() as (side, bells):
        ends = [
            Child(cpu, lambda number=number: wait(side(number)[1], bells[number][0]))  # type: ignore[misc]
            for number, cpu in enumerate(cpus())
        ]
        used = float(sum(end.result() for end in ends))
    return 100 * used / IDLE


# -- DPDK -----------------------------------------------------------------------------------------


def rte_ring(size: int) -> float:
    """Mpps through DPDK's ring between two processes, one on each core."""
    with tempfile.TemporaryDirectory(prefix="hostsim-bench-") as folder:
        times = [f"{1000 * seconds:.0f}" for seconds in (WARM_UP, MEASURED)]
        pool = [str(number) for number in (size, RING, RTE_MBUFS, RTE_CACHE)]
        one, other = cpus()
        done = subprocess.run(
            [str(RTE), *pool, *times, str(one), str(other)],
            capture_output=True,
            text=True,
            timeout=RTE_DEADLINE,
            env={**os.environ, "RUNTIME_DIRECTORY": folder},
            check=False,
        )
    words = (done.stdout.splitlines() or [""])[-1].split()
    if done.returncode != 0 or len(words) != 2 or words[1] != "0" or words[0] == "0":
        said = (done.stderr.strip().splitlines() or words or ["nothing"])[-1]
        raise HostsimError("bench ring --peer rte_ring", f"{RTE.name} failed: {said}")
    return float(words[0]) / 1e6


_PPS = re.compile(rb"Rx-pps:\s*(\d+)")


def memif(size: int) -> float:
    """Mpps of testpmd sending to testpmd through net_memif, each with its worker on one core."""
    one, other = cpus()
    with (
        tempfile.TemporaryDirectory(prefix="hostsim-bench-") as folder,
        contextlib.ExitStack() as stack,
    ):
        server = _testpmd(stack, folder, other, "server", size, "--forward-mode=rxonly")
        _started(server)
        _testpmd(stack, folder, one, "client", size, "--forward-mode=txonly", f"--txpkts={size}")
        return _received(server)


def _testpmd(
    stack: contextlib.ExitStack, folder: str, cpu: int, role: str, size: int, *forward: str
) -> "subprocess.Popen[bytes]":
    buffer = 2048 if size <= 2048 else 10240
    device = f"net_memif0,role={role},socket={folder}/memif,socket-abstract=no"
    words = [
        *(TESTPMD, "--no-huge", "--no-shconf", "-m", "512", "--no-pci", "--no-telemetry"),
        *("--lcores", f"0@{cpu},1@{cpu}", f"--vdev={device},rsize={MEMIF_RSIZE},bsize={buffer}"),
        *("--", "--burst=64", "--total-num-mbufs=16384", f"--mbuf-size={buffer + 128}"),
        *("--rxd=2048", "--txd=2048", "--stats-period=1", *forward),
    ]
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "RUNTIME_DIRECTORY": folder},
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _started(server: "subprocess.Popen[bytes]") -> None:
    assert server.stdout is not None
    for line in server.stdout:
        if b"Checking link" in line:  # its socket is there by now
            return
    raise HostsimError("bench ring", f"{TESTPMD} does not start", "run it by hand")


def _received(server: "subprocess.Popen[bytes]") -> float:
    """The mean of two full seconds, after the first in which packets came."""
    assert server.stdout is not None
    seen: list[int] = []
    deadline = time.monotonic() + TESTPMD_DEADLINE
    for line in server.stdout:
        match = _PPS.search(line)
        if match and (seen or int(match[1]) > 0):
            seen.append(int(match[1]))
        if len(seen) == 4:
            return sum(seen[2:]) / 2 / 1e6
        if time.monotonic() > deadline:
            break
    raise HostsimError("bench ring", f"nothing came through {TESTPMD}", "run it by hand")
