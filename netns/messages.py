# SPDX-License-Identifier: Apache-2.0
"""What is said of every VM's link, addresses and routes, as netlink messages (rtnetlink(7)).

Packed here, each as pyroute2 compiles it (tests/unit/test_messages.py): of some ten for each VM
pyroute2 takes 0.3 ms for each, and 70 ms to be imported. Each function returns one message, padded,
for `Packs.packed` (links.py).
"""

import socket
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netns import netlink

RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR = 16, 17, 20
RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH = 24, 25, 28
NLM_F_REQUEST, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x100, 0x200, 0x400
ADD = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
ROUTES = {
    "add": (RTM_NEWROUTE, ADD),
    "replace": (RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE),
    "del": (RTM_DELROUTE, NLM_F_REQUEST),
}
"""What can be done to a route."""
FAMILY = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_TXQLEN = 1, 3, 4, 10, 13
IFLA_AF_SPEC, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 26, 8, 1
IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA = 18, 1, 2
IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 4, 5
IFLA_NET_NS_FD, VETH_INFO_PEER = 28, 1
IFLA_BR_GROUP_FWD_MASK, IFLA_BR_MCAST_SNOOPING, IFLA_BRPORT_GROUP_FWD_MASK = 9, 23, 31
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_F_NODAD = 1, 2, 8, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_METRICS, RTAX_MTU = 1, 4, 5, 8, 2
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 254, 4, 1, 0, 253
NDA_LLADDR, NUD_NOARP, NTF_MASTER, NTF_STICKY = 2, 0x40, 0x04, 0x40
"""linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h."""

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=8BI")  # family, lengths, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_NUMBER, _SHORT, _BYTE = struct.Struct("=I"), struct.Struct("=H"), struct.Struct("=B")


def up(index: int) -> bytes:
    """Take a link up."""
    return _packed(RTM_NEWLINK, NLM_F_REQUEST, _IFINFO.pack(0, 0, index, IFF_UP, IFF_UP))


def quiet(index: int, queue: int, mtu: int) -> bytes:
    """A link has no IPv6 address of its own, and `queue` packets may wait to leave by it."""
    mode = netlink.attribute(IFLA_INET6_ADDR_GEN_MODE, _BYTE.pack(IN6_ADDR_GEN_MODE_NONE))
    body = _IFINFO.pack(0, 0, index, 0, 0)
    body += netlink.attribute(IFLA_TXQLEN, _NUMBER.pack(queue))
    body += netlink.attribute(IFLA_MTU, _NUMBER.pack(mtu))
    body += netlink.attribute(IFLA_AF_SPEC, netlink.attribute(FAMILY[6], mode))
    return _packed(RTM_NEWLINK, NLM_F_REQUEST, body)


def removed(index: int) -> bytes:
    """Remove a link."""
    return _packed(RTM_DELLINK, NLM_F_REQUEST, _IFINFO.pack(0, 0, index, 0, 0))


def bridge(index: int, name: str, mac: str, forwarded: int) -> bytes:
    """A bridge, down, that looks into no multicast group; forwarded: the groups that a bridge keeps
    for itself otherwise, a bit each."""
    data = netlink.attribute(IFLA_BR_MCAST_SNOOPING, _BYTE.pack(0))
    data += netlink.attribute(IFLA_BR_GROUP_FWD_MASK, _SHORT.pack(forwarded))
    body = _IFINFO.pack(0, 0, index, 0, 0) + _named(name) + _mac(IFLA_ADDRESS, mac)
    return _packed(RTM_NEWLINK, ADD, body + _info("bridge", data))


def veth(
    index: int, name: str, mac: str, master: int, far: tuple[int, str, str, int], mtu: int
) -> bytes:
    """Two links that are each other's end: one here, a port of the bridge `master`; far: the
    other's number, name, address, and the descriptor of its network namespace."""
    far_index, far_name, far_mac, netns_fd = far
    size = netlink.attribute(IFLA_MTU, _NUMBER.pack(mtu))
    peer = _IFINFO.pack(0, 0, far_index, 0, 0) + _named(far_name) + _mac(IFLA_ADDRESS, far_mac)
    peer += size + netlink.attribute(IFLA_NET_NS_FD, _NUMBER.pack(netns_fd))
    body = _IFINFO.pack(0, 0, index, 0, 0) + _named(name) + _mac(IFLA_ADDRESS, mac) + size
    body += netlink.attribute(IFLA_MASTER, _NUMBER.pack(master))
    return _packed(RTM_NEWLINK, ADD, body + _info("veth", netlink.attribute(VETH_INFO_PEER, peer)))


def forwards(index: int, groups: int) -> bytes:
    """Have a bridge's port take these groups (see `bridge`), too. pyroute2, as iproute2 does, gives
    the port's kind as if it were a link's: Linux 6.12 then looks for a module at each message."""
    mask = netlink.attribute(IFLA_BRPORT_GROUP_FWD_MASK, _SHORT.pack(groups))
    info = netlink.attribute(IFLA_INFO_SLAVE_KIND, b"bridge_slave\0")
    info += netlink.attribute(IFLA_INFO_SLAVE_DATA, mask)
    body = _IFINFO.pack(0, 0, index, 0, 0) + netlink.attribute(IFLA_LINKINFO, info)
    return _packed(RTM_NEWLINK, NLM_F_REQUEST, body)


def sticky(index: int, mac: str) -> bytes:
    """Have a bridge know for good that this address is at this port."""
    head = _NDMSG.pack(socket.AF_BRIDGE, index, NUD_NOARP, NTF_MASTER | NTF_STICKY, 0)
    return _packed(RTM_NEWNEIGH, ADD, head + _mac(NDA_LLADDR, mac))


def address(index: int, ip: IPv4Address | IPv6Address, prefixlen: int) -> bytes:
    """Give a link an address; one of IPv6 is not looked for at others (RFC 4862, 5.4)."""
    alone = ip.version == 6
    body = _IFADDR.pack(FAMILY[ip.version], prefixlen, 0, 0, index)
    body += netlink.attribute(IFA_ADDRESS, ip.packed)
    if alone:
        body += netlink.attribute(IFA_FLAGS, _NUMBER.pack(IFA_F_NODAD))
    else:
        body += netlink.attribute(IFA_LOCAL, ip.packed)
    return _packed(RTM_NEWADDR, ADD, body)


def route(
    index: int,
    to: IPv4Network | IPv6Network,
    via: IPv4Address | IPv6Address | None = None,
    mtu: int | None = None,
    how: str = "add",
) -> bytes:
    """A route by a link; via: the router, None: they are on the link; mtu: of the way, None: the
    link's; how: of ROUTES."""
    kind, flags = ROUTES[how]
    near = via is None and to.version == 4
    scope = RT_SCOPE_LINK if near else RT_SCOPE_UNIVERSE
    made = (RTPROT_STATIC, scope, RTN_UNICAST) if how != "del" else (0, scope, 0)
    body = _RTMSG.pack(FAMILY[to.version], to.prefixlen, 0, 0, RT_TABLE_MAIN, *made, 0)
    if to.prefixlen:
        body += netlink.attribute(RTA_DST, to.network_address.packed)
    body += netlink.attribute(RTA_OIF, _NUMBER.pack(index))
    if via is not None:
        body += netlink.attribute(RTA_GATEWAY, via.packed)
    if mtu is not None:
        longest = netlink.attribute(RTAX_MTU, _NUMBER.pack(mtu))
        body += netlink.attribute(RTA_METRICS, longest)
    return _packed(kind, flags, body)


def _packed(kind: int, flags: int, body: bytes) -> bytes:
    return netlink.pad(netlink.pack(kind, flags, 0, body))


def _named(name: str) -> bytes:
    return netlink.attribute(IFLA_IFNAME, name.encode() + b"\0")


def _mac(kind: int, mac: str) -> bytes:
    return netlink.attribute(kind, bytes.fromhex(mac.replace(":", "")))


def _info(kind: str, data: bytes) -> bytes:
    info = netlink.attribute(IFLA_INFO_KIND, kind.encode() + b"\0")
    return netlink.attribute(IFLA_LINKINFO, info + netlink.attribute(IFLA_INFO_DATA, data))
