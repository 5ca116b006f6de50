# SPDX-License-Identifier: Apache-2.0
"""A host file is read whole, or refused with its place, the reason and what is allowed."""

from pathlib import Path

import pytest

from hostsim.errors import HostFileError
from hostsim.hostfile import file as hostfile
from hostsim.model import HostSpec

EDGE = """
[host]
name = "edge"

[[endpoint]]
name = "client"
address = "198.18.0.10/24"

[[vm]]
name = "fw"
address = "198.18.0.1/24"
memory = "128M"
cpus = 0.5
pids = 200

[[vm]]
name = "work"
[vm.os]
background = "freeze"

[[route]]
match = { proto = "tcp", dport = [80, "8000-8099"], src = "198.18.0.0/24" }
through = ["fw"]
bypass = "veth"

[[device]]
match = { name = "Demo Keyboard" }
hotkey = ["KEY_LEFTCTRL", "KEY_RIGHTCTRL"]

[kmc]
release_timeout = "150ms"
"""


def parse(text: str) -> HostSpec:
    return hostfile.parse(text, Path("/hosts/edge.toml"))


def test_reads_everything() -> None:
    spec = parse(EDGE)
    assert spec.name == "edge"
    assert [str(a) for a in spec.endpoints[0].addresses] == ["198.18.0.10/24"]
    fw, work = spec.vms
    assert (fw.memory, fw.cpus, fw.pids) == (128 * 1024**2, 0.5, 200)
    assert work.os is not None
    assert work.os.background == "freeze"
    (route,) = spec.routes
    assert route.match.proto == 6
    assert route.match.dport == ((80, 80), (8000, 8099))
    assert (route.through, route.bypass) == (("fw",), "veth")
    assert (route.on_full, route.ring) == ("wait", "isolated")
    (device,) = spec.devices
    assert (device.mode, device.hotkey) == ("mirror", ("KEY_LEFTCTRL", "KEY_RIGHTCTRL"))
    assert spec.kmc.foreground == "work"
    assert spec.kmc.release_timeout == 0.15


@pytest.mark.parametrize("name", ["edge", "duo", "both", "desk"])
def test_shipped_hosts_are_right(name: str) -> None:
    assert hostfile.load(name).name == name


WRONG = {
    "unknown table": ("[kmc]", "[kcm]", r"kcm.*allowed: host"),
    "unknown key": (
        "memory =",
        "memroy =",
        r"edge.toml:\d+: \[\[vm\]\] 'fw': unknown key 'memroy'",
    ),
    "unknown VM in a route": ('through = ["fw"]', 'through = ["fx"]', "'fx', which is no VM"),
    "route through an endpoint": ('through = ["fw"]', 'through = ["client"]', "an endpoint"),
    "VM twice in a route": ('through = ["fw"]', 'through = ["fw", "fw"]', "twice"),
    "name twice": ('name = "work"', 'name = "fw"', "stands twice"),
    "address twice": ('"198.18.0.1/24"', '"198.18.0.10/24"', "198.18.0.10 belongs to 'client'"),
    "address without prefix": ('"198.18.0.1/24"', '"198.18.0.1"', "prefix length"),
    "address of the network": ('"198.18.0.1/24"', '"198.18.0.0/24"', "network's own"),
    "no address at all": ('"198.18.0.1/24"', '"fw/24"', "address"),
    "negative memory": ('"128M"', "-1", "memory = -1"),
    "memory of nonsense": ('"128M"', '"much"', "memory = 'much'"),
    "negative cpus": ("cpus = 0.5", "cpus = -0.5", "cpus = -0.5"),
    "cpus not a number": ("cpus = 0.5", "cpus = nan", "cpus = nan"),
    "negative pids": ("pids = 200", "pids = -200", "pids = -200"),
    "pids a bool": ("pids = 200", "pids = true", "pids = True"),
    "name too long": ('name = "fw"', 'name = "firewall-of-the-edge"', "too long.*15"),
    "name with a slash": ('name = "fw"', 'name = "../fw"', "not allowed"),
    "name reserved": ('name = "fw"', 'name = "switch"', "taken by hostsim"),
    "background": ('"freeze"', '"sleep"', "run, throttle, freeze"),
    "bypass": ('bypass = "veth"', 'bypass = "always"', "auto, veth, ring, never"),
    "on_full": ('bypass = "veth"', 'on_full = "block"', "drop, wait"),
    "ring": ('bypass = "veth"', 'ring = "open"', "isolated, shared"),
    "match key": ("dport = [", "dprot = [", "unknown key 'dprot'"),
    "port": ('"8000-8099"', '"8099-8000"', "dport = '8099-8000'"),
    "port too large": ("[80,", "[80000,", "dport = 80000"),
    "port without protocol": ('proto = "tcp", ', "", 'proto = "tcp"'),
    "network": ('src = "198.18.0.0/24"', 'src = "198.18.0.1/24"', "bits set"),
    "hotkey": ('"KEY_LEFTCTRL", ', '"ctrl", ', "'ctrl' is no key"),
    "hotkey, no such key": ('"KEY_LEFTCTRL", ', '"KEY_LEFTCTRLL", ', "is no key"),
    "hotkey, past the last key": ('"KEY_LEFTCTRL", ', '"KEY_CNT", ', "is no key"),
    "hotkey, nine keys": (
        '"KEY_LEFTCTRL", ',
        "".join(f'"KEY_{n}", ' for n in range(1, 9)),
        "has 9 keys",
    ),
    "hotkey, one twice": ('"KEY_LEFTCTRL", ', '"KEY_RIGHTCTRL", ', "or one twice"),
    "timeout": ('"150ms"', '"soon"', "release_timeout = 'soon'"),
    "held": ("[kmc]", '[kmc]\nheld = "all"', "lift, carry-modifiers"),
    "restart": ('"freeze"', '"freeze"\nrestart = "always"', "no, on-failure"),
    "restart of an nf": (
        '[vm.os]\nbackground = "freeze"',
        'nf = "count"\n[vm.os]\nrestart = "on-failure"',
        "both nf and",
    ),
    "interface and more": (
        'name = "Demo Keyboard"',
        'name = "x", interface = "eth1"',
        "other keys",
    ),
    "interface with a hotkey": ('name = "Demo Keyboard"', 'interface = "eth1"', "key 'hotkey'"),
    "no OS": ('[vm.os]\nbackground = "freeze"', "", "no VM is an operating system"),
    "foreground": ("[kmc]", '[kmc]\nforeground = "fw"', "'fw' is no operating system"),
    "both nf and run": ("pids = 200", 'nf = "count"\nrun = "true"', "both nf and run"),
    "quotes in run": ("pids = 200", 'run = "echo \'x"', "no command line"),
    "syntax": ("[host]", "[host", r"edge.toml:\d+: not TOML"),
    "no host": ('[host]\nname = "edge"', "", r"\[host\] is missing"),
    "vm not a list": ('[[vm]]\nname = "fw"', '[vm]\nname = "fw"', "."),
}


@pytest.mark.parametrize("case", WRONG)
def test_refuses(case: str) -> None:
    old, new, message = WRONG[case]
    assert old in EDGE
    with pytest.raises(HostFileError, match=message):
        parse(EDGE.replace(old, new, 1))


def test_no_such_file() -> None:
    with pytest.raises(HostFileError, match=r"no such host file.*duo, edge"):
        hostfile.load("nowhere.toml")


NIC = '[[device]]\nmatch = { interface = "eth1" }\n'


def test_what_the_kmc_is_told_is_read() -> None:
    assert parse(EDGE).nics == ()
    assert parse(EDGE).kmc.held == "lift"
    text = EDGE.replace("[kmc]", '[kmc]\nheld = "carry-modifiers"')
    spec = parse(text.replace('"freeze"', '"freeze"\nrestart = "on-failure"') + NIC)
    assert spec.kmc.held == "carry-modifiers"
    assert spec.vms[1].os is not None
    assert spec.vms[1].os.restart == "on-failure"
    assert (spec.nics, len(spec.devices)) == (("eth1",), 1)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (NIC, "twice"),
        ('[switch]\nuplinks = ["eth1"]\n', "twice"),
        (NIC.replace("eth1", "eth0"), "an OS has already"),
        (NIC.replace("eth1", "a name"), "names no interface"),
        (NIC.replace('"eth1"', "1"), "names no interface"),
    ],
)
def test_an_interface_can_be_in_one_place_only(more: str, why: str) -> None:
    with pytest.raises(HostFileError, match=why):
        parse(EDGE + NIC + more)


def test_uplinks_are_read() -> None:
    assert parse(EDGE).uplinks == ()
    assert parse(EDGE + '[switch]\nuplinks = ["eth1", "enp0s3.7"]\n').uplinks == (
        "eth1",
        "enp0s3.7",
    )


@pytest.mark.parametrize(
    ("switch", "why"),
    [
        ('uplink = ["eth1"]', "unknown key 'uplink'"),
        ('uplinks = "eth1"', "uplinks = 'eth1' is not allowed"),
        ('uplinks = ["eth1", "eth1"]', "twice"),
        ('uplinks = ["a name"]', "names no interface"),
        ('uplinks = ["sixteen-letters-"]', "names no interface"),
        ('uplinks = ["."]', "names no interface"),
        ("uplinks = [1]", "names no interface"),
        ('uplinks = ["fw"]', "a port of the switch already"),
        ('uplinks = ["lo"]', "a port of the switch already"),
    ],
)
def test_wrong_uplinks_are_refused(switch: str, why: str) -> None:
    with pytest.raises(HostFileError, match=why):
        parse(f"{EDGE}[switch]\n{switch}\n")
