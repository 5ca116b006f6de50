# SPDX-License-Identifier: Apache-2.0
"""`hostsim ping`: whether every VM and endpoint with an address hears every other."""

import argparse
import ipaddress
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from hostsim.cli import client
from hostsim.cli.grammar import Commands, print_answer
from hostsim.errors import HostsimError

WAIT = 1
"""Seconds that an answer to a ping may take."""
AT_ONCE = 8
"""VMs that ping at a time."""

_RTT = re.compile(r"^(\S+) (?:([0-9.]+)|-)$", re.MULTILINE)
_PINGS = """for a in "$@"; do
(t=$(ping -n -c 1 -W {wait} "$a" 2>/dev/null | sed -n 's/.*time=\\([0-9.]*\\) ms.*/\\1/p')
echo "$a ${{t:--}}") &
done
wait
"""
"""Pings all of its arguments at once; for each a line: address, and ms or `-`."""


def add(commands: Commands) -> None:
    """Add this command to the command line."""
    commands.add(
        "ping",
        _ping,
        "whether every VM and endpoint with an address hears every other",
        has_json=True,
        alone=True,
    )


def _ping(arguments: argparse.Namespace) -> int:
    rows = matrix(client.pick(arguments.host))
    print_answer(arguments, rows, "pings")
    return 1 if any(row["ms"] is None for row in rows) else 0


def matrix(host: str) -> list[dict[str, Any]]:
    """What each VM and endpoint with an address hears of every other. Raises HostsimError."""
    from concurrent.futures import ThreadPoolExecutor

    status = client.ask(host, "status")
    addresses = {
        node["name"]: [str(ipaddress.ip_interface(a).ip) for a in node["addresses"]]
        for node in (*status["endpoints"], *status["vms"])
        if node["addresses"]
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = {name: pool.submit(_from, host, name, addresses) for name in addresses}
    return [row for future in asked.values() for row in future.result()]


def _from(host: str, name: str, addresses: dict[str, list[str]]) -> list[dict[str, Any]]:
    """What one hears of the others. Raises HostsimError."""
    mine = {ipaddress.ip_address(address).version for address in addresses[name]}
    others = [
        (other, address)
        for other, theirs in addresses.items()
        for address in theirs
        if other != name and ipaddress.ip_address(address).version in mine
    ]
    if not others:
        return []
    script = _PINGS.format(wait=WAIT)
    words = ("sh", "-c", script, "ping", *(address for _, address in others))
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "hostsim.cli.main",
            "--host",
            host,
            "exec",
            name,
            "--",
            *words,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HostsimError(f"ping from {name}", done.stderr.strip() or "failed")
    return answers(name, others, done.stdout)


def answers(name: str, others: Sequence[tuple[str, str]], said: str) -> list[dict[str, Any]]:
    """A row for each of the others, of what the script said. Pure."""
    heard = {address: ms for address, ms in _RTT.findall(said) if ms}
    return [
        {
            "from": name,
            "to": other,
            "address": address,
            "ms": float(heard[address]) if address in heard else None,
        }
        for other, address in others
    ]
