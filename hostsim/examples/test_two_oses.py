# SPDX-License-Identifier: Apache-2.0
"""Two operating systems: the foreground changes, by the program and by an agent inside."""

import pytest

from hostsim import Host

HOST = """
[host]
name = "oses"
[[vm]]
name = "work"
[vm.os]
[[vm]]
name = "play"
[vm.os]
[kmc]
foreground = "work"
"""
pytestmark = pytest.mark.hostsim(HOST)


def test_flips(hostsim_host: Host) -> None:
    assert hostsim_host.status().foreground == "work"
    assert hostsim_host.flip("play").previous == "work"
    assert hostsim_host.status().foreground == "play"
    hostsim_host["play"].run("hostsim-agent", "flip", "work", check=True)
    assert hostsim_host.status().foreground == "work"
