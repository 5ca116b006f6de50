# SPDX-License-Identifier: Apache-2.0
"""A NIC of the machine, lent to a namespace, and given back as it was.

    inspect(name) -> Uplink     raises HostsimError if it is not to be had; changes nothing
    lend(uplink, ...)           moves it; the Uplink, as words, is in the journal by then
    give_back(words)            from wherever it is now; the journal's `uplink` entry, undone
    look(fd, number), move(...), dress(uplink, ...)    the same steps between other namespaces

As it was: namespace, name, interface number, MAC address, MTU, queue length, up or down and flags
like it, addresses and routes. Addresses and routes are kept as the kernel's own messages
(rtnetlink(7)), as `ip address save` and `ip route save` do, and are sent to it again. What the
kernel drops when an interface changes its namespace and is not kept: queueing disciplines,
neighbours, and its sysctls.

A NIC that is hardware falls back to the machine's first namespace when the one it is in dies, and
a veth is gone: so it is given back before the namespace's name is taken away.
"""

import contextlib
import errno
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from ipaddress import ip_address
from typing import Any

from netns import namespace, netlink
from netns.errors import HostsimError
from netns.links import Batch, Rtnl

HOME = "/proc/thread-self/ns/net"
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
NLM_F_REQUEST, NLM_F_REPLACE, NLM_F_CREATE, NLM_F_APPEND = 1, 0x100, 0x400, 0x800
RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA = 4, 5, 9, 18
RT_TABLE_LOCAL = 255
RTPROT_KERNEL = 2
IFF_UP, IFF_LOOPBACK = 1, 8
KEPT = IFF_UP | 0x80 | 0x100 | 0x200 | 0x1000
"""Flags that are somebody's setting: up, noarp, promisc, allmulti, multicast (netdevice(7))."""
_RTMSG, _IFADDRMSG = netlink.HEADER.size + 12, netlink.HEADER.size + 8  # bytes up to attributes
_NEXTHOP = 8  # bytes
IFA_ADDRESS, IFA_LOCAL = 1, 2


@dataclass(frozen=True)
class Uplink:
    """A NIC as it is at home, or in another namespace. mac: empty if it has none. queue: packets
    (txqueuelen). flags: those of KEPT that are set. addresses, routes: netlink messages, in
    hexadecimal. home: the inode of its namespace."""

    name: str
    index: int
    mac: str
    mtu: int
    queue: int
    flags: int
    home: int
    addresses: tuple[str, ...]
    routes: tuple[str, ...]

    def words(self, netns: str, number: int = 0) -> dict[str, str]:
        """The journal's entry; netns: the name of the namespace it is lent to; number: its
        interface number there, for where others may rename it."""
        nic = json.dumps(asdict(self))
        return {"name": self.name, "netns": netns, "nic": nic, "number": str(number)}

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    def bare(self, number: int) -> "Uplink":
        """The same NIC, as number `number`, as just plugged in: down, no addresses or routes."""
        flags = self.flags & ~IFF_UP
        return replace(self, index=number, flags=flags, addresses=(), routes=())

    @property
    def default_route(self) -> bool:
        """Whether everything that has no route of its own goes by it, in any table."""
        return any(not bytes.fromhex(one)[netlink.HEADER.size + 1] for one in self.routes)

    def networks(self) -> list[str]:
        """Its addresses with their prefix lengths."""
        found = []
        for message in map(bytes.fromhex, self.addresses):
            known = netlink.attributes(message, _IFADDRMSG)
            raw = known.get(IFA_LOCAL) or known.get(IFA_ADDRESS, b"")
            found.append(f"{ip_address(raw)}/{message[netlink.HEADER.size + 1]}")
        return found


@contextlib.contextmanager
def _home() -> Iterator[int]:
    fd = os.open(HOME, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def inspect(name: str) -> Uplink:
    """The NIC `name` of our own namespace. Raises HostsimError, OSError."""
    with _home() as home, contextlib.closing(Rtnl(home)) as rtnl:
        links = {link.get_attr("IFLA_IFNAME"): link for link in rtnl.links()}
        link = links.get(name)
        if link is None:
            has = ", ".join(sorted(set(links) - {"lo"})) or "none"
            raise HostsimError(
                f"interface {name}", "no such network interface", f"there are: {has}"
            )
        if link["flags"] & IFF_LOOPBACK:
            raise HostsimError(f"interface {name}", "is the loopback interface", "name a NIC")
        if link.get_attr("IFLA_MASTER"):
            raise HostsimError(
                f"interface {name}",
                "is a port of a bridge or bond",
                f"ip link set dev {name} nomaster frees it",
            )
        return _as_it_is(link, rtnl, home)


def look(netns_fd: int, number: int) -> Uplink | None:
    """The NIC that has this interface number in a namespace, as it is; None: it is not there."""
    with contextlib.closing(Rtnl(netns_fd)) as rtnl:
        link = next((link for link in rtnl.links() if link["index"] == number), None)
        return None if link is None else _as_it_is(link, rtnl, netns_fd)


def _as_it_is(link: Any, rtnl: Rtnl, netns_fd: int) -> Uplink:
    index = link["index"]
    return Uplink(
        link.get_attr("IFLA_IFNAME"),
        index,
        link.get_attr("IFLA_ADDRESS") or "",
        link.get_attr("IFLA_MTU"),
        link.get_attr("IFLA_TXQLEN"),
        link["flags"] & KEPT,
        os.fstat(netns_fd).st_ino,
        tuple(one.hex() for one in rtnl.dump(RTM_GETADDR) if _address_of(one) == index),
        tuple(one.hex() for one in rtnl.dump(RTM_GETROUTE) if _concerns(one, index)),
    )


def lend(uplink: Uplink, netns_fd: int, index: int) -> None:
    """Move it from our namespace into the one behind `netns_fd`, as interface number `index`; it is
    down there. Raises OSError."""
    with _home() as home:
        move(uplink.name, uplink.index, home, netns_fd, index)


def move(name: str, number: int, from_fd: int, to_fd: int, new_number: int) -> None:
    """Move interface `number` of one namespace into another, where it is down, without addresses
    and routes, and called `name`. Raises OSError (ENODEV: it is not there; EEXIST: the name is
    taken in the other, EBUSY: the number is)."""
    with contextlib.closing(Rtnl(from_fd)) as rtnl:
        rtnl.batch(lambda batch: _move(batch, number, to_fd, new_number, name))


def dress(uplink: Uplink, netns_fd: int) -> None:
    """Make the NIC, which has been moved into this namespace, what it was there. What cannot be so
    any more is left out. Raises OSError, with the first such thing."""
    with contextlib.closing(Rtnl(netns_fd)) as rtnl:
        _restore(uplink, rtnl, uplink.index)


def give_back(name: str, netns: str, nic: str, number: str = "0") -> None:
    """Bring the NIC `name` (or what has its `number`) home from the namespace `netns` and make it
    what it was. One that is home already is made what it was all the same; one that is gone is no
    error. Raises OSError."""
    kept = json.loads(nic)
    uplink = Uplink(**{**kept, "addresses": (*kept["addresses"],), "routes": (*kept["routes"],)})
    with _home() as home, contextlib.closing(Rtnl(home)) as rtnl:
        if os.fstat(home).st_ino != uplink.home:
            raise OSError(errno.EXDEV, f"{name} came from another network namespace")
        _fetch(uplink, netns, home, int(number))
        index = rtnl.indices().get(name)
        if index is not None:
            _restore(uplink, rtnl, index)


def _fetch(uplink: Uplink, netns: str, home: int, number: int) -> None:
    try:
        away = os.open(namespace.RUN / netns, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(away).st_dev != os.fstat(home).st_dev:
            return  # a name whose namespace was never bound: a plain file
        with contextlib.closing(Rtnl(away)) as rtnl:
            known = rtnl.indices()
            index = number if number in known.values() else known.get(uplink.name)
            if index is not None:
                rtnl.batch(lambda batch: _move(batch, index, home, uplink.index, uplink.name))
    finally:
        os.close(away)


def _move(batch: Batch, index: int, netns_fd: int, new_index: int, name: str) -> None:
    batch.link("set", index=index, net_ns_fd=netns_fd, new_ifindex=new_index, ifname=name)


def _restore(uplink: Uplink, rtnl: Rtnl, index: int) -> None:
    """Routes come after the addresses they stand on, and those by a gateway after the ones that
    reach it; the kernel makes its own."""
    link = next((link for link in rtnl.links() if link["index"] == index), None)
    if link is None:
        raise OSError(errno.ENODEV, f"{uplink.name} is gone")
    mac = {"address": uplink.mac} if link.get_attr("IFLA_ADDRESS") != uplink.mac else {}
    if index != uplink.index and mac:
        raise OSError(errno.EEXIST, f"another interface is called {uplink.name}")
    settings = {**mac, "mtu": uplink.mtu, "txqlen": uplink.queue, "flags": uplink.flags}
    failures: list[OSError] = []

    def attempt(step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            failures.append(error)

    attempt(
        lambda: rtnl.batch(lambda batch: batch.link("set", index=index, change=KEPT, **settings))
    )
    if index != uplink.index:
        raise OSError(errno.EBUSY, f"{uplink.name} has another interface number now")
    addresses = [bytes.fromhex(one) for one in uplink.addresses]
    routes = [bytes.fromhex(one) for one in uplink.routes]
    batches = [b"".join(_again(one, RTM_NEWADDR, NLM_F_REPLACE) for one in addresses)]
    for far in (False, True):
        some = [_again(one, RTM_NEWROUTE, NLM_F_APPEND) for one in routes if _far(one) == far]
        batches.append(b"".join(some))
    for raw in batches:
        attempt(partial(rtnl.send, raw, (errno.EEXIST,)))
    if failures:
        raise failures[0]


def _again(message: bytes, kind: int, flags: int) -> bytes:
    """What the kernel told, as a request."""
    flags |= netlink.NLM_F_REQUEST | NLM_F_CREATE
    return netlink.pad(netlink.pack(kind, flags, 0, message[netlink.HEADER.size :]))


def _address_of(message: bytes) -> int:
    """The interface of an address."""
    return int(struct.unpack_from("=I", message, netlink.HEADER.size + 4)[0])


def _concerns(message: bytes, index: int) -> bool:
    """Whether a route goes by the interface and is not one the kernel makes by itself."""
    table, protocol = message[netlink.HEADER.size + 4], message[netlink.HEADER.size + 5]
    if table == RT_TABLE_LOCAL or protocol == RTPROT_KERNEL:
        return False
    found = netlink.attributes(message, _RTMSG)
    if RTA_OIF in found:
        return bool(struct.unpack("=I", found[RTA_OIF])[0] == index)
    hops, at, reached = found.get(RTA_MULTIPATH, b""), 0, set()
    while at + _NEXTHOP <= len(hops):
        length, _, _, by = struct.unpack_from("=HBBI", hops, at)
        reached.add(by)
        at += max(_NEXTHOP, (length + 3) & ~3)
    return index in reached


def _far(message: bytes) -> bool:
    return bool({RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH} & set(netlink.attributes(message, _RTMSG)))
