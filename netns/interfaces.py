# SPDX-License-Identifier: Apache-2.0
"""What an interface of a namespace is like, and news that some may have changed (rtnetlink(7)).

For whoever looks often, and at namespaces whose user may have made a thousand interfaces: one
question is one interface, and one answer. Links are made by links.py.
"""

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from cext.ns.netns import socket_at
from netns import netlink
from netns.links import Rtnl

T = TypeVar("T")

RTMGRP_LINK = 1
RTMGRP_TC = 8
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP, RTNLGRP_LINK = 270, 1, 2, 1
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_GETTFILTER = 46
IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_TC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_HEAD = netlink.HEADER.size + _IFINFO.size
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_QDISC, IFLA_XDP, IFLA_XDP_ATTACHED = 1, 3, 4, 6, 43, 2
IFLA_MASTER, IFLA_OPERSTATE, IFLA_STATS64 = 10, 16, 23
_STATS = struct.Struct("=8Q")  # struct rtnl_link_stats64: packets, bytes, errors, drops; rx, tx
STATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
TCA_KIND, TCA_OPTIONS, TCA_BPF_NAME = 1, 2, 7
READS = 64
"""Datagrams of news that are taken at a time: whoever makes them must not keep their reader."""
WAIT = 5.0
"""Seconds until an answer; the kernel has it ready when the question has been sent."""


class Interface(NamedTuple):
    """number: its index; up: it is up, and its other end too; qdisc: its root queueing
    discipline's kind; xdp: an XDP program is attached; mac: "02:00:..."."""

    number: int
    name: str
    up: bool
    mac: str
    mtu: int
    qdisc: str
    xdp: bool


class Change(NamedTuple):
    """News of an interface. there: it is there, else it is gone; up: it has a carrier."""

    number: int
    name: str
    there: bool
    up: bool


class Counted(NamedTuple):
    """One of many, and what it counted. master: the number of its bridge, 0: none; state: RFC 2863,
    ifOperStatus, in lower case."""

    number: int
    name: str
    master: int
    state: str
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    dropped: int


class _Monitor:
    """A subscription to some groups of a namespace's rtnetlink(7). `fileno` is readable as long as
    there is news."""

    def __init__(self, netns_fd: int, groups: int) -> None:
        self._socket = socket_at(netns_fd, socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._socket.bind((0, groups))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def _news(self, parse: Callable[[bytes], Iterable[T]]) -> list[T] | None:
        """What has been told so far, READS datagrams at most; None: some of it was lost."""
        found: list[T] | None = []
        for _ in range(READS):
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = None
                continue
            if found is not None:
                found += parse(data)
        return found

    def close(self) -> None:
        """Twice is harmless."""
        self._socket.close()


class LinkMonitor(_Monitor):
    """Tells that some link of a namespace came, went or changed. `fileno` is readable then, until
    `changes` has told all. tc: queueing disciplines and filters, too."""

    def __init__(self, netns_fd: int, tc: bool = False) -> None:
        super().__init__(netns_fd, RTMGRP_LINK | (RTMGRP_TC if tc else 0))

    def changes(self) -> list[Change] | None:
        """What has been told of links so far, READS datagrams at most; None: some of it was lost,
        so that everything may have changed."""
        return self._news(_changes)


class FilterMonitor(_Monitor):
    """Tells that queueing disciplines or tc filters of a namespace's interfaces came, went or
    changed. `fileno` is readable then, until `touched` has told all."""

    def __init__(self, netns_fd: int) -> None:
        super().__init__(netns_fd, RTMGRP_TC)
        self._index = 0

    def follow(self, index: int) -> None:
        """From now on tell of this interface itself, too. Raises OSError."""
        self._index = index
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK)

    def unfollow(self) -> None:
        """No longer. Twice is harmless."""
        self._index = 0
        self._socket.setsockopt(SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, RTNLGRP_LINK)

    def touched(self) -> set[int] | None:
        """The numbers of those interfaces, of READS datagrams at most; None: some were not told,
        so that it may be any."""
        found = self._news(self._touched)
        return None if found is None else set(found)

    def _touched(self, data: bytes) -> Iterator[int]:
        for kind, message in netlink.messages(data):
            if kind in (RTM_NEWLINK, RTM_DELLINK) and len(message) >= _HEAD:
                if _IFINFO.unpack_from(message, netlink.HEADER.size)[2] == self._index:
                    yield self._index
            elif len(message) >= netlink.HEADER.size + _TC.size:
                yield _TC.unpack_from(message, netlink.HEADER.size)[1]


def _changes(data: bytes) -> Iterator[Change]:
    for kind, message in netlink.messages(data):
        if kind in (RTM_NEWLINK, RTM_DELLINK) and len(message) >= _HEAD:
            family, _, index, flags, _ = _IFINFO.unpack_from(message, netlink.HEADER.size)
            if family == socket.AF_UNSPEC:  # not a bridge's news of its port
                there = kind == RTM_NEWLINK
                name = _text(netlink.attributes(message, _HEAD), IFLA_IFNAME)
                yield Change(index, name, there, there and _is_up(flags))


def _is_up(flags: int) -> bool:
    return flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP


class Interfaces:
    """The interfaces of one namespace, by number. The descriptor stays the caller's."""

    def __init__(self, netns_fd: int) -> None:
        self._socket = socket_at(netns_fd, socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._socket.bind((0, 0))
        self._socket.settimeout(WAIT)
        self._asked = 0

    def get(self, index: int) -> Interface | None:
        """One of them; None: there is none. Raises OSError."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        self._asked = (self._asked + 1) % (1 << 32)  # an answer that is late is not the next one's
        self._socket.send(netlink.pack(RTM_GETLINK, netlink.NLM_F_REQUEST, self._asked, body))
        while True:
            for kind, message in netlink.messages(self._socket.recv(1 << 16)):
                if netlink.sequence(message) != self._asked:
                    continue
                if kind == RTM_NEWLINK:
                    return _interface(message)
                number = netlink.error(message)
                if number == errno.ENODEV:
                    return None
                raise OSError(number, f"netlink: {os.strerror(number)}")

    def close(self) -> None:
        """Twice is harmless."""
        self._socket.close()


def _interface(message: bytes) -> Interface:
    _, _, index, flags, _ = _IFINFO.unpack_from(message, netlink.HEADER.size)
    found = netlink.attributes(message, _HEAD)
    xdp = netlink.attributes(found.get(IFLA_XDP, b""), 0).get(IFLA_XDP_ATTACHED, b"\0")
    return Interface(
        index,
        _text(found, IFLA_IFNAME),
        _is_up(flags),
        found.get(IFLA_ADDRESS, b"").hex(":"),
        int.from_bytes(found.get(IFLA_MTU, b""), sys.byteorder),
        _text(found, IFLA_QDISC),
        xdp[0] != 0,
    )


def counted(rtnl: Rtnl) -> list[Counted]:
    """Every interface of a namespace: some 10 us each. Raises OSError."""
    return [_counted(message) for message in rtnl.dump(RTM_GETLINK)]


def _counted(message: bytes) -> Counted:
    _, _, index, _, _ = _IFINFO.unpack_from(message, netlink.HEADER.size)
    found = netlink.attributes(message, _HEAD)
    got, sent, got_bytes, sent_bytes, _, _, got_not, sent_not = _STATS.unpack_from(
        found[IFLA_STATS64]
    )
    state = found.get(IFLA_OPERSTATE, b"\0")[0]
    return Counted(
        index,
        _text(found, IFLA_IFNAME),
        int.from_bytes(found.get(IFLA_MASTER, b""), sys.byteorder),
        STATES[state] if state < len(STATES) else str(state),
        got,
        sent,
        got_bytes,
        sent_bytes,
        got_not + sent_not,
    )


def _text(attributes: dict[int, bytes], kind: int) -> str:
    return attributes.get(kind, b"").split(b"\0")[0].decode(errors="replace")


def filters(netns_fd: int, index: int, parent: int) -> list[str]:
    """The tc filters at one place of an interface, by name, or kind if they have none: as many as
    the kernel tells at once, which is all of a few. Raises OSError."""
    sock = socket_at(netns_fd, socket.AF_NETLINK, socket.SOCK_RAW, 0)
    with contextlib.closing(sock):
        sock.bind((0, 0))
        sock.settimeout(WAIT)
        flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
        body = _TC.pack(socket.AF_UNSPEC, index, 0, parent, 0)
        sock.send(netlink.pack(RTM_GETTFILTER, flags, 1, body))
        found = []
        for kind, message in netlink.messages(sock.recv(1 << 16)):
            if kind == netlink.NLMSG_DONE:
                break
            if kind == netlink.NLMSG_ERROR:
                number = netlink.error(message)
                if number == errno.ENODEV:
                    break
                raise OSError(number, f"netlink: {os.strerror(number)}")
            told = netlink.attributes(message, netlink.HEADER.size + _TC.size)
            if TCA_OPTIONS in told:  # else a priority's own line
                inner = netlink.attributes(told[TCA_OPTIONS], 0)
                found.append(_text(inner, TCA_BPF_NAME) or _text(told, TCA_KIND))
        return found
