# SPDX-License-Identifier: Apache-2.0
"""A chain of two VMs: a connection passes both, and leaves the switch; no policy is skipped."""

import pytest

from hostsim import Host

pytestmark = pytest.mark.hostsim("edge")


def test_a_connection_leaves_the_switch(hostsim_host: Host) -> None:
    client = hostsim_host["client"]
    client.run("ping", "-q", "-c", "20", "-i", "0.02", "198.18.0.20", check=True)
    flow = hostsim_host.expect("icmp:198.18.0.10:*>198.18.0.20:*", path="veth", within=5)
    assert [hop.vm for hop in flow.hops] == ["fw", "ids"]


def test_the_firewall_is_not_passed_by(hostsim_host: Host) -> None:
    hostsim_host["server"].popen("python3", "-m", "http.server", "23")
    hostsim_host["server"].wait_for_port(23)
    page = hostsim_host["client"].run("curl", "-sS", "-m", "5", "http://198.18.0.20:23/")
    assert page.returncode == 7  # refused: fw sends a reset
