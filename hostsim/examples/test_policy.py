# SPDX-License-Identifier: Apache-2.0
"""A policy is changed while packets flow: from the next packet on, they take the new way."""

from pathlib import Path

import pytest

from hostsim import Host

HOST = """
[host]
name = "policy"
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[endpoint]]
name = "server"
address = "198.18.0.20/24"
[[vm]]
name = "one"
[[vm]]
name = "two"
[[route]]
match = { proto = "icmp" }
through = ["one"]
"""
pytestmark = pytest.mark.hostsim(HOST)


def test_a_flow_goes_on_by_the_new_policy(hostsim_host: Host, tmp_path: Path) -> None:
    better = tmp_path / "better.toml"
    better.write_text(HOST.replace('["one"]', '["one", "two"]'))
    words = ("ping", "-q", "-c", "100", "-i", "0.02", "-W", "2", "198.18.0.20")
    with hostsim_host["client"].popen(*words) as ping:
        flow = hostsim_host.expect("icmp:198.18.0.10:*>*", path="switch", within=5)
        assert [hop.vm for hop in flow.hops] == ["one"]
        hostsim_host.apply(better)
        flow = hostsim_host.expect("icmp:198.18.0.10:*>*", path="veth", within=5)
        assert [hop.vm for hop in flow.hops] == ["one", "two"]
        assert ping.wait(10) == 0  # no packet was lost
