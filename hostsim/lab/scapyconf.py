# SPDX-License-Identifier: Apache-2.0
"""scapy's configuration, for each VM its own: routes, interfaces, caches, socket classes.

scapy has one `conf` for a process, and reads routes and interfaces of the machine into it. Here a
thread may be *at* a VM: what it reads from `conf` then is the VM's, while all other threads see
what they always saw.

    conf = VmConf(place, bind)
    with conf.here():              in this thread, and in threads that scapy starts from it
        scapy.all.sr1(...)

Three things of scapy's are replaced for it, once for a process: the class of `conf`, which looks
whether its thread is at a VM; the cache of MAC addresses, which is otherwise shared by all who have
one address; and the threads that `sr` sends from, which start where their starter is.
"""

import contextlib
import contextvars
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import scapy.all  # noqa: F401  the layers, and with them routes and interfaces
from scapy import sendrecv
from scapy.arch.linux import LinuxInterfaceProvider
from scapy.config import CacheInstance, Conf, NetCache, conf
from scapy.interfaces import NetworkInterface, NetworkInterfaceDict
from scapy.layers import l2
from scapy.route import Route
from scapy.route6 import Route6

from cext.ns import netns
from hostsim.lab.place import Place

OWN = frozenset(
    {
        *("route", "route6", "ifaces", "iface", "netcache", "verb"),
        *("L2socket", "L2listen", "L3socket", "L3socket6"),
    }
)
"""What of `conf` is the VM's."""
RESOLVED = 10
"""Seconds that a MAC address is believed: a VM that is started again may have another one."""
CHANGES = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE (linux/rtnetlink.h)."""

NEWLINK, PROMISC = 16, 0x100
"""RTM_NEWLINK; IFF_PROMISC."""
LINK = struct.Struct("=4xH10x12xI")
"""Of struct nlmsghdr and struct ifinfomsg: the message's type, and which flags have changed."""

_at: contextvars.ContextVar["VmConf | None"] = contextvars.ContextVar("at a VM", default=None)
_installing = threading.Lock()


class _Conf(Conf):
    """`conf`, as the calling thread is to see it."""

    def __getattribute__(self, name: str) -> Any:
        if name in OWN:
            here = _at.get()
            if here is not None:
                return getattr(here, name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        here = _at.get() if name in OWN else None
        if here is not None:
            setattr(here, name, value)
        else:
            super().__setattr__(name, value)


class _Cache:
    """The cache of MAC addresses of wherever the calling thread is."""

    def __init__(self, machine: CacheInstance) -> None:
        self._machine = machine

    def _here(self) -> Any:
        here = _at.get()
        return self._machine if here is None else here.macs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._here(), name)

    def __getitem__(self, key: str) -> Any:
        return self._here()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._here()[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._here()


class _Thread(threading.Thread):
    """A thread that is where its starter was when it made it."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self._context = contextvars.copy_context()

    def run(self) -> None:
        self._context.run(super().run)


def _install() -> None:
    with _installing:
        if isinstance(conf, _Conf):
            return
        replaced: Any = l2
        replaced._arp_cache = _Cache(l2._arp_cache)
        replaced = sendrecv
        replaced.Thread = _Thread
        conf.__class__ = _Conf


class _Provider(LinuxInterfaceProvider):
    """The interfaces of a VM, and the socket classes for them."""

    def __init__(self, vm: "VmConf") -> None:
        self._vm = vm

    def load(self) -> dict[str, NetworkInterface]:
        with self._vm.place.inside():
            return super().load()

    def _l2socket(self, dev: NetworkInterface) -> Any:
        return self._vm.L2socket

    def _l2listen(self, dev: NetworkInterface) -> Any:
        return self._vm.L2listen

    def _l3socket(self, dev: NetworkInterface, ipv6: bool) -> Any:
        if dev.name == "lo":
            return self._vm.L3lo6 if ipv6 else self._vm.L3lo
        return self._vm.L3socket


class VmConf:
    """What `conf` has of one VM, read again whenever the VM's kernel says that something changed.

    Has the attributes of OWN. Any thread may use it.
    """

    verb: int
    route: Route
    route6: Route6
    ifaces: NetworkInterfaceDict
    iface: NetworkInterface

    def __init__(
        self, place: Callable[[], Place], bind: Callable[["VmConf"], dict[str, type]]
    ) -> None:
        """place: where the VM is now. bind: the socket classes by name, see scapysockets.py."""
        _install()
        self._find = place
        self._lock = threading.Lock()
        self._place: Place | None = None
        self._changes: socket.socket | None = None
        self.verb = 0
        classes = bind(self)
        self.L2socket, self.L2listen = classes["L2socket"], classes["L2listen"]
        self.L3socket = self.L3socket6 = classes["L3socket"]
        self.L3lo, self.L3lo6 = classes["L3lo"], classes["L3lo6"]
        self.netcache = NetCache()

    @property
    def macs(self) -> CacheInstance:
        """MAC addresses by IPv4 address."""
        caches: Any = self.netcache
        found: CacheInstance = caches.arp_cache
        return found

    @property
    def place(self) -> Place:
        """Where the VM is. Raises HostsimError if it is gone."""
        return self._find()

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """The calling thread is at the VM. Raises HostsimError if the VM is gone."""
        self._refresh()
        token = _at.set(self)
        try:
            yield
        finally:
            _at.reset(token)

    def close(self) -> None:
        """Hear of no more changes. Twice is harmless."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._changes is not None:
            self._changes.close()
        self._place = self._changes = None

    def _refresh(self) -> None:
        with self._lock:
            place = self.place
            if place is not self._place:
                self._forget()
                self.netcache = _caches()
                self._changes = netns.socket_at(
                    place.fd, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE
                )
                self._changes.setblocking(False)
                self._changes.bind((0, CHANGES))
                self._place = place
                self._read(place)
            elif self._changed():
                self._read(place)

    def _changed(self) -> bool:
        assert self._changes is not None
        found = False
        while True:
            try:
                told = self._changes.recv(1 << 16)
            except BlockingIOError:
                return found
            except OSError:  # ENOBUFS: there were more than it could keep
                told = b""
            found = found or not _by_a_sniffer(told)

    def _read(self, place: Place) -> None:
        provider = _Provider(self)
        ifaces = NetworkInterfaceDict()
        ifaces.providers[_Provider] = provider
        ifaces.data.update(provider.load())
        with place.inside():
            route, route6 = Route(), Route6()
        self.ifaces, self.route, self.route6 = ifaces, route, route6
        self.iface = ifaces.data.get("eth0") or ifaces.data["lo"]


def _by_a_sniffer(told: bytes) -> bool:
    """Whether a link has only begun or ended to be promiscuous, as it does with each sniffer."""
    return len(told) >= LINK.size and LINK.unpack_from(told) == (NEWLINK, PROMISC)


def _caches() -> NetCache:
    """As scapy has them, and empty."""
    found = NetCache()
    for cache in conf.netcache._caches_list:
        found.new_cache(cache.name, min(cache.timeout or RESOLVED, RESOLVED))
    return found
