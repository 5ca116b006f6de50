# SPDX-License-Identifier: Apache-2.0
"""The switch: a network namespace of its own with a Linux bridge, and a veth to each VM.

Namespace `hs-<host>-switch`, bridge `br0`, one port for each VM and endpoint, named like it. Links
are made in one batch: port and eth0 by one message (rtnetlink(7), RTM_NEWLINK with VETH_INFO_PEER).
They get what programs hang at before they are up, so that a program that comes later, by
`routes apply`, disturbs no traffic. Interface numbers are chosen, not asked for: VM number v's port
has IFINDEX + v, its eth0 has ETH0 + v (cext/switch/layout.h).

The bridge knows the MAC addresses of its own VMs from the start, sticky: a frame with a VM's
address as its source does not move the entry, wherever it comes in. It still learns what is behind
a port. No IPv6 and no address of the switch's own: the namespace only forwards.
"""

import contextlib
import enum
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

from cext.ns.netns import new_netns, offload
from cext.switch import line, records
from hostsim import giving, introductions
from hostsim.errors import HostsimError, reason
from hostsim.model import Json, Network, VmSpec, WaySpec
from hostsim.vm import TAKEN, Vm
from netns import messages, namespace, uplinks
from netns.interfaces import Counted, counted
from netns.journal import Journal
from netns.links import Batch, Packs, Rtnl, pack_in
from netns.tc import INGRESS, add_hook, add_hook_to_users, add_program

log = logging.getLogger("hostsim.switch")

BRIDGE_INDEX = records.IFINDEX
BRIDGE_NF = Path("/proc/sys/net/bridge")
"""There if the kernel has br_netfilter, which shows every bridged packet to the namespace's
iptables, of which the switch has none."""
LINK_LOCAL = 0xFFF8
"""The groups 01:80:c2:00:00:03 to 0f, a bit each: 802.1X, PTP, LLDP and the like, which a bridge
keeps for itself otherwise. A host's wires carry them from end to end, as a cable does. The kernel
lets a bridge have all but three of the groups: it forwards 00 (STP) if it runs no STP itself,
never 01 (PAUSE), and 02 if a port says so."""
LACP = 1 << 2


class Mac(enum.IntEnum):
    """Whose MAC address: its first byte, of a locally administered unicast address."""

    ETH0 = 0x02
    PORT = 0x06
    BRIDGE = 0x0A


MACHINE_ID = Path("/etc/machine-id")
"""Of this machine alone (machine-id(5)); one without it is as good as any other without it."""


def machine_id() -> bytes:
    """Raises OSError if it is there and cannot be read."""
    return MACHINE_ID.read_bytes().strip() if MACHINE_ID.exists() else b""


def mac(host: str, kind: Mac, index: int, machine: bytes = b"") -> str:
    """The address of a VM's eth0, of its port or (index 0) of the bridge: the same at every start,
    and another one on another machine, since both may be in one LAN. index: the VM's; machine: its
    machine-id, which cannot be told from the address (machine-id(5) wants that)."""
    digest = hashlib.sha256(b"hostsim mac %b %b" % (machine, host.encode())).digest()
    return bytes([kind, *digest[:3], index >> 8, index & 0xFF]).hex(":")


def bridge_netfilter_off() -> dict[str, str]:
    """The kernel parameters of a bridge's namespace that keep bridged packets from iptables, if
    this kernel has them."""
    names = os.listdir(BRIDGE_NF) if BRIDGE_NF.is_dir() else []
    return {f"net.bridge.{name}": "0" for name in names if "-call-" in name}


class Links(NamedTuple):
    """What there is in the switch's namespace. linked: the VMs and endpoints whose port is there
    and has a carrier; foreign: the links that nobody here has made, by number."""

    linked: frozenset[str]
    foreign: Mapping[int, str]


CLASSIFIER = "hostsim:classify"
"""The name of the classifier's filter on a port."""


class Switch:
    """Owns the namespace and what is in it."""

    bridge = "br0"
    line = "hs-line"  # the TAP of what holds packets back (routing/holding.py)
    wait = "hs-wait"  # of fragments that wait for their first one (routing/waiting.py)

    def __init__(self, host: str, journal: Journal) -> None:
        self.host = host
        self.netns = f"hs-{host}-switch"
        self._machine = machine_id()
        self._journal = journal
        self._fd = -1
        self._named = False
        self._forwards = False  # the bridge is up
        self._rtnl: Rtnl | None = None
        self._lent: list[dict[str, str]] = []
        self._found: frozenset[int] = frozenset()  # the kernel's own links of any namespace
        self._made: dict[int, str] = {}  # the VMs' ports
        self.uplinks: dict[str, int] = {}
        self.classifier = -1
        """The program that ports made from now on have before they are up, uplinks too: the data
        plane's; -1: none, there is no data plane yet or any more."""

    @property
    def rtnl(self) -> Rtnl:
        """Netlink in the switch's namespace; stays the switch's."""
        if self._rtnl is None:
            raise HostsimError(f"switch of host {self.host}", "it is not there")
        return self._rtnl

    @property
    def netns_fd(self) -> int:
        """The namespace's descriptor; stays the switch's."""
        return self._fd

    def start(self) -> None:
        """Make the namespace and the bridge, which forwards nothing before `connect` is done: each
        VM whose eth0 comes up tells all others of its multicast groups, and asks them for a router.
        Raises HostsimError, OSError."""
        self._fd = new_netns()
        self._journal.add("netns", name=self.netns, inode=namespace.identity(self._fd))
        try:
            namespace.add_fd(self.netns, self._fd)
        except FileExistsError as error:
            raise HostsimError(f"switch of host {self.host}", reason(error), TAKEN) from error
        self._named = True
        off = {"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}
        off |= bridge_netfilter_off()
        namespace.write_sysctls(self._fd, off)
        self._rtnl = Rtnl(self._fd)
        self._found = frozenset(link.number for link in counted(self._rtnl))

        def fill(batch: Packs) -> None:
            batch.packed(messages.up(1))
            own = mac(self.host, Mac.BRIDGE, 0, self._machine)
            batch.packed(messages.bridge(BRIDGE_INDEX, self.bridge, own, LINK_LOCAL))

        self._rtnl.pack(fill)

    def place(self, vms: Sequence[Vm]) -> None:
        """Choose the numbers and addresses that links of these VMs will have: vm.mac, vm.eth0 and
        vm.port. `connect` does it too. Raises HostsimError."""
        for vm in vms:
            if vm.index > records.VM_MAX:
                raise HostsimError(
                    f"host {self.host}", f"more than {records.VM_MAX} VMs and endpoints"
                )
            own = mac(self.host, Mac.ETH0, vm.index, self._machine)
            vm.mac = vm.spec.mac or own
            vm.eth0, vm.port = records.ETH0 + vm.index, records.IFINDEX + vm.index

    def connect(self, vms: Sequence[Vm], others: Sequence[Vm] = ()) -> None:
        """Link every VM to a port and give it its addresses and on-link routes, to the subnets of
        `others` too. In any thread. Raises HostsimError, OSError."""
        self.place(vms)
        for vm in vms:
            vm.sysctl({"net.ipv6.conf.default.accept_dad": "0"})
            self._made[vm.port] = vm.spec.name
        everybody = list(dict.fromkeys([*vms, *others]))
        networks = subnets(everybody)
        known = introductions.known(everybody)

        def finish(vm: Vm) -> None:
            if vm.spec.addresses:
                configure(vm, networks, everybody)
            else:
                configure(vm, [])  # `reach` gives it the rest, in a chain
            self._finish(vm)
            if known and vm.spec.addresses:
                introductions.make(vm, known)

        def give(vm: Vm) -> None:
            pack_in(self._fd, lambda batch: self._fill_link(batch, vm))
            finish(vm)

        pack_in(self._fd, partial(self._fill_links, [vm for vm in vms if not vm.spec.boots]))
        for vm in vms:
            if vm.spec.boots:
                giving.give(vm, partial(give, vm), partial(self.disconnect, vm))
            else:
                finish(vm)
        if not self._forwards:
            pack_in(self._fd, lambda batch: batch.packed(messages.up(BRIDGE_INDEX)))
            self._forwards = True

    def _finish(self, vm: Vm) -> None:
        """Have the kernel finish checksums, segments and VLAN tags of what goes to a VM and comes
        from it, if it wants that."""
        if not vm.spec.offload:
            offload(self._fd, vm.spec.name, False)
            offload(vm.netns_fd, "eth0", False)

    def disconnect(self, vm: Vm) -> None:
        """Remove a VM's port, and with it eth0, at once; in any thread. One that is gone is no
        error."""
        _remove(self._fd, vm.port)

    def reroute(self, vms: Sequence[Vm], before: Sequence[Vm], after: Sequence[Vm]) -> None:
        """The host's members were `before`, and are `after`: these VMs have routes to those who
        came, and none to those who went; in any thread. What a VM's user has changed stays."""
        for vm in vms:
            if not vm.spec.addresses or not vm.runs:
                continue
            old, new = ways(vm, before), ways(vm, after)

            def fill(batch: Packs, vm: Vm = vm, old: Ways = old, new: Ways = new) -> None:
                for to in old.keys() - new.keys():
                    _fill_way(batch, vm, old[to], "del")
                for to, way in new.items():
                    if old.get(to) != way:
                        _fill_way(batch, vm, way, "replace")

            if old != new:
                with contextlib.suppress(OSError):
                    pack_in(vm.netns_fd, fill)

    def attach(self, names: Sequence[str], first: int) -> None:
        """Make NICs of the machine ports of the bridge; they get the port numbers from `first` on,
        which `uplinks` then has. `close` gives them back. Raises HostsimError, OSError."""
        for number, name in enumerate(names, start=first):
            if number > records.VM_MAX:
                raise HostsimError(f"uplink {name}", f"more than {records.VM_MAX} ports")
            nic = uplinks.inspect(name)
            entry = nic.words(self.netns)
            self._journal.add("uplink", **entry)
            self._lent.append(entry)
            uplinks.lend(nic, self._fd, records.IFINDEX + number)
            self.uplinks[name] = number
        if not self.uplinks:
            return  # the library that compiles a batch takes 70 ms to be imported

        def fill(batch: Batch) -> None:
            for number in self.uplinks.values():
                index = records.IFINDEX + number
                self._fill_hook(batch, index)
                batch.link("set", index=index, master=BRIDGE_INDEX, state="up")
                batch.brport("set", index=index, group_fwd_mask=LACP)

        self.rtnl.batch(fill)

    def _fill_links(self, vms: Sequence[Vm], batch: Packs) -> None:
        for vm in vms:
            self._fill_link(batch, vm)

    def _fill_link(self, batch: Packs, vm: Vm) -> None:
        own, far = mac(self.host, Mac.PORT, vm.index, self._machine), (vm.eth0, "eth0", vm.mac)
        batch.packed(
            messages.veth(
                vm.port, vm.spec.name, own, BRIDGE_INDEX, (*far, vm.netns_fd), vm.spec.mtu
            )
        )
        self._fill_hook(batch, vm.port)
        batch.packed(messages.up(vm.port))
        batch.packed(messages.forwards(vm.port, LACP))
        batch.packed(messages.sticky(vm.port, vm.mac))

    def _fill_hook(self, batch: Packs, index: int) -> None:
        """What a port needs before it is up: it forwards nothing that the classifier has not
        seen."""
        add_hook(batch, index)
        if self.classifier >= 0:
            add_program(batch, index, self.classifier, CLASSIFIER, INGRESS)

    def ports(self) -> list[Json]:
        """The ports as the kernel counts them: rx is what the VM sent, tx what it was sent. By a
        socket of its own: a child of the daemon may ask."""
        with contextlib.closing(Rtnl(self._fd)) as rtnl:
            links = counted(rtnl)
        return [
            {
                "name": link.name,
                "ifindex": link.number,
                "state": link.state,
                "rx_packets": link.rx_packets,
                "rx_bytes": link.rx_bytes,
                "tx_packets": link.tx_packets,
                "tx_bytes": link.tx_bytes,
                "drops": link.dropped,
            }
            for link in sorted(links)
            if link.master == BRIDGE_INDEX
        ]

    def look(self) -> Links:
        """What there is now. Raises OSError."""
        return self.told(counted(self.rtnl))

    def told(self, links: Sequence[Counted]) -> Links:
        """What there was in a list of the namespace's links."""
        return Links(
            frozenset(
                link.name for link in links if link.master == BRIDGE_INDEX and link.state == "up"
            ),
            {link.number: link.name for link in links if not self.owns(link.number, link.name)},
        )

    def looker(self) -> Callable[[], list[Counted]]:
        """What lists the namespace's links, in any thread, and at any time: many take their time.
        Raises OSError."""
        fd = os.dup(self._fd)

        def look() -> list[Counted]:
            try:
                rtnl = Rtnl(fd)
            finally:
                os.close(fd)
            try:
                return counted(rtnl)
            finally:
                rtnl.close()

        return look

    def owns(self, index: int, name: str) -> bool:
        """Whether a link is the kernel's own, the bridge, a port, an uplink, the line or a direct
        link: who makes those may not have told yet, so names and numbers must do."""
        if name in (self.line, self.wait):
            return index == (line.INDEX if name == self.line else line.WAIT)
        if index in self._found or index == BRIDGE_INDEX or self._made.get(index) == name:
            return True
        if name in self.uplinks or any(entry["name"] == name for entry in self._lent):
            return True
        vm, peer = index >> 12 & 0xFFF, index & 0xFFF
        return index == records.DIRECT | vm << 12 | peer and name == f"hsd{vm}-{peer}"

    def remover(self, index: int) -> Callable[[], None]:
        """What removes a link from the namespace, in any thread, and at any time: the kernel takes
        its time. One that is gone is no error. Raises OSError."""
        fd = os.dup(self._fd)

        def remove() -> None:
            try:
                _remove(fd, index)
            finally:
                os.close(fd)

        return remove

    def close(self) -> None:
        """Give the uplinks back and remove the namespace, and with it bridge, ports and links.
        Twice is harmless. Raises OSError if an uplink resists; all else is removed, but for the
        namespace it is in."""
        failure: OSError | None = None
        while self._lent:
            try:
                uplinks.give_back(**self._lent.pop())
            except OSError as error:
                failure = error
        self.uplinks.clear()
        if self._rtnl is not None:
            self._rtnl.close()
            self._rtnl = None
        self._forwards = False
        if self._named:
            if failure is None:
                namespace.remove(self.netns, namespace.identity(self._fd))
            self._named = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if failure is not None:
            raise failure


def _remove(netns_fd: int, index: int) -> None:
    """Remove a link; one that is gone is no error."""
    pack_in(netns_fd, lambda batch: batch.packed(messages.removed(index)), (errno.ENODEV,))


def subnets(vms: Sequence[Vm]) -> list[Network]:
    """Every subnet of the host, once: all of them are on the one link."""
    return list(dict.fromkeys(a.network for vm in vms for a in vm.spec.addresses))


def configure(vm: Vm, networks: Sequence[Network], everybody: Sequence[Vm] = ()) -> None:
    """lo and eth0 up, eth0's addresses, its `ways`, and on-link routes to those `networks` it is
    not in, but none that a gateway of its own is for. Of `everybody`, it knows who takes shorter
    packets than it sends: its own programs are told so, and as a router it tells others."""

    def fill(batch: Packs) -> None:
        batch.packed(messages.up(1))
        if not vm.spec.endpoint:  # those are in no chain, and their tc is their users'
            add_hook_to_users(batch, vm.eth0)
        batch.packed(messages.up(vm.eth0))
        for address in vm.spec.addresses:
            batch.packed(messages.address(vm.eth0, address.ip, address.network.prefixlen))
        _fill_routes(batch, vm, networks)
        for way in [*shorter(vm.spec, [one.spec for one in everybody]), *vm.spec.ways]:
            _fill_way(batch, vm, way)

    giving.tell(vm, fill)


def reach(vm: Vm, networks: Sequence[Network], everybody: Sequence[Vm]) -> None:
    """What `configure` gives a VM with addresses, for one without; eth0 has to be up for that."""

    def fill(batch: Packs) -> None:
        batch.packed(messages.up(vm.eth0))
        _fill_routes(batch, vm, networks)
        for way in shorter(vm.spec, [one.spec for one in everybody]):
            _fill_way(batch, vm, way)

    giving.tell(vm, fill)


def on_link(spec: VmSpec, networks: Sequence[Network]) -> list[Network]:
    """Those of the host's subnets that a VM reaches without a router, and is not in. Pure."""
    own = {address.network for address in spec.addresses}
    told = {way.to for way in spec.ways}
    routed = {way.to.version for way in spec.ways if way.to.prefixlen == 0}
    return [
        one for one in networks if one not in own and one not in told and one.version not in routed
    ]


Ways = dict[Network, WaySpec]


def ways(vm: Vm, everybody: Sequence[Vm]) -> Ways:
    """Where a VM has routes to that `configure` gives it because of who else there is. Pure."""
    near = [WaySpec(one) for one in on_link(vm.spec, subnets(everybody))]
    far = shorter(vm.spec, [one.spec for one in everybody])
    return {way.to: way for way in (*near, *far)}


def shorter(spec: VmSpec, others: Sequence[VmSpec]) -> list[WaySpec]:
    """The ways from a VM to those that take shorter packets than it, if it reaches them without a
    router. Pure."""
    own = [address.network for address in spec.addresses]
    told = {way.to for way in spec.ways}
    found = {}
    for other in others:
        if other.mtu >= spec.mtu or other.name == spec.name:
            continue
        for address in other.addresses:
            near = any(address.ip in network for network in own)
            far = on_link(spec, [address.network])
            to = ip_network(address.ip)
            if (near or far) and to not in told:
                found[to] = WaySpec(to, None, other.mtu)
    return list(found.values())


def _fill_routes(batch: Packs, vm: Vm, networks: Sequence[Network]) -> None:
    for network in on_link(vm.spec, networks):
        _fill_way(batch, vm, WaySpec(network))


def _fill_way(batch: Packs, vm: Vm, way: WaySpec, how: str = "add") -> None:
    batch.packed(messages.route(vm.eth0, way.to, way.via, way.mtu, how))
