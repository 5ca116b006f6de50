# SPDX-License-Identifier: Apache-2.0
"""A name and a number made free in a network namespace whose user has taken them (rtnetlink(7)).

    make_way(netns_fd, "eth0", 20001)       what was done, a line each

A link of this name gets another, the next that is free (eth1); a second name of a link
(`ip link property`) goes. A number is a link's for life, so that one of this number goes.
"""

import contextlib
import errno
import socket
import struct

from cext.ns.netns import socket_at
from netns import messages, netlink
from netns.interfaces import IFF_UP, IFLA_IFNAME, RTM_GETLINK, RTM_NEWLINK, WAIT
from netns.links import Rtnl

RTM_DELLINKPROP = 109
IFLA_PROP_LIST, IFLA_ALT_IFNAME, NLA_F_NESTED = 52, 53, 0x8000
"""linux/rtnetlink.h, linux/if_link.h, linux/netlink.h."""

_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_HEAD = netlink.HEADER.size + _IFINFO.size


def make_way(netns_fd: int, name: str, index: int) -> list[str]:
    """See the module. Raises OSError; a link that goes by itself meanwhile is no error."""
    done = []
    with contextlib.closing(Rtnl(netns_fd)) as rtnl:
        if (there := _find(netns_fd, index=index)) is not None:
            rtnl.pack(lambda batch: batch.packed(messages.removed(index)), (errno.ENODEV,))
            done.append(f"its link {there[1]} had the number {index}, and was removed")
        if (there := _find(netns_fd, name=name)) is not None:
            number, first, up = there
            if first == name:
                _rename(rtnl, number, f"{name.rstrip('0123456789')}%d", up)
                done.append(f"its own {name} got another name")
            else:
                other = netlink.attribute(IFLA_ALT_IFNAME, name.encode() + b"\0")
                body = netlink.attribute(IFLA_PROP_LIST | NLA_F_NESTED, other)
                _send(rtnl, RTM_DELLINKPROP, number, body)
                done.append(f"its link {first} is not called {name} any more")
    return done


def _rename(rtnl: Rtnl, index: int, pattern: str, up: bool) -> None:
    """Linux before 6.2 renames only links that are down."""
    named = netlink.attribute(IFLA_IFNAME, pattern.encode() + b"\0")
    try:
        _send(rtnl, RTM_NEWLINK, index, named)
    except OSError as error:
        if error.errno != errno.EBUSY or not up:
            raise
        _send(rtnl, RTM_NEWLINK, index, b"", change=IFF_UP)
        _send(rtnl, RTM_NEWLINK, index, named)
        rtnl.pack(lambda batch: batch.packed(messages.up(index)), (errno.ENODEV,))


def _send(rtnl: Rtnl, kind: int, index: int, attributes: bytes, change: int = 0) -> None:
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, change) + attributes
    message = netlink.pad(netlink.pack(kind, netlink.NLM_F_REQUEST, 0, body))
    rtnl.pack(lambda batch: batch.packed(message), (errno.ENODEV,))


def _find(netns_fd: int, index: int = 0, name: str = "") -> tuple[int, str, bool] | None:
    """A link's number, its first name, and whether it is up; None: there is none. Raises
    OSError."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    if name:
        body += netlink.attribute(IFLA_IFNAME, name.encode() + b"\0")
    with contextlib.closing(socket_at(netns_fd, socket.AF_NETLINK, socket.SOCK_RAW, 0)) as sock:
        sock.bind((0, 0))
        sock.settimeout(WAIT)
        sock.send(netlink.pack(RTM_GETLINK, netlink.NLM_F_REQUEST, 1, body))
        for kind, message in netlink.messages(sock.recv(1 << 16)):
            if kind == RTM_NEWLINK:
                _, _, number, flags, _ = _IFINFO.unpack_from(message, netlink.HEADER.size)
                first = netlink.attributes(message, _HEAD).get(IFLA_IFNAME, b"")
                return number, first.split(b"\0")[0].decode(errors="replace"), bool(flags & IFF_UP)
            if kind == netlink.NLMSG_ERROR and netlink.error(message) != errno.ENODEV:
                number = netlink.error(message)
                raise OSError(number, f"netlink: link {name or index}")
    return None
