# SPDX-License-Identifier: Apache-2.0
"""How long a host takes to come up and go down: N plain VMs with addresses on one switch.

Ours is the sum of `hostsim up FILE` and `hostsim down`, whole processes with all they start. In
between, unmeasured, the first VM pings the last one: what is not there costs nothing. The peer is
Mininet doing the same with Linux bridge switches and nothing else (`--test none`).
"""

import argparse
import ipaddress
import shutil
import tempfile
from pathlib import Path

from hostsim.bench import common
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
    with tempfile.TemporaryDirectory(prefix="hostsim-bench-") as folder:
        file = Path(folder) / "host.toml"
        file.write_text(host_file(size))
        up = common.timed("up", common.hostsim("up", str(file)), DEADLINE)
        try:
            ping = ["ping", "-q", "-c", "1", "-W", "5", str(address(size))]
            common.timed("up", common.hostsim("exec", "--host", HOST, "v1", "--", *ping), DEADLINE)
        finally:
            down = common.timed("up", common.hostsim("down", "--host", HOST), DEADLINE)
    return up + down


def mininet(size: int) -> float:
    """Seconds for a whole run of Mininet."""
    topology = ["--topo", f"single,{size}"]
    return common.timed(
        "up",
        ["mn", "--switch", "lxbr", "--controller", "none", *topology, "--test", "none"],
        DEADLINE,
    )
