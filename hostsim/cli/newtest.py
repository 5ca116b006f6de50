# SPDX-License-Identifier: Apache-2.0
"""What `hostsim new-test FILE` writes: a test that passes as it stands. Pure."""

TEXT = '''"""A test of the host edge: what the client asks of the server goes past the switch."""

import pytest

from hostsim import Host

pytestmark = pytest.mark.hostsim("edge")


def test_a_page_by_the_direct_link(hostsim_host: Host) -> None:
    client = hostsim_host["client"]
    for _ in range(20):
        assert "Hello" in client.run("curl", "-sS", "http://198.18.0.20/", check=True).stdout
    client.run("ping", "-c", "20", "-i", "0.02", "198.18.0.20", check=True)
    hostsim_host.expect("icmp:198.18.0.10:*>198.18.0.20:*", path="veth", within=5)
'''
