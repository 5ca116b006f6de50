# SPDX-License-Identifier: Apache-2.0
"""Direct links: from one VM to another, past the switch.

A pair of VMs gets its links when the classifier first wants a rule for a hop between them (its
event comes through the BPF ring buffer): a veth for each direction. They go with either VM's
namespace, which the journal knows. In VM v the end towards VM p is `hsd<p>`; the far end is
`hsd<v>-<p>` in the switch's namespace, where no VM's user 0 reaches it. Both have the number
DIRECT | v << 12 | p, so that the program there knows both sides (cext/switch/layout.h).

The far end is no port of the bridge. What comes out of it meets `transfer_in`, which takes only
what a routing rule sent, and steps straight into p's eth0 (bpf_redirect_peer, bpf-helpers(7)): that
works from beside eth0's own other end only, and spares a queue. Nothing of the VM's own software
uses the link: no address, no ARP, no IPv6 on it. The far end has p's MAC address, so that what is
addressed to p arrives as such.

Making a link waits for the kernel's own locks, some 25 ms and more: all of this is done in the
thread of watch.py.
"""

import errno
import logging
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from cext.bpf.objects import Map, has_tcx
from cext.switch import maps, records
from hostsim.routing.guard import Guard
from netns import namespace
from netns.links import Batch, Rtnl, batch_in
from netns.tc import INGRESS, add_to_own

log = logging.getLogger("hostsim.bypass")

ARRIVAL = "hostsim:transfer_in"
"""The name of the filter at a link's far end, if it is one."""
NEAR_MTU = 65535
"""Of a VM's own end: whatever eth0 carries, it carries. The far end has the MTU of the eth0 that it
leads to, so that what is too long for the switch's port is too long for the direct link."""


def direct_index(vm: int, peer: int) -> int:
    """The interface number in VM number `vm` of its end of the link to `peer`."""
    return records.DIRECT | vm << 12 | peer


class End(NamedTuple):
    """A VM, as a direct link needs it; function: it has a packet function. netns_fd is owned by
    whoever made this. mtu: of its eth0."""

    number: int
    name: str
    mac: str
    function: bool
    netns_fd: int
    mtu: int


class DirectLinks:
    """Makes the links, each once. They are removed with the VMs.

    ends: the VMs by number
    netns_fd: the switch's namespace, which stays the caller's
    guard: keeps the programs at the far ends

    A packet function gets none: its frames come by its eth0's XDP program, which such a link would
    pass by."""

    def __init__(
        self, ends: Mapping[int, End], netns_fd: int, program_fd: int, pairs: Map, guard: Guard
    ) -> None:
        self._guard = guard
        self._ends = ends
        self._rtnl = Rtnl(netns_fd)
        self._netns_fd = netns_fd
        self._program_fd = program_fd
        self._pairs = pairs
        self._made: frozenset[frozenset[int]] = frozenset()

    def close(self) -> None:
        """Twice is harmless; the links stay."""
        self._rtnl.close()

    def want(self, a: int, b: int) -> None:
        """Make the link between two VMs if it is not there, and let rules use it. A link that
        cannot be made is refused for good, and the flows stay on the switch; so is one to or from a
        packet function, which takes what the switch's port delivers: past it, the VM's kernel would
        get the packets, and the function would not see them."""
        state = records.PAIR_READY
        if any(number in self._ends and self._ends[number].function for number in (a, b)):
            state = records.PAIR_REFUSED
        elif frozenset((a, b)) not in self._made:
            try:
                self._make(self._ends[a], self._ends[b])
                self._made |= {frozenset((a, b))}
            except (OSError, KeyError) as error:
                log.error("no direct link from VM %d to VM %d: %s", a, b, error)
                self._remove(a, b)
                state = records.PAIR_REFUSED
        for one, other in ((a, b), (b, a)):
            self._pairs.set(maps.pack_u32(one << 12 | other), maps.pack_u32(state))

    @property
    def made(self) -> frozenset[frozenset[int]]:
        """The pairs that are there."""
        return self._made

    def of(self, vm: int) -> list[tuple[int, str]]:
        """A VM's own ends of its links: the interfaces' numbers, and the names that they got."""
        peers = sorted(peer for pair in self._made if vm in pair for peer in pair - {vm})
        return [(direct_index(vm, peer), f"hsd{peer}") for peer in peers]

    def again(self, vm: int, index: int) -> None:
        """One of a VM's own ends is no more: make that pair's links anew."""
        peer = index & records.VM_MAX
        self._made -= {frozenset((vm, peer))}
        self._remove(vm, peer)
        self.want(vm, peer)

    def gone(self, vm: int) -> None:
        """A VM is gone, and its links with it: at once, for the kernel takes its time with a dead
        VM's namespace. Another VM in its place gets new ones."""
        for pair in [pair for pair in self._made if vm in pair]:
            self._made -= {pair}
            a, b = pair
            self.forbid(a, b)
            self._remove(a, b)

    def forbid(self, a: int, b: int) -> None:
        """From now on no hop between two VMs gets a rule, until the link is made for one again."""
        for one, other in ((a, b), (b, a)):
            self._pairs.delete(maps.pack_u32(one << 12 | other))

    def _remove(self, a: int, b: int) -> None:
        def fill(batch: Batch) -> None:
            batch.link("del", index=direct_index(a, b))
            batch.link("del", index=direct_index(b, a))

        for index in (direct_index(a, b), direct_index(b, a)):
            self._guard.forget(index, INGRESS)

        self._rtnl.batch(fill, (errno.ENODEV,))

    def _make(self, a: End, b: End) -> None:
        self._rtnl.batch(lambda batch: self._fill_ends(batch, a, b))
        for vm, peer in ((a, b), (b, a)):
            index = direct_index(vm.number, peer.number)
            add_to_own(self._rtnl, self._netns_fd, index, self._program_fd, ARRIVAL)
            if not has_tcx():
                of = f"{vm.name}, the link to {peer.name}"
                self._guard.expect(index, INGRESS, of, ARRIVAL, self._program_fd)
        self._rtnl.batch(lambda batch: self._fill_up(batch, a, b))
        for vm, peer in ((a, b), (b, a)):
            off = {f"net.ipv6.conf.hsd{peer.number}.disable_ipv6": "1"}
            namespace.write_sysctls(vm.netns_fd, off)
            batch_in(vm.netns_fd, partial(self._fill_near, vm=vm, peer=peer))

    def _fill_ends(self, batch: Batch, a: End, b: End) -> None:
        for vm, peer in ((a, b), (b, a)):
            index = direct_index(vm.number, peer.number)
            near = [
                ("IFLA_IFNAME", f"hsd{peer.number}"),
                ("IFLA_ADDRESS", vm.mac),
                ("IFLA_MTU", NEAR_MTU),
                ("IFLA_NET_NS_FD", vm.netns_fd),
            ]
            batch.link(
                "add",
                ifname=f"hsd{vm.number}-{peer.number}",
                kind="veth",
                index=index,
                address=peer.mac,
                mtu=peer.mtu,
                info_peer={"index": index, "attrs": near},
            )

    @staticmethod
    def _fill_up(batch: Batch, a: End, b: End) -> None:
        for vm, peer in ((a, b), (b, a)):
            index = direct_index(vm.number, peer.number)
            alias = f"hostsim: direct link from {vm.name} to {peer.name}"
            batch.link("set", index=index, ifalias=alias, arp=False, state="up")

    @staticmethod
    def _fill_near(batch: Batch, vm: End, peer: End) -> None:
        alias = f"hostsim: direct link to {peer.name}"
        index = direct_index(vm.number, peer.number)
        batch.link("set", index=index, ifalias=alias, arp=False, state="up")
