# SPDX-License-Identifier: Apache-2.0
"""What an OS that boots has done in its network before hostsim gives it its eth0: it is that VM's
own affair, and the others come up."""

import json
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from cext.switch import records
from help import cli, roots
from help.waiting import until
from hostsim.errors import HostsimError
from hostsim.model import RootSpec
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.journal import Journal

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

MakeVm = Callable[..., Vm]
OURS = ("198.18.97.1/24", "fd00:97::1/64")
OTHERS = ("198.18.97.2/24", "fd00:97::2/64")
NUMBER = records.ETH0 + 2
"""Of the eth0 of `os`."""
OFF = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
DONE = {
    "ipv6": (OFF,),
    "eth0": ("ip link add eth0 type bridge",),
    "eth0-up": ("ip link add eth0 up type bridge", "ip addr add 198.18.99.1/24 dev eth0"),
    "eth1-too": ("ip link add eth1 type bridge", "ip link add eth0 type bridge"),
    "lo": ("ip link set lo down", "ip link set lo name eth0"),
    "second-name": ("ip link property add dev lo altname eth0",),
    "number": (f"ip link add mine index {NUMBER} type bridge",),
    "both": (OFF, f"ip link add mine index {NUMBER} type bridge", "ip link add eth0 type bridge"),
    "route": ("ip route add blackhole 198.18.98.0/24",),
}
"""By tools of the machine's, as its root could."""


@pytest.fixture
def switch(host_name: str, journal: Journal) -> Iterator[Switch]:
    made = Switch(host_name, journal)
    made.start()
    yield made
    made.close()


@pytest.fixture
def busybox(tmp_path: Path) -> RootSpec:
    return RootSpec(str(roots.erofs(roots.busybox(tmp_path))), boot=True)


def addressed(*words: str) -> Any:
    return tuple(ip_interface(word) for word in words)


def links(vm: Vm) -> dict[int, Any]:
    said = subprocess.run(
        ("ip", "-n", vm.netns, "-j", "addr"), capture_output=True, text=True, check=True
    ).stdout
    return {one["ifindex"]: one for one in json.loads(said)}


@pytest.mark.parametrize("done", DONE.values(), ids=DONE)
def test_it_has_its_eth0_all_the_same(
    make_vm: MakeVm, switch: Switch, busybox: RootSpec, done: tuple[str, ...]
) -> None:
    """Its number, its name and its addresses are those of the host file, and it is reached; but it
    has no IPv6 if it wants none."""
    plain = make_vm("plain", addresses=addressed(*OTHERS, "198.18.98.1/24"))
    vm = make_vm("os", addresses=addressed(*OURS), root=busybox)
    other = make_vm("other", addresses=addressed("198.18.97.3/24", "fd00:97::3/64"))
    for line in done:
        subprocess.run(("ip", "netns", "exec", vm.netns, *line.split()), check=True)
    vms = [plain, vm, other]
    for number, one in enumerate(vms, start=1):
        one.index = number
    switch.connect(vms)
    eth0 = links(vm)[NUMBER]
    assert (vm.eth0, eth0["ifname"], eth0["flags"].count("UP")) == (NUMBER, "eth0", 1)
    has = {f"{one['local']}/{one['prefixlen']}" for one in eth0["addr_info"]}
    ours = OURS[:1] if OFF in done else OURS
    assert has & set(OURS) == set(ours)
    assert [one["ifname"] for one in links(vm).values()].count("eth0") == 1
    reached = [(one, to.split("/")[0]) for one in (plain, other) for to in ours]
    for one, to in (*reached, (other, "fd00:97::2")):
        assert one.run(["ping", "-c", "1", "-W", "20", to]).returncode == 0, (one.spec.name, to)


def test_what_it_calls_eth0_is_kept(make_vm: MakeVm, switch: Switch, busybox: RootSpec) -> None:
    vm = make_vm("os", addresses=addressed(*OURS), root=busybox)
    for line in ("link add eth0 up type bridge", "addr add 198.18.99.1/24 dev eth0"):
        subprocess.run(("ip", "-n", vm.netns, *line.split()), check=True)
    (number,) = [index for index, one in links(vm).items() if one["ifname"] == "eth0"]
    switch.connect([vm])
    its = links(vm)[number]
    assert (its["ifname"], "UP" in its["flags"]) == ("eth1", True)
    assert "198.18.99.1" in {one["local"] for one in its["addr_info"]}


def test_one_that_never_stops_is_named(
    make_vm: MakeVm, switch: Switch, busybox: RootSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the name anew each time that it is made free; nothing is left at the switch."""
    vm = make_vm("os", addresses=addressed(*OURS), root=busybox)
    monkeypatch.setattr("hostsim.giving.make_way", lambda *_: [])
    subprocess.run(("ip", "-n", vm.netns, "link", "add", "eth0", "type", "bridge"), check=True)
    with pytest.raises(HostsimError, match=r"VM os: its eth0 cannot be made: .*File exists"):
        switch.connect([vm])
    assert switch.ports() == []


FILE = """
[host]
name = "hsbn"
[[vm]]
name = "quiet"
address = ["198.18.97.1/24", "fd00:97::1/64"]
root = "./root.erofs"
boot = true
[[vm]]
name = "plain"
address = ["198.18.97.2/24", "fd00:97::2/64"]
[[endpoint]]
name = "out"
address = ["198.18.97.3/24", "fd00:97::3/64"]
"""
SCRIPT = """\
#!/bin/sh
for which in all default; do echo 1 > /proc/sys/net/ipv6/conf/$which/disable_ipv6; done
ip link add eth0 type bridge
touch /run/done
"""


def test_a_host_whose_os_turns_ipv6_off_and_makes_an_eth0(tmp_path: Path) -> None:
    """At `up`, and when the OS is made anew."""
    root = roots.busybox(tmp_path)
    (root / "etc/start").write_text(SCRIPT)
    (root / "etc/start").chmod(0o755)
    (root / "etc/inittab").write_text("::sysinit:/etc/start\n")
    roots.erofs(root)
    with cli.host(FILE, tmp_path):
        for _ in range(2):
            until(lambda: cli.hostsim("exec", "quiet", "ls", "/run/done", check=False).stdout)
            for to in ("fd00:97::2", "198.18.97.1"):
                cli.hostsim("exec", "out", "--", "ping", "-c", "1", "-W", "20", to)
            assert {one["state"] for one in cli.ask("status")["vms"]} == {"running"}
            cli.hostsim("restart", "quiet")
