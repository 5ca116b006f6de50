# SPDX-License-Identifier: Apache-2.0
"""The names of protocols, ethertypes, TCP flags, paths and what befalls a link: one table of each,
for all that reads or shows them. Pure.

The host file, the keys of flows and every row that is shown use these tables, so that what is shown
can be written into a host file as it stands.
"""

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}
"""IP protocol numbers (IANA) by name; other protocols are shown and written as numbers."""
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
HAS_PORTS = frozenset({6, 17, 132, 136})
"""TCP, UDP, SCTP, UDP-Lite: the protocols whose ports can be matched (hs_has_ports in
cext/flow)."""
ICMP = frozenset({1, 58})
"""The protocols whose echo has an identifier, which a key has in place of both ports."""

ETHERTYPES = {"ipv4": 0x0800, "arp": 0x0806, "ipv6": 0x86DD}
ETHERTYPE_MIN = 0x600
"""Below it, the field is a length (IEEE 802.3)."""
VLAN_MAX = 4094
"""The highest VLAN identifier (IEEE 802.1Q); 4095 is reserved."""

TCP_FLAGS = {
    "fin": 1,
    "syn": 2,
    "rst": 4,
    "psh": 8,
    "ack": 16,
    "urg": 32,
    "ece": 64,
    "cwr": 128,
}
"""Bits of the flags' byte (RFC 9293 3.1) by name."""

PATHS = ("switch", "veth", "ring")
"""By which a hop of a flow goes."""

LINK_WORDS = (
    "delay", "jitter", "loss", "duplicate", "reorder", "corrupt", "rate", "seed", "down",
)  # fmt: skip
"""What can be said of a link, but for whose it is and in which direction."""
