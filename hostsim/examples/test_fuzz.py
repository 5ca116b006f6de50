# SPDX-License-Identifier: Apache-2.0
"""Odd packets by scapy, from a VM through a chain: nothing is lost without a name."""

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from hostsim import Host

HOST = """
[host]
name = "fuzz"
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[endpoint]]
name = "server"
address = "198.18.0.20/24"
[[vm]]
name = "fw"
[[route]]
match = { src = "198.18.0.10/32" }
through = ["fw"]
[[filter]]
match = { proto = "udp", dport = 53 }
"""
pytestmark = pytest.mark.hostsim(HOST)


def odd(dice: random.Random, to: str) -> Packet:
    """A packet with values at random: lengths that lie, flags, options, a VLAN tag."""
    ip = IP(src="198.18.0.10", dst="198.18.0.20", ttl=dice.choice((1, 64)), flags=dice.randrange(8))
    if dice.random() < 0.2:
        ip.len = dice.randrange(100)
    sport, dport = dice.randrange(65536), dice.choice((53, 80, dice.randrange(65536)))
    udp = UDP(sport=sport, dport=dport)
    tcp = TCP(sport=sport, dport=dport, flags=dice.randrange(256))
    above = dice.choice((udp, tcp, ICMP()))
    frame = Ether(dst=to) / (Dot1Q(vlan=0) if dice.random() < 0.2 else b"") / ip / above
    return frame / Raw(dice.randbytes(dice.randrange(100)))


def test_odd_packets(hostsim_host: Host) -> None:
    client = hostsim_host["client"]
    words = ("cat", "/sys/class/net/eth0/address")
    mac = hostsim_host["server"].run(*words, check=True).stdout.strip()
    dice = random.Random(7)
    client.scapy.sendp([odd(dice, mac) for _ in range(200)], iface="eth0", verbose=False)
    client.run("ping", "-q", "-c", "5", "-i", "0.02", "198.18.0.20", check=True)
    assert not [row for row in hostsim_host.verify() if row.missing]
