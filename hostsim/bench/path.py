"""What a packet pays for each path between two VMs: the switch's, the veth bypass, a plain bridge.

    bridge   hostsim's switch, the classifier on its ports, a flow that no route concerns
    switch   a flow steered by its route, kept on the switch (bypass = "never")
    veth     the same flow by the direct link
Peers: `switch` is hostsim's own switch path; `bridge` a Linux bridge made by ip(8), without any
program; `ovs` Open vSwitch's userspace datapath. udp64 is datagrams of 22 bytes, frames of 64, sent
as fast as one thread can and counted where they arrive; tcp is one connection by iperf3; rtt/p99
is of 2000 round trips of a datagram, one after the other; cpu is what the whole machine spent for
each datagram that arrived. switchover moves a numbered stream from switch to bypass and back 1,000
times; its value is packets lost and reordered.
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

from hostsim.bench import common
from hostsim.bench.rig import ADDRESS, Bridge, Ours, Ovs, Rig, stream
from hostsim.errors import HostsimError
from hostsim.model import Json

ROUTE = """
[[route]]
match = {{ proto = {proto}, dport = [9000, 5201] }}
through = ["a", "b"]
bypass = "{bypass}"
"""
MS = 700  # of one run
NAMES = [f"{kind}/{path}" for kind in ("udp64", "tcp", "rtt", "cpu") for path in
         ("bridge", "switch", "veth")]  # fmt: skip
SWITCHES = 1000
PACKETS = 1_000_000

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

        def rig(make: Callable[[], Rig]) -> Rig:
            made = make()
            closing.callback(made.close)
            return made

        wanted = set(options.case or [*NAMES, "switchover"])
        rigs: dict[str, Rig] = {}
        if wanted - {"switchover"}:
            rigs["plain"] = rig(partial(Bridge, "bp-plain"))
            rigs["bridge"] = rig(partial(Ours, "bp-bridge", _routes("never").replace("9000", "9")))
            rigs["switch"] = rig(partial(Ours, "bp-switch", _routes("never")))
            rigs["veth"] = rig(partial(Ours, "bp-veth", _routes("auto")))
            if Ovs.installed():
                rigs["ovs"] = rig(partial(Ovs, "bp-ovs"))
        for one in rigs.values():  # neighbours, the direct link
            stream(one, 22, 0, 1000, 50)
        cases = []
        for name in NAMES:
            kind, path = name.split("/")
            measure = MEASURES[kind]
            peers = (
                {"bridge": "plain"} if path != "veth" else {"switch": "switch", "bridge": "plain"}
            )
            if "ovs" in rigs and path == "switch" and kind != "cpu":
                peers["ovs"] = "ovs"
            if kind == "tcp" and not shutil.which("iperf3"):
                continue
            cases.append(
                common.Case(
                    name,
                    UNITS[kind],
                    partial(_measured, measure, rigs, path),
                    {peer: partial(_measured, measure, rigs, own) for peer, own in peers.items()},
                )
            )
        cases.append(common.Case("switchover", "packets", switchover))
        return common.run("path", cases, options)


def _measured(measure: Callable[[Rig], float], rigs: dict[str, Rig], name: str) -> float:
    return measure(rigs[name])


def _routes(bypass: str) -> str:
    return "".join(ROUTE.format(proto=f'"{proto}"', bypass=bypass) for proto in ("udp", "tcp"))


def udp64(rig: Rig) -> float:
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
    python = [sys.executable, "-m", "cext.stream"]
    receiver = rig.start("b", [*python, "receive", "9000", str(packets), "1000"])
    assert receiver.stdout is not None
    receiver.stdout.readline()
    rate = 40_000
    words = ["send", ADDRESS["b"], "9000", "22", str(packets), "0", str(rate)]
    sender = rig.start("a", [*python, *words])
    changes = 0
    while changes < switches and _running(sender):
        given = rig.dataplane.counters()["rules"]
        rig.dataplane.refresh()
        deadline = time.monotonic() + 1
        while rig.dataplane.counters()["rules"] == given and time.monotonic() < deadline:
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


MEASURES: dict[str, Callable[[Rig], float]] = {"udp64": udp64, "tcp": tcp, "rtt": rtt, "cpu": cpu}
UNITS = {"udp64": "Mpps", "tcp": "Gbit/s", "rtt": "us p99", "cpu": "us/packet"}
