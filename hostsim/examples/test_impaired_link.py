# SPDX-License-Identifier: Apache-2.0
"""An impaired link: a share of packets is lost, and the same seed loses the same packets again."""

import re

import pytest

from hostsim import Host

HOST = """
[host]
name = "impaired"
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[endpoint]]
name = "server"
address = "198.18.0.20/24"
"""
pytestmark = pytest.mark.hostsim(HOST)


def lost(host: Host, seed: int) -> set[int]:
    """Numbers of the pings that nobody answered, of 300."""
    host["server"].link()
    host["server"].link(loss=0.1, direction="in", seed=seed)
    words = ("ping", "-n", "-c", "300", "-i", "0.001", "-W", "1", "198.18.0.20")
    said = host["client"].run(*words).stdout
    return set(range(1, 301)) - {int(number) for number in re.findall(r"icmp_seq=(\d+)", said)}


def test_the_same_losses_again(hostsim_host: Host) -> None:
    first = lost(hostsim_host, seed=7)
    assert 5 < len(first) < 70
    assert lost(hostsim_host, seed=7) == first
    assert lost(hostsim_host, seed=8) != first
