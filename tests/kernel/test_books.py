# SPDX-License-Identifier: Apache-2.0
"""The books at any size: flows over all three paths at once, other policies and a scan from one
endpoint in the middle. Nothing is missing, to the packet, and everybody else's flows keep their
chains.

HOSTSIM_FLOWS: how many flows in all; 3,000 if it is not given. By hand it is run with 100,000.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from cext.bench import tester
from cext.switch import maps
from help.chain import Chain, chained, route, vm
from help.net import endpoint
from help.waiting import until
from hostsim.bench.load import take_in
from hostsim.hostfile.file import parse

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

FLOWS = int(os.environ.get("HOSTSIM_FLOWS", "3000")) // 3
"""Of each path."""
SCANNED = 3 * FLOWS
"""Flows of the scan, to a port with a route and to one without."""
ROUNDS = 6
"""Packets of each flow."""
FIRST = 62000
"""Of the destination ports; above all source ports, so that no packet looks like a reply."""
PATHS = {"switch": 0, "veth": 1, "ring": 2}
"""What is sent to FIRST and so many more goes by that path."""
SCAN, PLAIN = 3, 4
"""Likewise; the scan's."""
WINDOW = 64
SOURCES = {"client": IPv4Address("198.18.64.0"), "scanner": IPv4Address("198.19.0.0")}

HOST = (
    endpoint("client", "198.18.0.10/15")
    + endpoint("server", "198.18.0.20/15")
    + endpoint("scanner", "198.18.0.30/15")
    + '[[vm]]\nname = "fw"\n[[vm]]\nname = "ids"\n'
    + vm("one")
    + vm("two")
)
ROUTES = "".join((
    route(f'proto = "udp", dport = {FIRST}', "fw ids", 'bypass = "never"'),
    route(f'proto = "udp", dport = {FIRST + 1}', "fw ids"),
    route(f'proto = "udp", dport = {FIRST + 2}', "one two"),
    route(f'proto = "udp", dport = {FIRST + SCAN}', "fw"),
))  # fmt: skip
OTHER = route('proto = "tcp", dport = 7', "ids")


class Ground:
    """The host, a tester from its ends, and who plays the daemon."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        self.chain, self.net = chain, chain.net
        self.plane = chain.net.dataplane
        self.tester = tester.Tester((IPv4Address("198.18.0.20"), FIRST), FLOWS)
        server = self.net.vms["server"]
        take_in(server, server.eth0, self.tester)
        text = f'[host]\nname = "other"\n{HOST}{OTHER}{ROUTES}'
        self.policies = [
            replace(self.net.spec, routes=parse(text, folder / "other.toml").routes),
            self.net.spec,
        ]
        self.changes = 0

    def close(self) -> None:
        self.tester.close()
        del self.tester  # its memory is mapped

    def send(self, end: str, port: int, first: int, count: int) -> None:
        """A packet of each of so many flows; each arrives, once."""
        vm, server = self.net.vms[end], self.net.vms["server"]
        done = self.tester.run(
            (vm.netns_fd, vm.eth0),
            (vm.mac, server.mac),
            SOURCES[end],
            ms=120_000,
            window=WINDOW,
            port=port,
            first=first,
            count=count,
            flows=True,
        )
        assert (done.sent, done.got, done.lost) == (count, count, 0), (end, port)

    def meanwhile(self, *jobs: Callable[[], None], change: bool = False) -> None:
        """Do what the daemon does until all jobs, in threads, have ended. change: with another
        policy at each look."""
        failed: list[BaseException] = []

        def run(job: Callable[[], None]) -> None:
            try:
                job()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        turns = 0
        while any(thread.is_alive() for thread in threads) or (change and self.changes < 4):
            if change:
                self.plane.apply(self.policies[self.changes % 2])
                self.changes += 1
            if turns % 4 == 0:
                self.serve()
            turns += 1
            for thread in threads:
                thread.join(0.02)
        self.serve()
        assert not failed, failed

    def serve(self) -> None:
        self.net.pump()
        self.chain.sync()
        self.plane.tick()

    def round(self) -> None:
        for port in PATHS.values():
            self.send("client", port, 0, FLOWS)

    def scan(self) -> None:
        for port in (SCAN, PLAIN):
            self.send("scanner", port, 0, SCANNED)

    def came(self) -> dict[str, Counter[int]]:
        """By path, how many flows had how many packets arrive; not those that had ROUNDS."""
        found = {}
        for path, port in PATHS.items():
            counts = Counter(self.tester._seen[port * FLOWS : (port + 1) * FLOWS])
            if counts.keys() != {ROUNDS}:
                found[path] = counts
        return found

    def entered(self, vm: str) -> int:
        """The tester's packets that have come in by a VM's port."""
        number = self.net.vms[vm].index
        there = [one for one in maps.read_flows(self.plane._map("flows")) if one.vm == number]
        ended = [one for one in maps.read_ended(self.plane._map("ended")) if one.vm == number]
        kept = self.plane._retained.ports.get(number)
        sums = sum(one.packets for one in there if one.tuple.proto == 17)
        return sums + sum(one.packets for one in ended) + (kept.seen.packets if kept else 0)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with chained(HOST + ROUTES, tmp_path) as chain, closing(Ground(chain, tmp_path)) as made:
        yield made


def test_the_books_of_many_flows_over_three_paths(ground: Ground) -> None:
    for number in range(ROUNDS):
        middle = number == ROUNDS // 2
        jobs = (ground.round, ground.scan) if middle else (ground.round,)
        ground.meanwhile(*jobs, change=middle)
    assert ground.came() == {}
    assert ground.entered("ids") == 2 * FLOWS * ROUNDS
    assert ground.entered("two") == FLOWS * ROUNDS
    rows: list[dict[str, Any]] = []

    def rest() -> bool:
        rows[:] = ground.plane.report.verify()
        return not any(row["missing"] or row["beside"] for row in rows)

    until(rest, 60)
    # The frame that the tester clones is dropped at the end of each burst, where it was sent.
    assert not any(row["drops"] for row in rows if row["vm"] not in SOURCES)
    sums = Counter({key: sum(row[key] for row in rows) for key in ("veth", "ring")})
    assert sums["veth"] > 0
    assert sums["ring"] > 0
