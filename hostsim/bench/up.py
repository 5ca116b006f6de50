"""How long a host takes to come up and go down: N plain VMs with addresses on one switch.

Ours is the sum of `hostsim up FILE` and `hostsim down`, whole processes with all they start. In
between, unmeasured, the first VM pings the last one: what is not there costs nothing. The peer is
Mininet doing the same with Linux bridge switches and nothing else (`--test none`).
"""

import argparse
import ipaddress
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hostsim.bench import common
from hostsim.errors import HostsimError
from hostsim.model import Json

SIZES = (20, 100, 300)
NETWORK = ipaddress.IPv4Network("198.18.0.0/15")  # RFC 2544
HOST = "bench-up"
DEADLINE = 120.0  # seconds for one command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench up`."""
    common.add_arguments(parser, [str(size) for size in SIZES])


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    cases = []
    for size in SIZES:
        peers: dict[str, common.Measure] = {}
        if shutil.which("mn") and shutil.which("brctl"):
            peers["mininet"] = lambda size=size: mininet(size)  # type: ignore[misc]
        cases.append(common.Case(str(size), "s", lambda size=size: ours(size), peers))  # type: ignore[misc]
    return common.run("up", cases, options)


def host_file(size: int) -> str:
    """A host of `size` VMs, named v1 and up, with addresses in order."""
    lines = [f'[host]\nname = "{HOST}"\n']
    lines += [
        f'[[vm]]\nname = "v{number}"\naddress = "{address(number)}/{NETWORK.prefixlen}"\n'
        for number in range(1, size + 1)
    ]
    return "\n".join(lines)


def address(number: int) -> ipaddress.IPv4Address:
    """The address of VM `number`."""
    return NETWORK[number]


def ours(size: int) -> float:
    """Seconds for up and down together."""
    command = str(Path(sys.executable).with_name("hostsim"))
    with tempfile.TemporaryDirectory(prefix="hostsim-bench-") as folder:
        file = Path(folder) / "host.toml"
        file.write_text(host_file(size))
        up = timed([command, "up", str(file)])
        try:
            ping = ["ping", "-q", "-c", "1", "-W", "5", str(address(size))]
            timed([command, "exec", "--host", HOST, "v1", "--", *ping])
        finally:
            down = timed([command, "down", "--host", HOST])
    return up + down


def mininet(size: int) -> float:
    """Seconds for a whole run of Mininet."""
    topology = ["--topo", f"single,{size}"]
    return timed(["mn", "--switch", "lxbr", "--controller", "none", *topology, "--test", "none"])


def timed(argv: Sequence[str]) -> float:
    """Seconds a command takes. Raises HostsimError where it fails."""
    begin = time.perf_counter()
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    took = time.perf_counter() - begin
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["nothing"]
        name = " ".join([Path(argv[0]).name, *argv[1:]])
        raise HostsimError(f"bench up: {name}", f"status {done.returncode}, it said: {said[-1]}")
    return took
