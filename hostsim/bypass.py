"""Direct links: veth pairs from one VM to another, past the switch.

A pair is made when the classifier first wants a rule for a hop (its event comes through the BPF
ring buffer), once for both directions, and goes with either VM's namespace, in which it lives and
which the journal knows. In VM v the end towards VM p is `hsd<p>`, number DIRECT | v << 12 | p, so
that the programs on it know both sides (cext/dataplane.h).

Nothing of the VM's own software uses the link: no address, no ARP, no IPv6 on it. What comes out
of it has passed `transfer_in`, which takes only what a routing rule sent, and is handed to eth0 by
tc-mirred(8). Both ends have the MAC address of their VM's eth0, so that what is addressed to the
VM arrives as such.
"""

import errno
import logging
from collections.abc import Mapping
from typing import Any

from cext import dataplane, words
from cext.bpf import Map
from hostsim.transfer import INGRESS
from hostsim.vm import Vm
from netns.links import Rtnl

log = logging.getLogger("hostsim.bypass")

MTU = 65535
"""The direct link's: whatever eth0 carries, it carries."""


def direct_index(vm: int, peer: int) -> int:
    """The interface number in VM number `vm` of its end of the link to `peer`."""
    return words.DIRECT | vm << 12 | peer


class DirectLinks:
    """Makes the pairs, each once. They are removed with the VMs."""

    def __init__(self, vms: Mapping[int, Vm], program_fd: int, refuse_fd: int, pairs: Map) -> None:
        self._vms = vms
        self._program_fd = program_fd
        self._refuse_fd = refuse_fd
        self._pairs = pairs
        self._made: set[frozenset[int]] = set()
        self._left: set[frozenset[int]] = set()  # one end is in the namespace of a VM that is gone

    def want(self, a: int, b: int) -> None:
        """Make the link between two VMs if it is not there, and let rules use it. A link that
        cannot be made is refused for good, and the flows stay on the switch; so is one to or from a
        packet function, which takes what the switch's port delivers: past it, the VM's kernel would
        get the packets, and the function would not see them."""
        state = words.PAIR_READY
        if any(number in self._vms and self._vms[number].spec.nf for number in (a, b)):
            state = words.PAIR_REFUSED
        elif frozenset((a, b)) not in self._made:
            try:
                self._make(self._vms[a], self._vms[b])
                self._made.add(frozenset((a, b)))
            except (OSError, KeyError) as error:
                log.error("no direct link from VM %d to VM %d: %s", a, b, error)
                state = words.PAIR_REFUSED
        for one, other in ((a, b), (b, a)):
            self._pairs.set(dataplane.pack_u32(one << 12 | other), dataplane.pack_u32(state))

    @property
    def made(self) -> frozenset[frozenset[int]]:
        """The pairs that are there."""
        return frozenset(self._made)

    def gone(self, vm: int) -> None:
        """A VM is gone: its links go with its namespace, and nobody uses them."""
        for pair in [pair for pair in self._made if vm in pair]:
            self._made.discard(pair)
            self._left.add(pair)
            a, b = pair
            self._pairs.delete(dataplane.pack_u32(a << 12 | b))
            self._pairs.delete(dataplane.pack_u32(b << 12 | a))

    def back(self, vm: int) -> None:
        """A VM is there again, in a namespace of its own: its links can be made anew. The kernel
        takes its time with the old namespace, so what is left of the old links goes now."""
        for pair in [pair for pair in self._left if vm in pair]:
            self._left.discard(pair)
            (other,) = pair - {vm}
            if not self._vms[other].alive:
                continue
            rtnl = Rtnl(self._vms[other].netns_fd)
            try:
                index = direct_index(other, vm)
                rtnl.batch(lambda batch: batch.link("del", index=index), (errno.ENODEV,))  # noqa: B023
            finally:
                rtnl.close()

    def _make(self, a: Vm, b: Vm) -> None:
        rtnl = Rtnl(a.netns_fd)
        try:
            rtnl.batch(lambda batch: self._fill_pair(batch, a, b))
            self._finish(rtnl, a, b)
        finally:
            rtnl.close()
        rtnl = Rtnl(b.netns_fd)
        try:
            self._finish(rtnl, b, a)
        finally:
            rtnl.close()

    def _finish(self, rtnl: Rtnl, vm: Vm, peer: Vm) -> None:
        vm.sysctl({f"net.ipv6.conf.hsd{peer.index}.disable_ipv6": "1"})
        rtnl.batch(lambda batch: self._fill_end(batch, vm, peer))

    @staticmethod
    def _fill_pair(batch: Any, a: Vm, b: Vm) -> None:
        batch.link(
            "add",
            ifname=f"hsd{b.index}",
            kind="veth",
            index=direct_index(a.index, b.index),
            address=a.mac,
            mtu=MTU,
            info_peer={
                "index": direct_index(b.index, a.index),
                "attrs": [
                    ("IFLA_IFNAME", f"hsd{a.index}"),
                    ("IFLA_ADDRESS", b.mac),
                    ("IFLA_MTU", MTU),
                    ("IFLA_NET_NS_FD", b.netns_fd),
                ],
            },
        )

    def _fill_end(self, batch: Any, vm: Vm, peer: Vm) -> None:
        index = direct_index(vm.index, peer.index)
        batch.link("set", index=index, ifalias=f"hostsim: direct link to {peer.spec.name}")
        batch.tc("add", "clsact", index=index)
        batch.tc(
            "add-filter",
            "bpf",
            index=index,
            prio=1,
            fd=self._program_fd,
            name="hostsim:transfer_in",
            parent=INGRESS,
            action={
                "kind": "mirred",
                "direction": "ingress",
                "action": "redirect",
                "ifindex": vm.eth0,
            },
        )
        batch.tc(
            "add-filter",
            "bpf",
            index=index,
            prio=2,
            fd=self._refuse_fd,
            name="hostsim:refuse",
            parent=INGRESS,
            direct_action=True,
        )
        batch.link("set", index=index, arp=False, state="up")
