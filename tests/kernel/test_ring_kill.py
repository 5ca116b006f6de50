# SPDX-License-Identifier: Apache-2.0
"""Packet functions of a whole host are killed under load, again and again: the traffic is back by
the switch at once, the function gets its rings back, and the daemon does not grow.

The time is a promise (README: under 100 ms), so it is printed; what fails the test is several times
that, for the machine may be busy with something else.
"""

import json
import os
import select
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from help import cli
from help.chain import route, vm
from help.cli import HOSTSIM, ask
from help.net import ENDS
from help.programs import program
from help.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

KILLS = 50
LATE = 3.0  # seconds
GROWTH = 8 << 20  # bytes
WAITING = 6  # files for three processes that wait to take over, which may be there or not yet
NAME = "kills"


@pytest.fixture(params=["isolated", "shared"])
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """The daemon's pid."""
    chain = route('proto = "udp"', "one two three", f'ring = "{request.param}"')
    vms = vm("one") + vm("two") + vm("three")
    with cli.host(f'[host]\nname = "{NAME}"\n{ENDS}{vms}{chain}', tmp_path):
        yield next(row["pid"] for row in ask("ls") if row["host"] == NAME)


def start(where: str, argv: list[str]) -> subprocess.Popen[str]:
    words = [HOSTSIM, "--host", NAME, "exec", where, "--", *argv]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def function(name: str) -> dict[str, Any]:
    (node,) = [one for one in ask("--host", NAME, "status")["vms"] if one["name"] == name]
    nf: dict[str, Any] = node["nf"]
    return nf


def by_ring() -> list[int]:
    """Packets by ring of the hops from one to two to three; empty while these go by the switch."""
    for row in ask("--host", NAME, "flows"):
        if row["key"].startswith("udp:198.18.0.10:4000>"):
            hops = row["hops"][:2]
            if all(hop["path"] == "ring" for hop in hops):
                return [hop["paths"]["ring"]["packets"] for hop in hops]
    return []


def restarted(name: str, old: int) -> bool:
    return function(name)["pid"] not in (None, old)


def more_by_ring(before: list[int]) -> bool:
    now = by_ring()
    return bool(now) and all(new > old + 20 for old, new in zip(before, now, strict=True))


def size(pid: int) -> tuple[int, int]:
    """Open files, and resident bytes, of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (resident,) = [int(line.split()[1]) for line in status if line.startswith("VmRSS")]
    return len(os.listdir(f"/proc/{pid}/fd")), resident * 1024


def test_fifty_kills_under_load(host: int) -> None:
    receiver = start("server", program("udp", "clock", "198.18.0.20", 7))
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    sender = start("client", program("udp", "pace", "198.18.0.20", 7, 0.0005))
    until(partial(more_by_ring, [0, 0]), 20)
    kills: list[tuple[float, float]] = []
    settled = (0, 0)
    for nth in range(KILLS):
        name = ("one", "two", "three")[nth % 3]
        before = function(name)
        kills.append((time.monotonic(), ended(before["pid"])))
        until(partial(restarted, name, before["pid"]), 10)
        until(partial(more_by_ring, until(by_ring)), 10)
        if nth == 9:
            settled = size(host)
    files, resident = size(host)
    sent = int(sender.communicate("\n", timeout=20)[0])
    seen = json.loads(receiver.communicate("\n", timeout=20)[0])
    gaps = [back(seen, *kill) for kill in kills]
    gaps.sort()
    print(
        f"\nback after a kill: median {statistics.median(gaps):.0f} ms, 90 % {gaps[44]:.0f} ms, "
        f"max {gaps[-1]:.0f} ms; {sent - len(seen)} of {sent} packets lost; daemon "
        f"{settled[0]} -> {files} files, {settled[1] >> 10} -> {resident >> 10} KiB"
    )
    assert statistics.median(gaps) < 200
    assert gaps[-1] < LATE * 1000
    # Files of questions that are being answered are closed a moment later; a leak stays.
    until(lambda: size(host)[0] <= settled[0] + WAITING, what=f"{files} files as at the beginning")
    assert resident - settled[1] < GROWTH
    numbers = [number for number, _, _ in seen]
    assert len(set(numbers)) == len(numbers), "a packet came twice"
    until(lambda: not any(row["missing"] for row in ask("--host", NAME, "verify")))


def ended(pid: int) -> float:
    """Kill a process; when it was gone."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        assert select.select([handle], [], [], 10)[0]
        return time.monotonic()
    finally:
        os.close(handle)


def back(seen: list[tuple[int, float, float]], kill: float, end: float) -> float:
    """Milliseconds from a kill until something arrives that was sent after it, once the process is
    gone: what it had passed on by then may have been on its way."""
    return (min(at for _, sent, at in seen if sent > kill and at > end) - kill) * 1000
