"""A NIC of the machine, lent to a namespace, and given back as it was.

    inspect(name) -> Uplink     raises HostsimError where it is not to be had; changes nothing
    lend(uplink, ...)           moves it; the Uplink, as words, is in the journal by then
    give_back(words)            from wherever it is now; the journal's `uplink` entry, undone

As it was: namespace, name, interface number, MTU, up or down, addresses and routes. Addresses and
routes are kept as the kernel's own messages (rtnetlink(7)), as `ip address save` and `ip route
save` do, and are sent to it again. What the kernel drops when an interface changes its namespace
and is not kept: queueing disciplines, neighbours, and its sysctls.

A NIC that is hardware falls back to the machine's first namespace when the one it is in dies, and
a veth is gone: so it is given back before the namespace's name is taken away.
"""

import contextlib
import errno
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from hostsim.errors import HostsimError
from netns import namespace
from netns.links import Rtnl

HOME = "/proc/thread-self/ns/net"
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
NLM_F_REQUEST, NLM_F_REPLACE, NLM_F_CREATE, NLM_F_APPEND = 1, 0x100, 0x400, 0x800
RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA = 4, 5, 9, 18
RT_TABLE_LOCAL = 255
RTPROT_KERNEL = 2
IFF_UP, IFF_LOOPBACK = 1, 8
_HEADER = struct.Struct("=IHHII")
_RTMSG, _NEXTHOP = 12, 8  # bytes


@dataclass(frozen=True)
class Uplink:
    """A NIC as it is at home. addresses, routes: netlink messages, in hexadecimal. home: the inode
    of its namespace."""

    name: str
    index: int
    mtu: int
    up: bool
    home: int
    addresses: tuple[str, ...]
    routes: tuple[str, ...]

    def words(self, netns: str) -> dict[str, str]:
        """The journal's entry; netns: the name of the namespace it is lent to."""
        return {"name": self.name, "netns": netns, "nic": json.dumps(asdict(self))}


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
            raise HostsimError(f"uplink {name}", "no such network interface", f"there are: {has}")
        if link["flags"] & IFF_LOOPBACK:
            raise HostsimError(f"uplink {name}", "is the loopback interface", "name a NIC")
        if link.get_attr("IFLA_MASTER"):
            raise HostsimError(
                f"uplink {name}",
                "is a port of a bridge or bond",
                f"ip link set dev {name} nomaster frees it",
            )
        index = link["index"]
        return Uplink(
            name,
            index,
            link.get_attr("IFLA_MTU"),
            bool(link["flags"] & IFF_UP),
            os.fstat(home).st_ino,
            tuple(one.hex() for one in rtnl.dump(RTM_GETADDR) if _address_of(one) == index),
            tuple(one.hex() for one in rtnl.dump(RTM_GETROUTE) if _concerns(one, index)),
        )


def lend(uplink: Uplink, netns_fd: int, index: int) -> None:
    """Move it from our namespace into the one behind `netns_fd`, as interface number `index`; it is
    down there. Raises OSError."""
    with _home() as home, contextlib.closing(Rtnl(home)) as rtnl:
        rtnl.batch(lambda batch: _move(batch, uplink.index, netns_fd, index))


def give_back(name: str, netns: str, nic: str) -> None:
    """Bring the NIC `name` home from the namespace `netns` and make it what it was. One that is
    home already is made what it was all the same; one that is gone is no error. Raises OSError."""
    kept = json.loads(nic)
    uplink = Uplink(**{**kept, "addresses": (*kept["addresses"],), "routes": (*kept["routes"],)})
    with _home() as home, contextlib.closing(Rtnl(home)) as rtnl:
        if os.fstat(home).st_ino != uplink.home:
            raise OSError(errno.EXDEV, f"{name} came from another network namespace")
        _fetch(uplink, netns, home)
        index = rtnl.indices().get(name)
        if index is not None:
            _restore(uplink, rtnl, index)


def _fetch(uplink: Uplink, netns: str, home: int) -> None:
    try:
        away = os.open(namespace.RUN / netns, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(away).st_dev != os.fstat(home).st_dev:
            return  # a name whose namespace was never bound: a plain file
        with contextlib.closing(Rtnl(away)) as rtnl:
            index = rtnl.indices().get(uplink.name)
            if index is not None:
                rtnl.batch(lambda batch: _move(batch, index, home, uplink.index))
    finally:
        os.close(away)


def _move(batch: Any, index: int, netns_fd: int, new_index: int) -> None:
    batch.link("set", index=index, net_ns_fd=netns_fd, new_ifindex=new_index)


def _restore(uplink: Uplink, rtnl: Rtnl, index: int) -> None:
    """Routes come after the addresses they stand on, and those by a gateway after the ones that
    reach it; the kernel makes its own."""
    rtnl.batch(
        lambda batch: batch.link(
            "set", index=index, mtu=uplink.mtu, state="up" if uplink.up else "down"
        )
    )
    if index != uplink.index:
        raise OSError(errno.EBUSY, f"{uplink.name} has another interface number now")
    known = (errno.EEXIST,)
    addresses = [bytes.fromhex(one) for one in uplink.addresses]
    rtnl.send(b"".join(_again(one, RTM_NEWADDR, NLM_F_REPLACE) for one in addresses), known)
    routes = [bytes.fromhex(one) for one in uplink.routes]
    for far in (False, True):
        some = [_again(one, RTM_NEWROUTE, NLM_F_APPEND) for one in routes if _far(one) == far]
        rtnl.send(b"".join(some), known)


def _again(message: bytes, kind: int, flags: int) -> bytes:
    """What the kernel told, as a request."""
    flags |= NLM_F_REQUEST | NLM_F_CREATE
    head = _HEADER.pack(len(message), kind, flags, 0, 0)
    return (head + message[_HEADER.size :]).ljust((len(message) + 3) & ~3, b"\0")


def _address_of(message: bytes) -> int:
    """The interface of an address."""
    return int(struct.unpack_from("=I", message, _HEADER.size + 4)[0])


def _concerns(message: bytes, index: int) -> bool:
    """Whether a route goes by the interface and is not one the kernel makes by itself."""
    table, protocol = message[_HEADER.size + 4], message[_HEADER.size + 5]
    if table == RT_TABLE_LOCAL or protocol == RTPROT_KERNEL:
        return False
    found = _attributes(message)
    if RTA_OIF in found:
        return bool(struct.unpack("=I", found[RTA_OIF])[0] == index)
    hops, at, reached = found.get(RTA_MULTIPATH, b""), 0, set()
    while at + _NEXTHOP <= len(hops):
        length, _, _, by = struct.unpack_from("=HBBI", hops, at)
        reached.add(by)
        at += max(_NEXTHOP, (length + 3) & ~3)
    return index in reached


def _far(message: bytes) -> bool:
    return bool({RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH} & set(_attributes(message)))


def _attributes(message: bytes) -> dict[int, bytes]:
    """The attributes of a route's message, by number."""
    found, at = {}, _HEADER.size + _RTMSG
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        found[kind] = message[at + 4 : at + length]
        at += max(4, (length + 3) & ~3)
    return found
