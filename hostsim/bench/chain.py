"""Packets through a chain of packet functions: `N/ring` and `N/switch`, peer: the switch path.

A source in a VM sends packets of 60 bytes (64 on a wire), N functions in VMs pass them on, a sink
in a VM counts what arrives. `ring`: from VM to VM past the switch; `switch`: the same functions
with every hop through their eth0, the classifier and the switch's ports.
"""

import argparse
import contextlib
import select
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cext.port import Port
from hostsim.bench import common
from hostsim.errors import UsageError
from hostsim.functions import Functions
from hostsim.hostfile import parse
from hostsim.model import Json
from hostsim.routes import Dataplane
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.journal import Journal

LENGTHS = (1, 2, 3, 4, 5)
PATHS = ("switch", "ring")
SETTLE = 0.5  # seconds until the rules are there and queues are full
MEASURED = 1.0
SYNC = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench chain`."""
    names = [f"{length}/{path}" for length in LENGTHS for path in PATHS]
    common.add_arguments(parser, names)
    parser.add_argument("--length", help="lengths of chains: 3, or 1..5", metavar="N")
    parser.add_argument("--path", help="paths, with commas: switch,ring", metavar="PATHS")


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    lengths, paths = chosen(options)
    cases = [
        common.Case(
            f"{length}/{path}",
            "Mpps",
            lambda length=length, path=path: measure(length, path),  # type: ignore[misc]
            {} if path == "switch" else {"switch": lambda length=length: measure(length, "switch")},  # type: ignore[misc]
        )
        for length in lengths
        for path in paths
    ]
    return common.run("chain", cases, options)


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


def host_file(length: int, path: str) -> str:
    """A host of `length` functions between a source and a sink."""
    names = ["source", *(f"nf{number}" for number in range(1, length + 1)), "sink"]
    functions = {"source": "hostsim.bench.chain:source", "sink": "sink"}
    lines = ['[host]\nname = "bench-chain"\n']
    lines += [f'[[vm]]\nname = "{n}"\nnf = "{functions.get(n, "forward")}"\n' for n in names]
    bypass = "ring" if path == "ring" else "never"
    through = ", ".join(f'"{name}"' for name in names)
    lines.append(
        f'[[route]]\nmatch = {{ proto = "udp" }}\nthrough = [{through}]\nbypass = "{bypass}"\n'
    )
    return "\n".join(lines)


def source(port: Port) -> None:
    """The network function of the source's VM."""
    port.source(packet())


def packet() -> bytes:
    """An Ethernet frame of 60 bytes: UDP over IPv4 from 198.18.0.101 to 198.18.0.102."""
    payload = bytes(18)
    udp = struct.pack("!HHHH", 4000, 9, 8 + len(payload), 0) + payload
    addresses = bytes([198, 18, 0, 101, 198, 18, 0, 102])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    ethernet = bytes.fromhex("0200000000020200000000010800")
    return ethernet + head + udp


@contextlib.contextmanager
def chain(length: int, path: str) -> Iterator[tuple[Dataplane, Functions]]:
    """The host, running."""
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="hostsim-bench-"))
        spec = parse(host_file(length, path), Path(folder, "chain.toml"))
        journal = Journal(Path(folder, "journal"))
        undo.callback(journal.close)
        switch = Switch(spec.name, journal)
        undo.callback(switch.close)
        vms = {vm.name: Vm(spec.name, vm, index) for index, vm in enumerate(spec.vms, start=1)}
        plane = Dataplane(spec, switch, vms)
        undo.callback(plane.close)
        plane.load()
        for vm in vms.values():
            undo.callback(vm.stop)
            vm.start(journal)
        switch.start()
        switch.connect(list(vms.values()))
        plane.start()
        functions = Functions(spec, switch, plane, vms, Path(folder))
        undo.callback(functions.close)
        functions.prepare()
        functions.start()
        yield plane, functions


def measure(length: int, path: str) -> float:
    """Mpps that reach the sink."""
    with chain(length, path) as (plane, functions):
        until(plane, functions, SETTLE)
        begun, before = time.monotonic(), arrived(functions)
        until(plane, functions, MEASURED)
        after, ended = arrived(functions), time.monotonic()
    return (after - before) / (ended - begun) / 1e6


def until(plane: Dataplane, functions: Functions, seconds: float) -> None:
    """Play the daemon for so long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        plane.on_readable()
        functions.sync()
        select.select([plane.fileno()], [], [], min(left, SYNC))


def arrived(functions: Functions) -> int:
    """Packets the sink has had."""
    counted = functions.counters()["sink"]
    return counted["eth0_in"] + counted["ring_in"]
