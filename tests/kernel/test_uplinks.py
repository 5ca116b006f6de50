# SPDX-License-Identifier: Apache-2.0
"""A NIC of the machine as a port of the switch: a veth of the test's own stands for it. The witness
is ip(8), which must say the same of it afterwards as before."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.cli import HOSTSIM, ask, hostsim, kill_daemon, plugged_nic, run, up
from help.waiting import until
from hostsim import leftovers

pytestmark = pytest.mark.root

NIC, FAR, OUTSIDE = "hstu0", "hstu1", "hstuplink"
FILE = """
[host]
name = "hstu"
[switch]
uplinks = ["hstu0"]
[[vm]]
name = "fw"
address = "198.18.90.1/24"
[[endpoint]]
name = "inside"
address = "198.18.90.2/24"
[[route]]
match = { proto = "icmp" }
through = ["fw"]
"""


@pytest.fixture
def nic() -> Iterator[str]:
    """A NIC with addresses and routes; its other end is in a namespace, a device outside."""
    with plugged_nic(NIC, FAR, OUTSIDE, "198.18.90.9/24", keep=True):
        run("ip", "addr", "add", "198.18.91.1/24", "dev", NIC)
        run("ip", "addr", "add", "198.18.91.2/24", "dev", NIC)
        run("ip", "addr", "add", "fd00:91::1/64", "dev", NIC, "nodad")
        run("ip", "route", "add", "198.19.7.0/24", "via", "198.18.91.7", "metric", "77")
        run("ip", "route", "add", "198.19.8.0/24", "dev", NIC, "scope", "link", "mtu", "1300")
        run("ip", "-6", "route", "add", "fd00:92::/64", "via", "fd00:91::7", "dev", NIC)
        yield NIC


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "hstu.toml"
    made.write_text(FILE)
    return made


def look() -> str:
    """Everything ip(8) says of the NIC that is to come back."""
    (link,) = json.loads(run("ip", "-j", "addr", "show", "dev", NIC).stdout)
    for address in link["addr_info"]:
        address.pop("tentative", None)
    routes = [run("ip", family, "route", "show", "dev", NIC).stdout for family in ("-4", "-6")]
    kept = {key: link[key] for key in ("ifindex", "ifname", "mtu", "address", "operstate")}
    infos = sorted(json.dumps(one, sort_keys=True) for one in link["addr_info"])
    lines = [sorted(line.strip() for line in text.splitlines()) for text in routes]
    return json.dumps([kept, infos, lines], indent=1)


def gone() -> bool:
    return run("ip", "link", "show", "dev", NIC, check=False).returncode != 0


def test_a_nic_becomes_a_port_and_comes_back_as_it_was(nic: str, file: Path) -> None:
    settled()
    before = look()
    with up(file):
        assert gone()
        ports = ask("status", "--host", "hstu")["switch"]["ports"]
        assert [port["name"] for port in ports] == ["fw", "inside", nic]
        ping = ("ip", "netns", "exec", OUTSIDE, "ping", "-c", "3", "-i", "0.2", "-W", "2")
        assert "3 received" in run(*ping, "198.18.90.2").stdout
        flows = ask("flows", "--host", "hstu")
        there = next(row for row in flows if row["key"].startswith("icmp:198.18.90.9"))
        assert (there["route"], [hop["vm"] for hop in there["hops"]]) == (0, ["fw"])
        assert hostsim("verify", "--host", "hstu").returncode == 0
    until(lambda: look() == before)


def settled() -> None:
    """IPv6 link-local addresses come a moment after the carrier."""
    until(lambda: "fe80" in look() and "tentative" not in run("ip", "addr", "show", NIC).stdout)


def test_a_nic_that_was_down_comes_back_down(nic: str, file: Path) -> None:
    run("ip", "link", "set", nic, "down")
    before = look()
    hostsim("up", str(file))
    hostsim("down", "--host", "hstu")
    assert look() == before


def test_clean_gives_the_nic_back_after_kill_9(nic: str, file: Path) -> None:
    settled()
    before = look()
    hostsim("up", str(file))
    kill_daemon("hstu")
    assert gone()
    hostsim("clean")
    until(lambda: look() == before)


def test_clean_leaves_a_nic_whose_name_is_taken_where_it_can_be_had(nic: str, file: Path) -> None:
    """It is neither lost with the switch's namespace nor put in another one's place."""
    settled()
    before = look()
    hostsim("up", str(file))
    run("ip", "link", "add", nic, "type", "bridge")
    try:
        kill_daemon("hstu")
        said = hostsim("clean", check=False)
        assert said.returncode == 1
        assert f"uplink {nic}" in said.stderr
    finally:
        run("ip", "link", "del", nic)
    hostsim("clean")
    until(lambda: look() == before)


def test_a_failed_up_gives_the_nic_back(nic: str, file: Path) -> None:
    settled()
    before = look()
    file.write_text(FILE + '[[vm]]\nname = "bad"\nrun = "false"\n')
    said = hostsim("up", str(file), check=False)
    assert said.returncode == 1
    assert "status 1" in said.stderr
    until(lambda: look() == before)


@pytest.mark.parametrize(
    ("name", "why"), [("hstu9", "no such network interface"), ("lo", "")], ids=["missing", "lo"]
)
def test_what_is_no_nic_is_refused_before_anything_is_made(file: Path, name: str, why: str) -> None:
    before = leftovers.snapshot()
    file.write_text(FILE.replace("hstu0", name))
    said = run(HOSTSIM, "up", str(file), check=False)
    assert said.returncode != 0
    assert why in said.stderr
    assert leftovers.settle(before) == []


def test_a_port_of_another_bridge_is_refused(nic: str, file: Path) -> None:
    run("ip", "link", "add", "hstubr", "type", "bridge")
    try:
        run("ip", "link", "set", nic, "master", "hstubr")
        said = hostsim("up", str(file), check=False)
        assert said.returncode == 1
        assert "is a port of a bridge or bond" in said.stderr
    finally:
        run("ip", "link", "del", "hstubr")
