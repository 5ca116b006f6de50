# SPDX-License-Identifier: Apache-2.0
"""Packets through a chain of VMs, end to end and there and back; peer: the same by the switch.

    N/switch, N/veth, N/ring, N/ring-isolated   million packets of 1500 bytes a second
    N/ring-tapped                               the same as N/ring
    rtt/N/PATH/p50, rtt/N/PATH/p99              us, 60 bytes, one at a time: the chain, and back

N VMs pass on what a source in a VM sends to a sink in a VM. The two ends do what the stacks of two
endpoints do: the source copies each datagram's payload out of a buffer, numbers it and takes its
checksum; the sink parses the headers, verifies the checksums over every byte and copies the payload
out. The VMs between
them read headers only (`forward`, with the port's own count of flows), so what an end does for a
packet is several times what a function does, as it is in real chains. All N + 2 processes share the
cores that there are.

`ring` and `switch`: the VMs are packet functions, and a packet goes from VM to VM past the switch,
or each hop through their eth0, the classifier and the switch's ports. `ring` is in one packet
memory for all, without a copy; `ring-isolated` copies in and out at each hop. A full ring makes its
sender wait, or all that the first VMs do is spent on what the last ones drop. `veth`: the VMs
forward in the kernel, and the hops between them are direct links; its peer is the same chain with
each hop by the switch. (There the source and the sink, being packet functions, are reached by the
switch.) Peer of every chain of two or more, by turns with it: `shorter`, the same with a VM less;
the ratio is what the last VM leaves of the packets. Peer of every chain by ring: `unplaced`, the
same with its functions on whichever core the scheduler gives them (hostsim/nf/cores.py). Peer of
`ring-tapped`: `untapped`, the same with ports that cannot be captured (cext/sight/tap.h); nobody
captures. On the other paths nothing asks whether somebody does.
"""

import argparse
import asyncio
import contextlib
import select
import struct
import time
from collections.abc import Iterator
from functools import partial

from cext.bench import port as port_bench
from cext.port.port import Port
from hostsim import assembly, members
from hostsim.bench import common
from hostsim.bench.folder import claimed
from hostsim.errors import HostsimError, UsageError
from hostsim.hostfile.file import parse
from hostsim.model import Json
from hostsim.nf.functions import Functions
from hostsim.routing.dataplane import Dataplane
from hostsim.teardown import Teardown
from netns.journal import Journal

LENGTHS = (1, 2, 3, 4, 5)
PATHS = ("switch", "veth", "ring", "ring-isolated")
SIZE = 1500  # bytes of a frame
PERCENTILES = ("p50", "p99")
SETTLE = 0.5  # seconds until the rules are there and queues are full
MEASURED = 1.0
SYNC = 0.05
LOST = 0.01  # of the round trips: one or two go astray while a chain begins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench chain`."""
    names = [f"{length}/{path}" for length in LENGTHS for path in PATHS]
    tapped = [f"{length}/ring-tapped" for length in LENGTHS]
    trips = [f"rtt/{name}/{which}" for name in names for which in PERCENTILES]
    common.add_arguments(parser, [*names, *tapped, *trips])
    parser.add_argument("--length", help="lengths of chains: 3, or 1..5", metavar="N")
    parser.add_argument("--path", help=f"paths, with commas: {','.join(PATHS)}", metavar="PATHS")


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    lengths, paths = chosen(options)
    cases = []
    for length in lengths:
        for path in paths:
            peers = {"switch": by_switch(path)} if path != "switch" else {}
            beside = {name: partial(measure, length, its) for name, its in peers.items()}
            if path.startswith("ring"):
                beside["unplaced"] = partial(measure, length, path, placed=False)
            if length > 1:
                beside["shorter"] = partial(measure, length - 1, path)
            measured = partial(measure, length, path)
            cases.append(common.Case(f"{length}/{path}", "Mpps", measured, beside))
            if path == "ring":
                without = {"untapped": partial(measure, length, path, tapped=False)}
                cases.append(common.Case(f"{length}/ring-tapped", "Mpps", measured, without))
            ours, theirs = RoundTrips(length, path), RoundTrips(length, by_switch(path))
            cases += [
                common.Case(
                    f"rtt/{length}/{path}/{which}",
                    "us",
                    partial(ours.measure, which),
                    {name: partial(theirs.measure, which) for name in peers},
                )
                for which in PERCENTILES
            ]
    return common.run("chain", cases, options)


def by_switch(path: str) -> str:
    """The path that is the same chain with every hop by the switch."""
    return "kernel" if path == "veth" else "switch"


def chosen(options: argparse.Namespace) -> tuple[list[int], list[str]]:
    """The lengths and paths that the options name. Raises UsageError."""
    lengths, paths = list(LENGTHS), list(PATHS)
    if options.length:
        first, _, last = options.length.partition("..")
        try:
            lengths = list(range(int(first), int(last or first) + 1))
        except ValueError:
            lengths = []
        if not lengths or not set(lengths) <= set(LENGTHS):
            raise UsageError("bench chain", f"--length {options.length}", "give 3, or 1..5")
    if options.path:
        paths = options.path.split(",")
        if not set(paths) <= set(PATHS):
            raise UsageError("bench chain", f"--path {options.path}", f"give {','.join(PATHS)}")
    return lengths, paths


ENDS = {
    "load": """
[[vm]]
name = "sink"
nf = "cext.bench.port:verify"
address = "198.18.0.102/24"
[[vm]]
name = "source"
nf = "hostsim.bench.chain:sender"
address = "198.18.0.101/24"
""",
    "rtt": """
[[vm]]
name = "source"
nf = "hostsim.bench.chain:pinger"
address = "198.18.0.101/24"
[[vm]]
name = "sink"
nf = "cext.bench.port:echo"
address = "198.18.0.102/24"
""",
}
"""The first and the last VM, by what is measured."""


def host_file(length: int, path: str, ends: str = "load") -> str:
    """A host of `length` VMs between a source and a sink. path: `kernel` is `veth`'s VMs with every
    hop by the switch."""
    middle = [f"nf{number}" for number in range(1, length + 1)]
    nf = "" if path in ("veth", "kernel") else 'nf = "forward"\n'
    lines = ['[host]\nname = "bench-chain"\n']
    lines += [f'[[vm]]\nname = "{name}"\n{nf}' for name in middle]
    lines.append(ENDS[ends])  # the source is started last
    bypass = {"ring": "ring", "ring-isolated": "ring", "veth": "auto"}.get(path, "never")
    mode = "shared" if path == "ring" else "isolated"
    through = ", ".join(f'"{name}"' for name in ("source", *middle, "sink"))
    lines.append(
        f'[[route]]\nmatch = {{ proto = "udp" }}\nthrough = [{through}]\nbypass = "{bypass}"\n'
        f'ring = "{mode}"\non_full = "wait"\n'
    )
    return "\n".join(lines)


def pinger(port: Port) -> None:
    """The network function of the source's VM, where round trips are measured."""
    port_bench.ping(port, packet())


def sender(port: Port) -> None:
    """The network function of the source's VM, where packets/s are measured."""
    port_bench.send(port, packet(SIZE))


def packet(size: int = 60) -> bytes:
    """An Ethernet frame of so many bytes: UDP over IPv4 from 198.18.0.101 to 198.18.0.102."""
    payload = bytes(number % 256 for number in range(size - 42)) if size > 60 else bytes(18)
    udp = struct.pack("!HHHH", 4000, 9, 8 + len(payload), 0) + payload
    addresses = bytes([198, 18, 0, 101, 198, 18, 0, 102])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    ethernet = bytes.fromhex("0200000000020200000000010800")
    return ethernet + head + udp


@contextlib.contextmanager
def chain(
    length: int, path: str, ends: str, placed: bool = True, tapped: bool = True
) -> Iterator[tuple[Dataplane, Functions]]:
    """The host, running."""
    with claimed("chain") as folder, contextlib.closing(Teardown("bench chain")) as closing:
        spec = parse(host_file(length, path, ends), folder / "chain.toml")
        journal = Journal(folder / "journal")
        closing.push("journal", journal.close)
        net = assembly.assemble(spec, members.numbered(spec), journal, closing)
        functions = net.functions(folder, closing, placed, tapped)
        functions.start()
        yield net.dataplane, functions


def measure(length: int, path: str, placed: bool = True, tapped: bool = True) -> float:
    """Mpps that reach the sink. placed, tapped: see Functions. Raises HostsimError if one is not
    what was sent."""
    with chain(length, path, "load", placed, tapped) as (plane, functions):
        until(plane, functions, SETTLE)
        begun, before = time.monotonic(), arrived(functions)
        until(plane, functions, MEASURED)
        after, ended = arrived(functions), time.monotonic()
    return (after - before) / (ended - begun) / 1e6


class RoundTrips:
    """Of one chain. Each run gives both percentiles: one is asked for, the other kept until it
    is."""

    def __init__(self, length: int, path: str) -> None:
        self._length, self._path = length, path
        self._kept: dict[str, list[float]] = {which: [] for which in PERCENTILES}

    def measure(self, which: str) -> float:
        """us. Raises HostsimError if not all came back."""
        if not self._kept[which]:
            with chain(self._length, self._path, "rtt") as (plane, functions):
                until(plane, functions, SETTLE + MEASURED)
                counted = counts_of(functions)["source"]
            for name, values in self._kept.items():
                if name not in counted or counted["lost"] > LOST * counted["pings"]:
                    raise HostsimError(f"bench chain: {self._path}", f"round trips: {counted}")
                values.append(counted[name] / 1e3)
        return self._kept[which].pop(0)


def until(plane: Dataplane, functions: Functions, seconds: float) -> None:
    """Play the daemon for so long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        plane.on_readable()
        functions.sync()
        select.select([plane.fileno()], [], [], min(left, SYNC))


def counts_of(functions: Functions) -> dict[str, dict[str, int]]:
    """By VM, what its port and its function counted."""
    reports = asyncio.run(functions.report())
    return {name: report["counters"] for name, report in reports.items()}


def arrived(functions: Functions) -> int:
    """Datagrams the sink has verified. Raises HostsimError."""
    counted = counts_of(functions)["sink"]
    if counted.get("bad") != 0:
        raise HostsimError("bench chain", f"the sink counts {counted}")
    return counted["good"]
