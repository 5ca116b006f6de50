# SPDX-License-Identifier: Apache-2.0
"""The tables of shipped network functions: what the file says, and what is refused; and what the
functions are told of it."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from hostsim.errors import HostFileError
from hostsim.hostfile.file import parse
from hostsim.model import FirewallSpec, HostSpec, NatSpec, SourceSpec
from hostsim.nf.settings import NOBODY, settings, source_frame

HEAD = '[host]\nname = "x"\n'
NAT = '[[vm]]\nname = "nat"\nnf = "nat"\naddress = "198.18.0.30/24"\n'
IDS = '[[vm]]\nname = "ids"\nnf = "count"\n'
FW = '[[vm]]\nname = "fw"\nnf = "firewall"\n'
RULE = '[[vm.rule]]\nmatch = { proto = "tcp", dport = [22, "80-90"] }\ndo = "accept"\n'
SOURCE = '[[vm]]\nname = "tx"\nnf = "source"\n'
FLOW = 'flow = "udp:198.18.0.1:4000>198.18.0.20:9"\n'


def read(text: str) -> HostSpec:
    return parse(HEAD + text, Path("/x.toml"))


def test_a_firewall() -> None:
    spec = read(FW + 'default = "accept"\n' + RULE + RULE.replace("accept", "drop")).vms[0]
    given = spec.settings
    assert isinstance(given, FirewallSpec)
    assert given.default
    assert [rule.accept for rule in given.rules] == [True, False]
    assert given.rules[0].match.dport == ((22, 22), (80, 90))
    told = settings(spec, "02:00:00:00:00:01", {})
    assert told["accept"] == [True, False, True]
    assert len(told["rows"]) == 2
    nothing = read(FW).vms[0].settings
    assert nothing == FirewallSpec((), default=False)


def test_a_translator() -> None:
    spec = read(NAT).vms[0]
    assert spec.settings == NatSpec((1024, 65535))
    assert settings(spec, "02:00:00:00:00:01", {}) == {
        "keeps": "translations by 1024-65535",
        "address": "c612001e",
        "mac": "020000000001",
        "ports": (1024, 65535),
    }
    assert read(NAT + '[vm.nat]\nports = "2000-2999"\n').vms[0].settings == NatSpec((2000, 2999))


def test_the_readmes_host_is_one() -> None:
    readme = (Path(__file__).parents[2] / "hostsim/nf/README.md").read_text()
    spec = read(readme.split("```toml\n")[1].split("```")[0])
    assert [vm.nf for vm in spec.vms] == ["firewall", "count", "nat"]
    assert spec.routes[0].through == ("fw", "ids", "nat")


def test_a_source() -> None:
    text = SOURCE + "[vm.source]\n" + FLOW + "size = 200\nrate = 10\ncount = 7\n"
    spec = read(text).vms[0]
    wanted = SourceSpec(
        ip_address("198.18.0.1"), ip_address("198.18.0.20"), 17, 4000, 9, 200, 10, 7
    )
    assert spec.settings == wanted
    macs = {ip_address("198.18.0.20"): "02:00:00:00:00:20"}
    told = settings(spec, "02:00:00:00:00:01", macs)
    assert (told["count"], told["rate"]) == (7, 10)
    frame = Ether(bytes.fromhex(told["packet"]))
    assert (len(frame), frame.dst, frame.src) == (200, "02:00:00:00:00:20", "02:00:00:00:00:01")
    assert settings(spec, "02:00:00:00:00:01", {})["packet"].startswith(NOBODY.hex())


@pytest.mark.parametrize("proto", [6, 17])
@pytest.mark.parametrize("address", ["198.18.0.1", "fd00::1"])
def test_what_a_source_sends_is_right(proto: int, address: str) -> None:
    one = ip_address(address)
    data = source_frame(SourceSpec(one, one, proto, 4000, 9, 101, 0, 0), bytes(6), bytes(6))
    assert len(data) == 101
    kind, layer = (IP if one.version == 4 else IPv6), (TCP if proto == 6 else UDP)
    packet = Ether(data)
    assert (packet[layer].sport, packet[layer].dport) == (4000, 9)
    again = Ether(data)
    if kind is IP:
        del again[IP].chksum
    del again[layer].chksum
    assert bytes(again) == data


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (IDS + RULE, "rule is for a VM with nf = 'firewall'"),
        (IDS + 'default = "drop"\n', "default is for a VM with nf = 'firewall'"),
        (IDS + "[vm.nat]\n", "nat is for a VM"),
        (IDS + "[vm.source]\n" + FLOW, "source is for a VM"),
        (FW + "rule = [3]\n", "not a list of tables"),
        (FW + "[[vm.rule]]\ndo = 'drop'\n", "match is missing"),
        (FW + "[[vm.rule]]\nmatch = { proto = 'tcp' }\n", "do is missing"),
        (FW + RULE.replace("accept", "reject"), "do is one of accept, drop"),
        (FW + RULE + "more = 1\n", "unknown key 'more'"),
        (FW + "[[vm.rule]]\nmatch = { sni = 'a.example' }\ndo = 'drop'\n", "sni cannot be matched"),
        (FW + "[[vm.rule]]\nmatch = { from = 'fw' }\ndo = 'drop'\n", "from cannot be matched"),
        (FW + "[[vm.rule]]\nmatch = { dport = 3 }\ndo = 'drop'\n", "a port is matched without"),
        (NAT.replace("address", "#"), "without one IPv4 address"),
        (NAT.replace('"198.18.0.30/24"', '["198.18.0.30/24", "198.18.0.31/24"]'), "without one"),
        (NAT + "[vm.nat]\nports = '9'\n", "ports = '9' is not allowed"),
        (NAT + "[vm.nat]\nports = '9-8'\n", "ports = '9-8' is not allowed"),
        (NAT + "[vm.nat]\nports = '0-8'\n", "ports = '0-8' is not allowed"),
        (NAT + "[vm.nat]\nport = '1-8'\n", "unknown key 'port'"),
        (SOURCE, "without [vm.source]"),
        (SOURCE + "[vm.source]\nrate = 3\n", "flow is missing"),
        (SOURCE + "[vm.source]\nflow = 'udp:x>y'\n", "is not allowed"),
        (SOURCE + "[vm.source]\nflow = 'icmp:198.18.0.1>198.18.0.2'\n", "TCP or UDP"),
        (SOURCE + "[vm.source]\n" + FLOW + "size = 20\n", "size = 20 is not allowed"),
        (SOURCE + "[vm.source]\n" + FLOW + "rate = -1\n", "rate = -1 is not allowed"),
    ],
)
def test_a_wrong_table_is_refused(text: str, why: str) -> None:
    with pytest.raises(HostFileError) as error:
        read(text)
    assert why in str(error.value)


def routed(match: str, through: str) -> str:
    return NAT + IDS + f"[[route]]\nmatch = {{ {match} }}\nthrough = [{through}]\n"


@pytest.mark.parametrize(
    "match",
    [
        'src = "198.18.0.10/32"',
        'from = "ids"',
        'proto = "tcp", sport = 5',
    ],
)
def test_a_translator_stands_where_the_route_still_matches(match: str) -> None:
    assert read(routed(match, '"ids", "nat"')).routes
    with pytest.raises(HostFileError, match="'nat' is not the last of the chain"):
        read(routed(match, '"nat", "ids"'))
    assert read(routed('src = "198.18.0.0/24"', '"nat", "ids"')).routes
    assert read(routed('proto = "tcp"', '"nat", "ids"')).routes
    with pytest.raises(HostFileError, match="before its contents are known"):
        read(routed('sni = "a.example"', '"ids", "nat"'))
