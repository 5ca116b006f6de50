# SPDX-License-Identifier: Apache-2.0
"""The data plane of a host: loads the programs, keeps their maps in step with the host, and answers
the kernel's events.

What happens to a packet is decided in the kernel (cext/switch/classifier.bpf.c). The parts:

    loaded.py     the programs in the kernel, their maps, and what is run in them
    loading.py    how they come there
    epochs.py     the policy in force, and the epochs that name it
    bypass.py     the direct links
    watch.py      the thread that makes them, and sees what VMs do to their own network
    guard.py      in that thread: the programs at the switch's ports stay there
    ports.py      the classifier at those ports
    told.py       what the classifier is told of each VM
    inspector.py  routing by contents
    report.py     what is shown
    impair.py     impaired links
    readying.py   what VMs need apart from the policy, made in threads
    ringside.py   what is asked of the packet functions, if the host has any, and what they ask
"""

import logging
import os
import select
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from cext.bpf import objects as bpf
from cext.switch import maps, records
from cext.switch.drops import SWITCH
from hostsim.errors import HostsimError
from hostsim.model import HostSpec, Json, LinkSpec, RouteSpec
from hostsim.routing import ringside
from hostsim.routing.accounts import Snapshot
from hostsim.routing.bypass import End
from hostsim.routing.change import Change, compiled
from hostsim.routing.epochs import Epochs, Policy
from hostsim.routing.impair import Ends, Impairments, ends, impaired_by
from hostsim.routing.inspector import Inspector
from hostsim.routing.loading import Loading
from hostsim.routing.ports import Ports
from hostsim.routing.rates import Rates
from hostsim.routing.readying import Readying
from hostsim.routing.report import Members, Report
from hostsim.routing.retained import Retained
from hostsim.routing.ringside import NoFunctions, RingSide
from hostsim.routing.told import Told
from hostsim.routing.waiting import Waiting
from hostsim.routing.watch import Standing, Watch
from hostsim.switch import Switch
from hostsim.vm import Vm

log = logging.getLogger("hostsim.routes")

FLOW_IDLE = 30.0
"""Seconds after which a flow's rules and counts go when nothing of it was seen."""

Beside = Callable[[Callable[[], None]], object]
"""Has a job done in another thread, and does not wait for it."""


class Dataplane:
    """See the module. `start` once; `close` twice is harmless."""

    def __init__(
        self,
        spec: HostSpec,
        switch: Switch,
        vms: Mapping[str, Vm],
        loading: Loading | None = None,
    ) -> None:
        """loading: of the programs, if that has begun already."""
        self._switch = switch
        self._vms = dict(vms)
        self._by_number = {vm.index: vm for vm in vms.values()}
        self._functions = {vm.index for vm in vms.values() if vm.spec.nf is not None}
        self._first = Policy(spec.routes, spec.filters, spec.mirrors)
        self._links = ends(spec.links)
        self._rates = Rates(switch)
        self._former: dict[int, str] = {}  # VMs that are removed, of which counts may be left
        self._taken: dict[int, int] = {}  # events with contents, by VM
        self._attached: set[int] = set()
        self._ring_side: RingSide = NoFunctions()
        self._loading = loading or Loading()
        self._loaded = self._loading.classifier
        self._told = Told(self._loaded, self._rates)
        self._map = self._loaded.map
        self._ring: bpf.Ring | None = None
        self._watch: Watch | None = None
        self._ports: Ports | None = None
        self._poll: select.epoll | None = None
        self._impairments = Impairments(switch, self._vms)
        self._beside: Beside = lambda job: job()
        self._drops = self._loading.drops
        self._retained = Retained()
        loaded = self._loaded
        self._inspector = Inspector(self._map, loaded.tell, loaded.forget, self._ports_of)
        self._numbers = {name: vm.index for name, vm in vms.items()}
        self._owners = {a.ip.packed: vm.index for vm in vms.values() for a in vm.spec.addresses}
        self._waiting = Waiting(switch)
        self._epochs = Epochs(
            self._map,
            self._numbers,
            self._functions,
            self._inspector.policy,
            lambda: self._waiting.begin(loaded.program("come_again")),
        )
        self.readying = Readying(
            self._vms,
            self._rates,
            self._impairments,
            lambda: loaded.program("transfer_out"),
            lambda: self._epochs.policy.routes,
        )
        """What is made ready beforehand, in threads."""
        self.report = Report(
            self._map,
            self._vms,
            self._epochs,
            self._inspector,
            self._drops,
            self._retained,
            self._members,
            lambda: self._ring_side,
            self._owners,
            self._former,
            self._functions,
        )
        """What is shown."""

    # -- life -------------------------------------------------------------------------------------

    def load(self) -> None:
        """Load the programs; the verifier takes its time. Blocks, and needs nothing but this
        object, so that another thread can do it early. Raises OSError."""
        self._loading.load()

    def begin(self, uplinks: Collection[int] = ()) -> None:
        """Put the policy in force, and have ports come with the classifier: the switch has none
        yet, so no frame passes unjudged. Everybody has a number by now (`Switch.place`); uplinks:
        those that uplinks will have. Loads the programs if nobody has. Raises OSError,
        HostsimError."""
        if not self._loaded.there:
            self.load()
        self._watch = Watch(
            self._switch.netns_fd, self._loaded.program("transfer_in"), self._map("pairs")
        )
        self._ports = Ports(self._watch, self._loaded.program("classify"))
        self._impairments.guarded_by(self._watch)
        self._rates.guarded_by(self._watch)
        self._ring = bpf.Ring(self._map("events"), self._event)
        self._poll = select.epoll()
        self._poll.register(self._ring.fileno(), select.EPOLLIN)
        self._poll.register(self._watch.fileno(), select.EPOLLIN)
        for vm in self._vms.values():
            self._drops.watch(vm.index, vm.netns_fd)
            self._told.write(vm)
        self._loaded.write_owners(self._owners)
        for number in uplinks:
            self._loaded.write_uplink(number)
        self._put(self._first, self._epochs.compile(self._first))
        self._switch.classifier = self._loaded.program("classify")

    def start(self) -> None:
        """Do what needs the ports, which are there: rates, chains, impaired links. Raises OSError,
        HostsimError."""
        assert self._ports is not None
        self._drops.watch(SWITCH, self._switch.netns_fd)  # before, the bridge takes nothing in
        uplinks = {records.IFINDEX + n: name for name, n in self._switch.uplinks.items()}
        self._ports.keep({vm.port: name for name, vm in self._vms.items()} | uplinks)
        for vm in self._vms.values():
            self._rate(vm, vm.spec.rate)
        self._prepare(self._first.routes)
        if self._rates:
            self._new_epoch()  # whoever has a rate has it from the first decision on
        self._impair(self._links)

    def close(self) -> None:
        """Drop programs and maps; the kernel's last reference goes with the interfaces."""
        self._impairments.close()
        self._waiting.close()
        if self._poll is not None:
            self._poll.close()
            self._poll = None
        if self._watch is not None:
            self._watch.close()
            self._watch = self._ports = None
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._switch.classifier = -1
        self._loading.close()

    def closed(self) -> None:
        """Wait until what `close` has let go is gone from the switch's namespace."""
        self._waiting.settle()

    def fileno(self) -> int:
        """Readable when the classifier wants something, or a VM's network has changed; then call
        `on_readable`."""
        assert self._poll is not None
        return self._poll.fileno()

    def on_readable(self) -> None:
        """Do what the classifier asked for, and what VMs' networks make necessary. Raises
        OSError."""
        assert self._ring is not None
        assert self._watch is not None
        self._ring.consume()
        for index, standing in self._watch.take().items():
            if index in self._by_number:  # else it was removed meanwhile
                self._stands(self._by_number[index], standing)

    def settle(self, seconds: float = 10.0) -> bool:
        """Wait until the direct links that were asked for are made. Whether they are."""
        assert self._watch is not None
        return self._watch.settle(seconds)

    def _stands(self, vm: Vm, standing: Standing) -> None:
        """A VM's own network is as hostsim made it, or not. Where it is not, its hops go by the
        switch; a packet function that does not get its frames is as if its VM were gone."""
        name, before = vm.spec.name, self._told.stands(vm, standing)
        if standing.why and standing.why != before:
            log.warning("%s: %s", name, standing.why)
        elif before and not standing.why:
            log.info("%s: its network is as it was made", name)
        self._told.write(vm)
        if vm.spec.nf is not None and standing.why:
            self.link_lost(name, "network")
        elif vm.spec.nf is not None and before:
            self.link_back(name, "network")

    def sweep_by(self, beside: Beside) -> None:
        """From now on have sweeps done so: they walk tables made for a million flows (100 ms
        seen). Until then whoever asks for one does it."""
        self._beside = beside

    def tick(self) -> None:
        """Sweep what has been idle; its counts are retained. Raises OSError."""
        self._sweep(0)
        idle = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(FLOW_IDLE * 1e9)
        self._retained.fold_drops(self._drops.take(idle, self._loaded.remembers))

    def vm_gone(self, name: str) -> None:
        """A VM's init died: its links are gone for good."""
        vm = self._vms[name]
        self.link_lost(name, "dead")
        if self._watch is not None:
            self._watch.remove(vm.index)
        if self._ports is not None:
            self._ports.forget(vm.port)

    def link_lost(self, name: str, why: str = "link") -> None:
        """A VM cannot be reached by the switch: rules to and from it are stale at once, and go;
        its flows are judged again, by their route's on_failure; what was counted of them stays, as
        for any flow that has become idle. why: a word that `link_back` takes away again. Twice is
        harmless."""
        vm = self._vms[name]
        if not self._loaded.there or not self._told.lost(vm, why):
            return
        self._told.write(vm)
        self._new_epoch()
        self._beside(partial(self._sweep, vm.index))

    def link_back(self, name: str, why: str = "link") -> None:
        """A living VM's link is back, if that was the only reason. Twice is harmless."""
        vm = self._vms[name]
        if not self._loaded.there or not self._told.back(vm, why):
            return
        self._told.write(vm)
        self._new_epoch()

    def vm_back(self, name: str) -> None:
        """A VM was started again, with a namespace, an eth0 and a port that are new, and is ready
        for its chains (`Readying.renewing`). Raises OSError, HostsimError."""
        vm = self._vms[name]
        self._attached.discard(vm.index)
        self._told.renewed(vm)
        self._drops.watch(vm.index, vm.netns_fd)
        self.readying.back(vm)
        self._prepare(self._epochs.policy.routes)
        assert self._ports is not None
        self._ports.keep({vm.port: name})
        self.link_back(name)

    def expect(self, vms: Sequence[Vm]) -> None:
        """VMs are about to get ports: an address that they take over from another is both's until
        `disown`. Raises OSError."""
        theirs = {a.ip.packed: vm.index for vm in vms for a in vm.spec.addresses}
        before = self._owners.copy()
        self._owners.update(theirs)
        both = {a: maps.both_own(vm, before.get(a, vm)) for a, vm in theirs.items()}
        self._loaded.write_owners(both)

    def disown(self) -> None:
        """VMs that were removed, or expected and did not come, have no addresses any more, nor a
        port. Raises OSError."""
        left = {a.ip.packed: vm.index for vm in self._vms.values() for a in vm.spec.addresses}
        self._loaded.forget_owners(self._owners.keys() - left.keys())
        self._owners.clear()
        self._owners.update(left)
        self._loaded.write_owners(left)

    def add(self, vms: Sequence[Vm]) -> None:
        """VMs that were expected have joined the switch, and their ports are ready
        (`Readying.joining`). Raises OSError, HostsimError; `remove` takes away what was done."""
        for vm in vms:
            self._former.pop(vm.index, None)
            self._vms[vm.spec.name] = self._by_number[vm.index] = vm
            self._numbers[vm.spec.name] = vm.index
            (self._functions.discard if vm.spec.nf is None else self._functions.add)(vm.index)
            self._drops.watch(vm.index, vm.netns_fd)
        assert self._ports is not None
        self._ports.keep({vm.port: vm.spec.name for vm in vms})
        for vm in vms:
            self._told.write(vm)

    def remove(self, vms: Sequence[Vm]) -> None:
        """VMs leave, which no route goes through any more. Their counts stay, and until `disown`
        their addresses are theirs. Raises OSError."""
        names = {vm.spec.name for vm in vms}
        now = self._impairments.now()
        self._impairments.put({key: end for key, end in now.items() if key[0] not in names})
        for vm in vms:
            self._rates.forget(vm)
            self.readying.forget(vm)
            if self._ports is not None:
                self._ports.forget(vm.port)
            if self._vms.get(vm.spec.name) is not vm:
                continue
            if self._watch is not None:
                self._watch.remove(vm.index)
            del self._vms[vm.spec.name], self._by_number[vm.index], self._numbers[vm.spec.name]
            self._former[vm.index] = vm.spec.name
            self._told.forget(vm)
            self._drops.leave(vm.index)
            self._rates.forget(vm)
            self._attached.discard(vm.index)
        self._new_epoch()
        for vm in vms:
            self._beside(partial(self._sweep, vm.index))

    # -- policy -----------------------------------------------------------------------------------

    def compile(self, spec: HostSpec, leaving: Collection[str] = ()) -> Change:
        """What `change` does about a host file; in any thread, as long as no VM joins or leaves.
        leaving: VMs and endpoints that `spec` has no more. Raises HostsimError."""
        staying = {name: vm.spec for name, vm in self._vms.items() if name not in leaving}
        return compiled(spec, staying, self._epochs)

    def apply(self, spec: HostSpec) -> Json:
        """All at once; see `compile`, `change` and `let_go`."""
        done = self.change(self.compile(spec))
        self.let_go()
        return done

    def change(self, change: Change) -> Json:
        """Replace routes, filters, mirrors, links and rates, while traffic flows. Every decision
        made before is stale when this returns. Raises HostsimError, OSError; nothing is changed
        then. What takes long may be done already, by `Readying.preparing` and `impairing`."""
        links, rates = self._impairments.now(), dict(self._rates)
        try:
            self._impair(change.links)
            self._prepare(change.policy.routes)
            for name, vm in self._vms.items():
                self._rate(vm, change.rates.get(name))
            self._put(change.policy, change.lists)
        except BaseException:
            for vm in self._vms.values():
                self._rate(vm, rates.get(vm.index))
            self._impair(links)
            raise
        return {"epoch": self._epochs.newest, "routes": len(change.policy.routes)}

    def links(self) -> list[Json]:
        """The contract's `link`. Raises OSError."""
        return self._impairments.rows()

    def linked(self, spec: LinkSpec) -> Ends:
        """What is impaired once the link is, in the directions that `spec` names and as it says;
        those that were impaired otherwise are so no more. Raises HostsimError."""
        if spec.of not in self._vms:
            raise HostsimError(
                f"link {spec.of}", "no VM or endpoint", f"there are: {', '.join(self._vms)}"
            )
        return impaired_by(self.impaired, spec)

    @property
    def impaired(self) -> Ends:
        """What is impaired."""
        return self._impairments.now()

    def impairing(self, wanted: Ends) -> Callable[[], None]:
        """What has these ends impaired, and no others; in any thread, since it waits for the
        kernel's locks. `impair` or `change` has to follow, and then `let_go`. It raises
        HostsimError, OSError."""
        return partial(self._impairments.put, wanted)

    def let_go(self) -> None:
        """What impairs links goes, if none is impaired; in any thread, likewise. Raises OSError."""
        self._impairments.let_go()

    def link(self, spec: LinkSpec) -> list[Json]:
        """All at once; see `linked`, `impair` and `let_go`."""
        rows = self.impair(self.linked(spec))
        self.let_go()
        return rows

    def impair(self, wanted: Ends) -> list[Json]:
        """Have these ends impaired, and no others. What is then. Raises HostsimError, OSError."""
        self._impair(wanted)
        return self.links()

    def _impair(self, wanted: Ends) -> None:
        self._impairments.put(wanted)
        changed = self._told.impaired(self._impairments.impaired)
        for index in changed:
            self._told.write(self._by_number[index])
        if changed:
            self._new_epoch()

    def _put(self, policy: Policy, lists: records.Lists) -> None:
        """Put a policy in force."""
        self._ring_side.new_epoch(self._epochs.write(policy, lists))
        log.debug("epoch %d: %d routes", self._epochs.newest, len(policy.routes))

    def _new_epoch(self) -> None:
        """Make everything decided so far stale, at once."""
        self._ring_side.new_epoch(self._epochs.next())
        log.debug("epoch %d: the same routes", self._epochs.newest)

    def _rate(self, vm: Vm, rate: int | None) -> None:
        if self._rates.put(vm, rate):
            self._told.write(vm)

    def _prepare(self, routes: Sequence[RouteSpec]) -> None:
        """Make the VMs of the chains ready: forwarding, routes, transfer component."""
        self.readying.preparing(routes)()
        assert self._watch is not None
        for name in dict.fromkeys(name for route in routes for name in route.through):
            vm = self._vms[name]
            if vm.index in self._attached:
                continue
            self._attached.add(vm.index)
            end = End(vm.index, name, vm.mac, vm.spec.nf is not None, vm.netns_fd, vm.spec.mtu)
            self._watch.add(end)

    # -- the kernel's side ------------------------------------------------------------------------

    def _event(self, data: bytes) -> None:
        kind, a, b = maps.unpack_event(data)
        if kind == records.EVENT_PAIR and self._watch is not None:
            log.debug("VM %d to VM %d: a flow wants a direct link", a, b)
            self._watch.want(a, b)
        elif kind == records.EVENT_CONTENT:
            content = maps.unpack_content(data)
            self._taken[content.vm] = self._taken.get(content.vm, 0) + 1
            maps.note_taken(self._map("taken"), content.vm, self._taken[content.vm])
            self._inspector.saw(content)

    def _ports_of(self, conn: records.Conn) -> set[int]:
        """Where something may have been decided for a connection: its two ends, and its chain."""
        routes = self._epochs.policy.routes
        found = {conn.origin, conn.back} - {0}
        if conn.route is not None and conn.route < len(routes):
            found |= {self._vms[name].index for name in routes[conn.route].through}
        return found

    def _sweep(self, gone: int) -> None:
        self._loaded.sweep(FLOW_IDLE, gone)

    def _members(self) -> Members:
        assert self._watch is not None
        plain = [vm.index for vm in self._vms.values() if not vm.spec.offload]
        return Members(
            uplinks=self._switch.uplinks,
            alive=self._told.reached(self._by_number),
            direct=self._watch.made,
            on_switch=dict.fromkeys(self._impairments.impaired, "has an impaired link")
            | dict.fromkeys(self._rates, "has a rate")
            | dict.fromkeys(plain, "has offload = false"),
            unlike=self._told.unlike,
            taken_off=self._watch.taken_off,
        )

    # -- what packet functions ask ----------------------------------------------------------------

    def join(self, ring_side: RingSide) -> None:
        """From now on, this side hears of each new epoch, and is asked for what is shown."""
        self._ring_side = ring_side

    def leave(self) -> None:
        """The side that joined is no more. Twice is harmless."""
        self._ring_side = NoFunctions()

    @property
    def epoch(self) -> int:
        """The one number that rules must name."""
        return self._epochs.newest

    def sight(self) -> Json:
        """What a capture, which is another process of root's, needs: this process, its descriptor
        of `flows` (pidfd_getfd(2)) and of each packet function's tap, the host's network namespaces
        by inode, the switch's first, everybody's number."""
        living = [vm.netns_fd for vm in self._vms.values() if vm.netns_fd >= 0]
        return {
            "pid": os.getpid(),
            "flows": self._map("flows").fd,
            "taps": dict(self._ring_side.taps),
            "homes": [os.fstat(one).st_ino for one in (self._switch.netns_fd, *living)],
            "numbers": self._numbers | self._switch.uplinks,
        }

    def function_flows(self) -> list[records.Flow]:
        """Flows at the ports of packet functions."""
        return list(maps.read_flows_of(self._map("flows"), self._functions))

    def ring_hops(self, seen: Sequence[records.Flow]) -> list[tuple[records.Flow, RouteSpec]]:
        """Of these flows, those that may leave the switch for a ring now, with their route. The
        classifier has said so for each: no filter, mirror or rate concerns it."""
        return ringside.hops(seen, self._epochs.policy.routes, self._epochs.newest)

    def drop_flow(self, vm: int, flow: records.Tuple) -> None:
        """A packet function's flow is idle: forget it and its counts."""
        self._loaded.drop_flow(vm, flow)

    def retain(self, gone: Snapshot, dropped: Sequence[records.Flow]) -> None:
        """Keep the sums of flows that were dropped, and of what their ports had counted."""
        self._retained.fold_ports(gone, dropped)
