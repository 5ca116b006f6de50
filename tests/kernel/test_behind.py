# SPDX-License-Identifier: Apache-2.0
"""What is done behind hostsim's back shows in `status`, touches no other VM, leaves nothing."""

from collections.abc import Iterator

import pytest

from help.cli import ask, hostsim, run, up
from help.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
def edge() -> Iterator[None]:
    with up("edge"):
        yield
    assert "hs-edge" not in run("ip", "netns", "list").stdout


def states() -> dict[str, str]:
    status = ask("--host", "edge", "status")
    return {node["name"]: node["state"] for node in (*status["vms"], *status["endpoints"])}


FINE = {"fw": "running", "ids": "running", "client": "running", "server": "running"}


def ping(target: str) -> int:
    words = ("ping", "-q", "-c", "1", "-W", "1", target)
    return hostsim("--host", "edge", "exec", "client", "--", *words, check=False).returncode


def test_a_name_is_deleted(edge: None) -> None:
    assert states() == FINE
    run("ip", "netns", "del", "hs-edge-ids")
    assert states() == FINE | {"ids": "unnamed"}
    assert ping("198.18.0.20") == 0


def test_a_port_is_deleted(edge: None) -> None:
    run("ip", "-n", "hs-edge-switch", "link", "del", "ids")
    until(lambda: states() == FINE | {"ids": "unplugged"})
    assert ping("198.18.0.20") == 1  # fails closed: its chain is broken


def test_a_link_goes_and_comes_back(edge: None) -> None:
    assert ping("198.18.0.20") == 0
    hostsim("--host", "edge", "exec", "ids", "--", "ip", "link", "set", "eth0", "down")
    until(lambda: states() == FINE | {"ids": "unplugged"})
    assert ping("198.18.0.20") == 1
    hostsim("--host", "edge", "exec", "ids", "--", "ip", "link", "set", "eth0", "up")
    until(lambda: states() == FINE)
    until(lambda: ping("198.18.0.20") == 0)
