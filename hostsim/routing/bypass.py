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
"""

import errno
import logging
from collections.abc import Mapping
from functools import partial

from cext.bpf.objects import Map
from cext.switch import maps, records
from hostsim.vm import Vm
from netns.links import Batch, Rtnl, batch_in
from netns.tc import add_to_own

log = logging.getLogger("hostsim.bypass")

MTU = 65535
"""The direct link's: whatever eth0 carries, it carries."""


def direct_index(vm: int, peer: int) -> int:
    """The interface number in VM number `vm` of its end of the link to `peer`."""
    return records.DIRECT | vm << 12 | peer


class DirectLinks:
    """Makes the links, each once. They are removed with the VMs. rtnl, netns_fd: in the switch's
    namespace, and that; they stay the switch's. A packet function gets none: its frames come by its
    eth0's XDP program, which such a link would pass by."""

    def __init__(
        self, vms: Mapping[int, Vm], rtnl: Rtnl, netns_fd: int, program_fd: int, pairs: Map
    ) -> None:
        self._vms = vms
        self._rtnl = rtnl
        self._netns_fd = netns_fd
        self._program_fd = program_fd
        self._pairs = pairs
        self._made: set[frozenset[int]] = set()

    def want(self, a: int, b: int) -> None:
        """Make the link between two VMs if it is not there, and let rules use it. A link that
        cannot be made is refused for good, and the flows stay on the switch; so is one to or from a
        packet function, which takes what the switch's port delivers: past it, the VM's kernel would
        get the packets, and the function would not see them."""
        state = records.PAIR_READY
        if any(number in self._vms and self._vms[number].spec.nf for number in (a, b)):
            state = records.PAIR_REFUSED
        elif frozenset((a, b)) not in self._made:
            try:
                self._make(self._vms[a], self._vms[b])
                self._made.add(frozenset((a, b)))
            except (OSError, KeyError) as error:
                log.error("no direct link from VM %d to VM %d: %s", a, b, error)
                state = records.PAIR_REFUSED
        for one, other in ((a, b), (b, a)):
            self._pairs.set(maps.pack_u32(one << 12 | other), maps.pack_u32(state))

    @property
    def made(self) -> frozenset[frozenset[int]]:
        """The pairs that are there."""
        return frozenset(self._made)

    def gone(self, vm: int) -> None:
        """A VM is gone, and its links with it: at once, for the kernel takes its time with a dead
        VM's namespace. Another VM in its place gets new ones."""
        for pair in [pair for pair in self._made if vm in pair]:
            self._made.discard(pair)
            a, b = pair
            for one, other in ((a, b), (b, a)):
                self._pairs.delete(maps.pack_u32(one << 12 | other))
                self._rtnl.batch(partial(self._remove, one=one, other=other), (errno.ENODEV,))

    @staticmethod
    def _remove(batch: Batch, one: int, other: int) -> None:
        batch.link("del", index=direct_index(one, other))

    def _make(self, a: Vm, b: Vm) -> None:
        self._rtnl.batch(lambda batch: self._fill_ends(batch, a, b))
        for vm, peer in ((a, b), (b, a)):
            index = direct_index(vm.index, peer.index)
            name = "hostsim:transfer_in"
            add_to_own(self._rtnl, self._netns_fd, index, self._program_fd, name)
        self._rtnl.batch(lambda batch: self._fill_up(batch, a, b))
        for vm, peer in ((a, b), (b, a)):
            vm.sysctl({f"net.ipv6.conf.hsd{peer.index}.disable_ipv6": "1"})
            batch_in(vm.netns_fd, partial(self._fill_near, vm=vm, peer=peer))

    def _fill_ends(self, batch: Batch, a: Vm, b: Vm) -> None:
        for vm, peer in ((a, b), (b, a)):
            index = direct_index(vm.index, peer.index)
            near = [
                ("IFLA_IFNAME", f"hsd{peer.index}"),
                ("IFLA_ADDRESS", vm.mac),
                ("IFLA_MTU", MTU),
                ("IFLA_NET_NS_FD", vm.netns_fd),
            ]
            batch.link(
                "add",
                ifname=f"hsd{vm.index}-{peer.index}",
                kind="veth",
                index=index,
                address=peer.mac,
                mtu=MTU,
                info_peer={"index": index, "attrs": near},
            )

    @staticmethod
    def _fill_up(batch: Batch, a: Vm, b: Vm) -> None:
        for vm, peer in ((a, b), (b, a)):
            index = direct_index(vm.index, peer.index)
            alias = f"hostsim: direct link from {vm.spec.name} to {peer.spec.name}"
            batch.link("set", index=index, ifalias=alias, arp=False, state="up")

    @staticmethod
    def _fill_near(batch: Batch, vm: Vm, peer: Vm) -> None:
        alias = f"hostsim: direct link to {peer.spec.name}"
        index = direct_index(vm.index, peer.index)
        batch.link("set", index=index, ifalias=alias, arp=False, state="up")
