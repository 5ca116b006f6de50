# SPDX-License-Identifier: Apache-2.0
"""What a packet pays for each path between two VMs: the switch's, the veth bypass, a plain bridge.

    bridge   hostsim's switch, the classifier on its ports, a flow that no route concerns
    switch   a flow steered by its route, kept on the switch (bypass = "never")
    veth     the same flow by the direct link
Peers: `switch` is hostsim's own switch path; `bridge` a Linux bridge made by ip(8), without any
program, and `bridge-bare` the same without br_netfilter, which hostsim's switch does without too;
`ovs` Open vSwitch's userspace datapath.

    udp64     frames of 64 bytes, by one thread of a tester in the kernel (cext/bench/tester.h), in
              bursts of 64, out by a's eth0, and counted as they come into b's: what the path moves
    socket64  datagrams of 22 bytes, frames of 64, from a program's socket to a program's socket, as
              fast as one thread sends: most of it is the sending and the receiving, on every path
    tcp       one connection by iperf3, with eth0's offloads off at both ends, on every path, since
              Open vSwitch's userspace datapath needs them off: eth0 cuts what TCP sends into
              segments with checksums, as for a wire. A routing rule takes packets before eth0 has
              cut them, and the direct link carries them whole
    tcp-gso   the same with offloads on, as VMs have them: every path carries super-packets of up
              to 64 KiB; for each, it costs next to nothing against the copying, and all are alike
    rtt       us, the 99th percentile of 2000 round trips of a datagram, one after the other
    cpu       us that the whole machine spent for each datagram of socket64 that arrived

In each row all paths and peers have the same senders, receivers and settings. switchover moves a
numbered stream from switch to bypass and back 1,000 times; its value is packets lost and reordered.
"""

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from hostsim.bench import common
from hostsim.bench.load import PORT, Load
from hostsim.bench.rig import ADDRESS, STREAM_PORT, Bridge, Ours, Ovs, Rig, stream
from hostsim.errors import HostsimError
from hostsim.model import Json

ROUTE = """
[[route]]
match = {{ proto = {proto}, dport = [{ports}] }}
through = ["a", "b"]
bypass = "{bypass}"
"""
MS = 700  # of one run
WINDOW = 256  # frames of the tester that are on their way at a time
KINDS = ("udp64", "socket64", "tcp", "tcp-gso", "rtt", "cpu")
NAMES = [f"{kind}/{path}" for kind in KINDS for path in ("bridge", "switch", "veth")]
SWITCHES = 1000
PACKETS = 1_000_000

R = TypeVar("R", Ours, Bridge, Ovs)
Measure = Callable[[Ours | Bridge], float]

PINGER = """
import json, socket, sys, time
sock = socket.socket(2, 2)
sock.connect((sys.argv[1], 9000))
sock.settimeout(2)
took = []
for n in range(2100):
    begin = time.perf_counter_ns()
    sock.send(b"x" * 22)
    sock.recv(64)
    took.append(time.perf_counter_ns() - begin)
print(json.dumps(sorted(took[100:])))
"""
ECHO = """
import socket
sock = socket.socket(2, 2)
sock.bind(("", 9000))
print("up", flush=True)
for n in range(2100):
    data, where = sock.recvfrom(64)
    sock.sendto(data, where)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench path`."""
    common.add_arguments(parser, [*NAMES, "switchover"], runs=5)


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    with contextlib.ExitStack() as closing:

        def rig(make: Callable[[], R]) -> R:
            made = make()
            closing.callback(made.close)
            return made

        wanted = set(options.case or [*NAMES, "switchover"])
        rigs: dict[str, Ours | Bridge] = {}
        if wanted - {"switchover"}:
            rigs["plain"] = rig(partial(Bridge, "bp-plain"))
            rigs["bare"] = bare = rig(partial(Bridge, "bp-bare"))
            bare.without_netfilter()
            rigs["bridge"] = rig(partial(Ours, "bp-bridge", _routes("never", "9")))
            rigs["switch"] = rig(partial(Ours, "bp-switch", _routes("never")))
            rigs["veth"] = rig(partial(Ours, "bp-veth", _routes("auto")))
            if Ovs.installed():
                rigs["ovs"] = rig(partial(Ovs, "bp-ovs"))
        load = Load()
        closing.callback(load.close)
        for one in rigs.values():
            load.join(one)
            stream(one, 22, 0, 1000, 50)  # neighbours, the direct link
            for _ in range(2):
                load.run(one, 1, WINDOW)
                one.pump()
        measures: dict[str, Measure] = {"udp64": partial(udp64, load), **MEASURES}
        cases = []
        for name in NAMES:
            kind, path = name.split("/")
            measure = measures[kind]
            peers = (
                {"bridge": "plain"} if path != "veth" else {"switch": "switch", "bridge": "plain"}
            )
            if kind == "udp64":
                peers["bridge-bare"] = "bare"
            if "ovs" in rigs and path == "switch" and kind not in ("cpu", "tcp-gso"):
                peers["ovs"] = "ovs"
            if measure is tcp and not shutil.which("iperf3"):
                continue
            cases.append(
                common.Case(
                    name,
                    UNITS[kind],
                    partial(_measured, kind, measure, rigs, path),
                    {
                        peer: partial(_measured, kind, measure, rigs, own)
                        for peer, own in peers.items()
                    },
                )
            )
        cases.append(common.Case("switchover", "packets", switchover))
        return common.run("path", cases, options)


def _measured(kind: str, measure: Measure, rigs: dict[str, Ours | Bridge], name: str) -> float:
    rig = rigs[name]
    if not isinstance(rig, Ovs):
        rig.offloads(kind != "tcp")
    return measure(rig)


def _routes(bypass: str, ports: str = f"9000, {PORT}, 5201") -> str:
    return "".join(
        ROUTE.format(proto=f'"{proto}"', ports=ports, bypass=bypass) for proto in ("udp", "tcp")
    )


def udp64(load: Load, rig: Ours | Bridge) -> float:
    """Million frames a second that arrive."""
    done = load.run(rig, MS, WINDOW)
    rig.pump()
    return done.got / done.seconds / 1e6


def socket64(rig: Rig) -> float:
    """Million datagrams a second that arrive."""
    done = stream(rig, 22, MS)
    return done["got"]["packets"] / done["sent"]["ns"] * 1e3


def cpu(rig: Rig) -> float:
    """Microseconds of CPU, of the whole machine, for each datagram that arrives."""
    begin = _busy()
    done = stream(rig, 22, MS)
    return (_busy() - begin) * 1e6 / max(1, done["got"]["packets"])


def _busy() -> float:
    """Seconds that CPUs were not idle since boot (proc(5), /proc/stat)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / 100


def tcp(rig: Rig) -> float:
    """Gbit/s of one connection."""
    server = rig.start("b", ["iperf3", "-s", "-1", "-J", "--forceflush"])
    try:
        deadline = time.monotonic() + 5
        while True:
            client = rig.start("a", ["iperf3", "-c", ADDRESS["b"], "-t", "1", "-J"])
            assert client.stdout is not None
            said = json.loads(client.stdout.read() or b"{}")
            client.stdout.close()
            client.wait(10)
            rig.pump()
            if "error" not in said:
                return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9
            if time.monotonic() > deadline:
                raise HostsimError("bench path: iperf3", said["error"])
    finally:
        server.wait(10)
        assert server.stdout is not None
        server.stdout.close()


def rtt(rig: Rig) -> float:
    """Microseconds, the 99th percentile of round trips."""
    echo = rig.start("b", [sys.executable, "-c", ECHO])
    assert echo.stdout is not None
    echo.stdout.readline()
    pinger = rig.start("a", [sys.executable, "-c", PINGER, ADDRESS["b"]])
    assert pinger.stdout is not None
    line = pinger.stdout.readline()
    for program in (pinger, echo):
        program.wait(10)
        assert program.stdout is not None
        program.stdout.close()
    rig.pump()
    took = json.loads(line)
    return float(took[len(took) * 99 // 100]) / 1e3


@cache
def switchover() -> float:
    """Packets lost and reordered of PACKETS, while the path changes SWITCHES times. Measured once,
    whatever the number of runs."""
    rig = Ours("bp-over", _routes("auto"))
    try:
        return float(switch_paths(rig, PACKETS, SWITCHES)["wrong"])
    finally:
        rig.close()


def switch_paths(rig: Ours, packets: int, switches: int) -> dict[str, int]:
    """Send a numbered stream and meanwhile make every rule stale, again and again; each time the
    flow goes to the switch and, after its first packets, back to the bypass."""
    assert rig.dataplane is not None
    stream(rig, 22, 0, 1000, 50)
    python = [sys.executable, "-m", "cext.bench.stream"]
    receiver = rig.receive("b", packets, 1000)
    assert receiver.stdout is not None
    receiver.stdout.readline()
    rate = 40_000
    words = ["send", ADDRESS["b"], str(STREAM_PORT), "22", str(packets), "0", str(rate)]
    sender = rig.start("a", [*python, *words])
    changes = 0
    while changes < switches and _running(sender):
        given = rig.dataplane.report.counters()["rules"]
        rig.dataplane.apply(rig.spec)
        deadline = time.monotonic() + 1
        while rig.dataplane.report.counters()["rules"] == given and time.monotonic() < deadline:
            rig.pump()
        changes += 1
    assert sender.stdout is not None
    sent = json.loads(sender.stdout.readline())
    got = json.loads(receiver.stdout.readline())
    for program in (sender, receiver):
        program.wait(30)
        assert program.stdout is not None
        program.stdout.close()
    if changes < switches:
        raise HostsimError("bench path: switchover", f"only {changes} of {switches} changes")
    lost = sent["packets"] - (got["packets"] - got["doubled"])
    wrong = lost + got["reordered"] + got["doubled"]
    return {"wrong": wrong, "lost": lost, "reordered": got["reordered"], "changes": changes,
            "packets": sent["packets"]}  # fmt: skip


def _running(program: object) -> bool:
    poll = getattr(program, "poll", None)
    return poll is None or poll() is None


MEASURES: dict[str, Measure] = {
    "socket64": socket64,
    "tcp": tcp,
    "tcp-gso": tcp,
    "rtt": rtt,
    "cpu": cpu,
}
UNITS = {
    "udp64": "Mpps",
    "socket64": "Mpps",
    "tcp": "Gbit/s",
    "tcp-gso": "Gbit/s",
    "rtt": "us p99",
    "cpu": "us/packet",
}
