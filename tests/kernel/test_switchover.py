# SPDX-License-Identifier: Apache-2.0
"""A numbered stream while its path changes, and frames that are none, on a switch under load."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from help.net import ADDRESSES, Net, made
from help.programs import program
from hostsim.bench import path
from hostsim.bench.rig import Ours

pytestmark = pytest.mark.root

ROUTES = """
[[route]]
match = { proto = "udp", dport = 9000 }
through = ["a", "b"]
"""


def test_no_packet_is_lost_or_reordered_while_the_path_changes() -> None:
    rig = Ours("so", ROUTES)
    try:
        done = path.switch_paths(rig, 60_000, 60)
    finally:
        rig.close()
    print(done)
    assert done["wrong"] == 0
    assert done["changes"] == 60


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with made(
        "ml", ADDRESSES + '[[route]]\nmatch = { proto = "udp" }\nthrough = ["fw"]\n', tmp_path
    ) as net:
        yield net


def test_malformed_frames_are_dropped_by_name(net: Net) -> None:
    """Four thousand frames with wrong lengths, headers cut short and unknown extensions: what
    cannot be read is counted, nothing gets stuck, and good packets pass as before."""
    to = net.vms["server"].mac.replace(":", "")
    source = net.vms["client"].mac.replace(":", "")
    net.run("client", *program("raw", "wrong", "eth0", 4000, to + source))
    assert net.dataplane.report.counters()["malformed"] > 100
    net.ping(10)
    rows = net.dataplane.report.verify()
    assert not any(row["missing"] or row["beside"] for row in rows), rows
