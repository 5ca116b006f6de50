# SPDX-License-Identifier: Apache-2.0
"""Neighbours that are told beforehand: a VM then knows the MAC addresses of others without asking.

The kernel has one table of neighbours for all network namespaces of a machine (neighbour.c: arp_tbl
and nd_tbl), with room for `net.ipv4.neigh.default.gc_thresh3` entries, 1,024 as it comes: 33 VMs
that all talk fill it, and then packets are dropped. Entries that somebody told
(NTF_EXT_LEARNED) are not counted there, and stay. Else they are as any others: asked again when
they were not heard of for a while, and changed by whoever says that he has another MAC address.

The while is longer than the kernel's 30 s (`patience`): so many, told at once and used at once,
would be asked at once too, and the questions alone fill the queues (seen with 300 VMs).
"""

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from netns import netlink

RTM_NEWNEIGH, RTM_SETNEIGHTBL = 28, 67
NDTA_NAME, NDTA_PARMS, NDTPA_IFINDEX, NDTPA_BASE_REACHABLE_TIME = 1, 6, 1, 4
TABLES = ("arp_cache", "ndisc_cache")
NLM_F_REQUEST, NLM_F_REPLACE, NLM_F_CREATE = 0x1, 0x100, 0x400
NDA_DST, NDA_LLADDR = 1, 2
NUD_REACHABLE = 0x02
NTF_EXT_LEARNED = 0x10
FAMILY = {4: 2, 6: 10}  # AF_INET, AF_INET6
_NDMSG = struct.Struct("=BxxxiHBB")  # family, interface, state, flags, type
_ATTRIBUTE = struct.Struct("=HH")

LIMIT = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh2")
"""Entries above which the kernel throws away those that are five seconds old. It is there in the
machine's first namespace alone."""
STOCK = 512
"""It, as the kernel comes."""

Known = Sequence[tuple[IPv4Address | IPv6Address, str]]
"""Addresses and the MAC address of each."""


def room() -> int:
    """Entries that the kernel's own table has room for, of each of IPv4 and IPv6."""
    try:
        return int(LIMIT.read_text())
    except FileNotFoundError:
        return STOCK


REACHABLE = 600_000
"""Milliseconds, half as many or half as many more (RFC 4861, BaseReachableTime)."""


def patience(interface: int) -> list[bytes]:
    """The messages by which an interface's neighbours are believed for longer. They set what the
    files net/ipv4/neigh/NAME/base_reachable_time_ms below /proc/sys do, and ipv6's: to find one of
    those takes the kernel the longer the more network namespaces the machine has."""
    which = netlink.attribute(NDTPA_IFINDEX, struct.pack("=I", interface))
    which += netlink.attribute(NDTPA_BASE_REACHABLE_TIME, struct.pack("=Q", REACHABLE))
    found = []
    for family, table in zip(FAMILY.values(), TABLES, strict=True):
        body = struct.pack("=Bxxx", family) + netlink.attribute(NDTA_NAME, table.encode() + b"\0")
        body += netlink.attribute(NDTA_PARMS, which)
        found.append(netlink.pack(RTM_SETNEIGHTBL, NLM_F_REQUEST, 0, body))
    return found


def pack(known: Known) -> list[tuple[bytes, bytes]]:
    """What is told of each: the message's bytes before and after the interface's number."""
    found = []
    for address, mac in known:
        body = _NDMSG.pack(FAMILY[address.version], 0, NUD_REACHABLE, NTF_EXT_LEARNED, 0)
        own = bytes.fromhex(mac.replace(":", ""))
        for kind, value in ((NDA_DST, address.packed), (NDA_LLADDR, own)):
            attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
            body += netlink.pad(attribute)
        flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
        message = netlink.pack(RTM_NEWNEIGH, flags, 0, body)
        at = netlink.HEADER.size + 4
        found.append((message[:at], message[at + 4 :]))
    return found


def messages(packed: Sequence[tuple[bytes, bytes]], interface: int) -> list[bytes]:
    """The messages for one interface."""
    number = struct.pack("=i", interface)
    return [before + number + after for before, after in packed]
