# SPDX-License-Identifier: Apache-2.0
"""Chains of kernel-stack VMs and packet functions side by side: everything arrives, both ways, each
hop takes the way it can, and `flows` says why."""

import hashlib
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.chain import Chain, chained, route, vm
from help.net import ENDS, seen_in
from help.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.stock]

KERNEL = "".join(f'[[vm]]\nname = "{name}"\n' for name in ("fw", "ids"))
HOST = (
    ENDS
    + KERNEL
    + vm("one")
    + vm("two", "count")
    + route('proto = "tcp"', "fw ids one two")
    + route('proto = "icmp"', "one fw two ids")
)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with chained(HOST, tmp_path) as made:
        yield made


def hops(chain: Chain, start: str) -> dict[str, tuple[str, str]]:
    """Of a flow: path and reason of each hop, by the VMs it joins."""
    return {
        f"{hop['vm']} {hop['to']}": (hop["path"], hop["reason"])
        for hop in chain.net.flow(start)["hops"]
    }


def test_a_download_through_both_kinds(chain: Chain, tmp_path: Path) -> None:
    body = os.urandom(1 << 20) * 30
    (tmp_path / "body").write_bytes(body)
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    words = ["python3", "-m", "http.server", "80", "--directory", str(tmp_path)]
    server = chain.net.vms["server"].popen(words, stdout=nowhere, stderr=nowhere)
    try:
        until(lambda: ":80 " in chain.net.run("server", "ss", "-ltn"), 30)
        got = seen_in(chain.net.vms["client"], tmp_path / "got")
        client = chain.net.vms["client"].popen(
            ["curl", "-s", "-m", "100", "-o", str(tmp_path / "got"), "http://198.18.0.20/body"]
        )
        while not select.select([client.fileno()], [], [], 0.02)[0]:
            chain.net.pump()
            chain.sync()
        assert client.wait(1) == 0
        client.close()
        digest = hashlib.sha256(got.read_bytes()).hexdigest()
        assert digest == hashlib.sha256(body).hexdigest()
        there, back = hops(chain, "tcp:198.18.0.10:"), hops(chain, "tcp:198.18.0.20:80>")
    finally:
        server.close()
        os.close(nowhere)
    lone = "one is a packet function: there is no direct link to it"
    assert there["fw ids"] == ("veth", "rule: straight to ids by veth")
    assert there["ids one"] == ("switch", lone)
    assert there["one two"] == ("ring", "rule: straight to two by ring")
    assert back["two one"] == ("ring", "rule: straight to one by ring")
    assert back["one ids"] == ("switch", lone)
    assert back["ids fw"] == ("veth", "rule: straight to fw by veth")
    chain.net.settled()


def test_where_no_two_of_a_kind_are_neighbours_the_switch_carries_it(chain: Chain) -> None:
    ping = chain.net.vms["client"].popen(["ping", "-q", "-i", "0.01", "-c", "60", "198.18.0.20"])
    while not select.select([ping.fileno()], [], [], 0.05)[0]:
        chain.net.pump()
        chain.sync()
    assert ping.wait(1) == 0
    ping.close()
    for start, order in (("icmp:198.18.0.10:", "one fw two ids"), ("icmp:198.18.0.20:", "ids two")):
        found = hops(chain, start)
        assert " ".join(key.split()[0] for key in found).startswith(order)
        assert {path for path, _ in found.values()} == {"switch"}
        reasons = [why for key, (_, why) in found.items() if not key.endswith("bridge")]
        assert len(reasons) == 3
        assert all("is a packet function" in why for why in reasons)
