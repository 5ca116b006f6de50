"""A numbered stream while its path changes, and frames that are none, on a switch under load."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from help.net import ADDRESSES, Net, made
from hostsim.bench import path
from hostsim.bench.rig import Ours

pytestmark = pytest.mark.root

ROUTES = """
[[route]]
match = { proto = "udp", dport = 9000 }
through = ["a", "b"]
"""

FRAMES = """
import random, socket
rng = random.Random(7)
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
head = bytes.fromhex("%s" "%s")
v4 = bytes.fromhex("0800" "4500003400010000401100000a0000010a000002" "04d2000900200000") + bytes(40)
v6 = bytes.fromhex("86dd" "600000000028" "2c40") + bytes(15) + b"1" + bytes(15) + b"2" + bytes(48)
for n in range(4000):
    body = bytearray(rng.choice((v4, v6)))
    for _ in range(rng.randrange(4)):
        body[rng.randrange(2, len(body))] = rng.randrange(256)
    if n %% 2:
        body[8 if body[0] == 8 else 9] = rng.randrange(256)
    raw.send((head + bytes(body))[: rng.randrange(14, 80)])
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
    net.run("client", "python3", "-c", FRAMES % (to, source))
    assert net.dataplane.report.counters()["malformed"] > 100
    net.ping(10)
    rows = net.dataplane.report.verify()
    assert not any(row["missing"] for row in rows), rows
