# SPDX-License-Identifier: Apache-2.0
"""interface: a network interface of the machine that belongs to the foreground OS.

Between two owners it is in a namespace of the KMC's own, down. An OS has it under its own name,
with the MAC address, MTU, addresses, routes and the rest of `netns.uplinks.Uplink` that the OS gave
it, up or down as it was; at its first take it is as the machine had it, but down and without
addresses. Queueing disciplines, tc filters, neighbours and sysctls are gone after a flip; ethtool's
settings stay whatever was set last.

A connection outlives its OS's time in the background: the kernel keeps the socket, frozen or not,
and sends again what is not acknowledged once address and route are there, at its next try.

A namespace that dies takes a veth with it, and sends hardware to the machine's first namespace: so
the interface is out of an OS's namespace before that is let go, and the journal has an entry for
each namespace it may be in. Moving one takes the kernel some ten milliseconds (it waits for RCU).
"""

import errno
import logging
import os
from dataclasses import dataclass, field

from cext.ns.netns import new_netns
from hostsim.kmc.equipment import Equipment
from hostsim.model import Json
from hostsim.vm import Vm
from netns import namespace, uplinks
from netns.journal import Journal
from netns.uplinks import Uplink

log = logging.getLogger("hostsim.kmc")

NUMBER = 40000
"""Interface number of the first one, in every namespace but the machine's; far from those that the
kernel gives, and from the switch's (cext/switch/layout.h)."""


@dataclass
class _Nic:
    home: Uplink
    number: int
    owner: str | None = None
    saved: dict[str, Uplink] = field(default_factory=dict)


class Nics(Equipment):
    """The driver. vms: the OSes by name; they stay the caller's. `close` twice is harmless."""

    def __init__(self, host: str, vms: dict[str, Vm], journal: Journal) -> None:
        self._vms = vms
        self._journal = journal
        self._netns = f"hs-{host}-kmc"
        self._fd = -1
        self._nics: dict[str, _Nic] = {}

    def start(self, names: tuple[str, ...]) -> None:
        """Take these interfaces from the machine. Raises HostsimError, OSError."""
        if not names:
            return
        self._fd = new_netns()
        self._journal.add("netns", name=self._netns, inode=namespace.identity(self._fd))
        namespace.add_fd(self._netns, self._fd)
        for number, name in enumerate(names, start=NUMBER):
            nic = _Nic(uplinks.inspect(name), number)
            for netns in (self._netns, *(vm.netns for vm in self._vms.values())):
                self._journal.add("uplink", **nic.home.words(netns, number))
            self._nics[name] = nic
            uplinks.lend(nic.home, self._fd, number)

    def os_back(self, name: str) -> None:
        """The OS was started again: its new namespace is in the journal, and what may be in it must
        come after."""
        for nic in self._nics.values():
            self._journal.add("uplink", **nic.home.words(self._vms[name].netns, nic.number))

    def join(self, name: str) -> None:
        """See `Equipment`."""
        self.os_back(name)

    def leave(self, name: str) -> None:
        """See `Equipment`."""
        for nic in self._nics.values():
            nic.saved.pop(name, None)

    def identify(self) -> list[Json]:
        """See `Equipment`."""
        return [
            {
                "name": name,
                "node": None,
                "mode": "interface",
                "owner": nic.owner,
                "states": {
                    os_name: {
                        "addresses": saved.networks(),
                        "routes": len(saved.routes),
                        "mtu": saved.mtu,
                        "up": saved.up,
                    }
                    for os_name, saved in nic.saved.items()
                },
            }
            for name, nic in self._nics.items()
        ]

    def save(self, name: str) -> None:
        """All that an `Uplink` has."""
        for nic in self._each(name):
            found = uplinks.look(self._vms[name].netns_fd, nic.number)
            if found is not None:
                nic.saved[name] = found

    def release(self, name: str) -> None:
        """Out of the OS's namespace, into the KMC's. Raises OSError if that cannot be."""
        for nic in self._each(name):
            try:
                from_fd = self._vms[name].netns_fd
                uplinks.move(nic.home.name, nic.number, from_fd, self._fd, nic.number)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                log.warning("%s: gone, in %s", nic.home.name, name)
                del self._nics[nic.home.name]
            nic.owner = None

    def take(self, name: str) -> None:
        """Into the OS's namespace, as the OS had it: the kernel forgets addresses and routes when
        an interface moves. If the OS itself stands in the way (name or number is taken there), it
        goes without."""
        for nic in self._nics.values():
            to_fd = self._vms[name].netns_fd
            try:
                uplinks.move(nic.home.name, nic.number, self._fd, to_fd, nic.number)
                nic.owner = name
                uplinks.dress(nic.saved.get(name) or nic.home.bare(nic.number), to_fd)
            except OSError as error:
                log.warning("%s: not as %s had it: %s", nic.home.name, name, error.strerror)

    def close(self) -> None:
        """See `Equipment`. An interface that cannot go home stays in the KMC's namespace, in the
        journal, and `hostsim clean` tries again."""
        kept = False
        for owner in {nic.owner for nic in self._nics.values() if nic.owner is not None}:
            try:
                self.release(owner)
            except OSError as error:
                kept = True
                log.error("an interface stays in %s: %s", owner, error.strerror)
        for nic in self._nics.values():
            try:
                uplinks.give_back(**nic.home.words(self._netns, nic.number))
            except OSError as error:
                kept = True
                log.error("%s: cannot be given back: %s", nic.home.name, error.strerror)
        self._nics.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if not kept:
                namespace.remove(self._netns)

    def _each(self, owner: str) -> list[_Nic]:
        """Those that the OS has."""
        return [nic for nic in self._nics.values() if nic.owner == owner]
