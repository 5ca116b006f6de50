# SPDX-License-Identifier: Apache-2.0
"""A port that is made while the host runs has the classifier before it forwards a frame."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.net import ADDRESSES, Net, made
from hostsim.switch import CLASSIFIER

pytestmark = pytest.mark.root


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with made("port", ADDRESSES, tmp_path) as net:
        yield net


def filters(net: Net, port: str) -> str:
    """The filters at the ingress of a port, by tc(8)."""
    words = ("tc", "-n", net.switch.netns, "filter", "show", "dev", port, "ingress")
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_a_port_that_is_made_anew_is_classified_before_it_is_up(net: Net) -> None:
    """Between the two, the data plane knows nothing of it; the server's kernel answers already.
    Defence: the classifier comes with the port; without it, the data plane puts it there later."""
    server = net.vms["server"]
    net.ping(3)
    net.dataplane.vm_gone("server")  # as the daemon does first: else its guard is at work there too
    net.switch.disconnect(server)
    net.switch.connect([server], list(net.vms.values()))
    assert filters(net, "server").count(CLASSIFIER) == 1
    net.dataplane.vm_back("server")
    assert filters(net, "server").count(CLASSIFIER) == 1
    net.ping(3)
