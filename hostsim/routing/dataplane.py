"""The data plane of a host: policy, classifier, transfer components, rules and flows.

`Dataplane` owns the loaded BPF object (cext/switch/classifier.bpf.c) and decides when its maps
change; what happens to a packet is decided in the kernel. The parts: policy.py what matches,
bypass.py the direct links, flows.py what is shown.

Epochs. Each change of policy, and each VM that goes, gets the next epoch; the newest EPOCHS of
them stay readable, so that a packet on its way is judged to the end by the policy it met first.
A region of rows is written before any epoch names it, and is never written while one does.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from cext.bpf import objects as bpf
from cext.switch import maps, records
from cext.switch.drops import SWITCH
from hostsim import switch
from hostsim.errors import HostsimError
from hostsim.keys import parse_key
from hostsim.model import FilterSpec, HostSpec, Json, MirrorSpec, RouteSpec
from hostsim.routing import explain, flows, matchtext, memory, verify
from hostsim.routing.accounts import Snapshot
from hostsim.routing.bypass import DirectLinks
from hostsim.routing.inspector import Inspector
from hostsim.routing.kerneldrops import KernelDrops
from hostsim.routing.policy import SYN, First, compile_lists, first_match
from hostsim.routing.retained import Retained
from hostsim.vm import Vm
from netns import tc
from netns.links import Batch

log = logging.getLogger("hostsim.routes")

FLOW_IDLE = 30.0
"""Seconds after which a flow's rules and counts go when nothing of it was seen."""
CONN_IDLE = 600.0
"""Seconds a connection is remembered without a packet."""

ROUTER = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.eth0.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.eth0.send_redirects": "0",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.eth0.accept_redirects": "0",
    "net.ipv6.conf.all.accept_redirects": "0",
    "net.ipv6.conf.eth0.accept_redirects": "0",
}
"""What a chain's VM needs to send on what came in by the same eth0, and to tell nobody of a
shorter way."""


class Policy(NamedTuple):
    """What `hostsim routes apply` replaces."""

    routes: tuple[RouteSpec, ...] = ()
    filters: tuple[FilterSpec, ...] = ()
    mirrors: tuple[MirrorSpec, ...] = ()


class Dataplane:
    """See the module. `start` once; `close` twice is harmless."""

    def __init__(self, spec: HostSpec, switch: "switch.Switch", vms: Mapping[str, Vm]) -> None:
        self._switch = switch
        self._vms = dict(vms)
        self._by_number = {vm.index: vm for vm in vms.values()}
        self._functions = frozenset(vm.index for vm in vms.values() if vm.spec.nf is not None)
        self._policy = Policy(spec.routes, spec.filters, spec.mirrors)
        self._lists = records.Lists(())
        self._gone: set[int] = set()
        self._rates: dict[int, int] = {}
        self._attached: set[int] = set()
        self._epoch = 0
        self.rings: dict[tuple[int, records.Tuple], int] = {}
        """Flows, by the VM that sends them, with a current rule into a ring, and whose it is."""
        self.ports: Callable[[], Snapshot] = Snapshot
        """What the ports of packet functions have counted."""
        self.retained = Retained()
        """What is kept of the flows that are forgotten."""
        self.on_epoch: Callable[[int], None] = lambda epoch: None
        """Called with each new epoch, before anyone hears of it."""
        self._version = 0
        self._on = 0
        self._region = 0
        self._regions: dict[int, int] = {}  # by epoch, the newest EPOCHS
        self._object: bpf.Object | None = None
        self._ring: bpf.Ring | None = None
        self._links: DirectLinks | None = None
        self._drops = KernelDrops()
        self._inspector = Inspector(self._map, self._forget, tuple(self._by_number))

    # -- life -------------------------------------------------------------------------------------

    def load(self) -> None:
        """Load the programs; the verifier takes its time. Blocks, and needs nothing but this
        object, so that another thread can do it early. Raises OSError."""
        self._object = bpf.Object("classifier", flags=memory.flags(memory.memory()))
        self._drops.load()

    def start(self) -> None:
        """Attach the programs, loaded or not, and write the policy. Raises OSError,
        HostsimError."""
        if self._object is None:
            self.load()
        assert self._object is not None
        self._links = DirectLinks(
            self._by_number,
            self._switch.rtnl,
            self._switch.netns_fd,
            self._object.program("transfer_in"),
            self._map("pairs"),
        )
        self._ring = bpf.Ring(self._map("events"), self._event)
        self._drops.watch(SWITCH, self._switch.netns_fd)
        for vm in self._vms.values():
            self._drops.watch(vm.index, vm.netns_fd)
            self._write_vm(vm)
            self._rate(vm, vm.spec.rate)
        self._prepare(self._policy.routes)
        self._write_policy(self._policy, self._compile(self._policy))
        classify = self._object.program("classify")

        def fill(batch: Batch) -> None:
            uplinks = [records.IFINDEX + number for number in self._switch.uplinks.values()]
            for port in (*(vm.port for vm in self._vms.values()), *uplinks):
                tc.add_program(batch, port, classify, "hostsim:classify", tc.INGRESS)

        self._switch.rtnl.batch(fill)

    def close(self) -> None:
        """Drop programs and maps; the kernel's last reference goes with the interfaces."""
        self._drops.close()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        if self._object is not None:
            self._object.close()
            self._object = None

    def fileno(self) -> int:
        """Readable when the classifier wants something; then call `on_readable`."""
        assert self._ring is not None
        return self._ring.fileno()

    def on_readable(self) -> None:
        """Do what the classifier asked for. Raises OSError."""
        assert self._ring is not None
        self._ring.consume()

    def tick(self) -> None:
        """Sweep what has been idle; its counts are retained. Raises OSError."""
        self._sweep(0)
        idle = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(FLOW_IDLE * 1e9)
        self.retained.fold_drops(self._drops.take(idle, self._remembered))

    def vm_gone(self, name: str) -> None:
        """A VM's init died: its links are gone for good."""
        vm = self._vms[name]
        self.link_lost(name)
        if self._links is not None:
            self._links.gone(vm.index)

    def link_lost(self, name: str) -> None:
        """A VM cannot be reached by the switch: rules to and from it go at once, and its flows are
        judged again, by their route's on_failure; what was counted of them stays, as for any flow
        that has become idle. Twice is harmless."""
        vm = self._vms[name]
        if vm.index in self._gone or self._object is None:
            return
        self._gone.add(vm.index)
        self._write_vm(vm)
        self._next_epoch()
        self._sweep(vm.index)

    def link_back(self, name: str) -> None:
        """A living VM's link is back. Twice is harmless."""
        vm = self._vms[name]
        if vm.index not in self._gone or self._object is None:
            return
        self._gone.discard(vm.index)
        self._write_vm(vm)
        self._next_epoch()

    def vm_back(self, name: str) -> None:
        """A VM was started again, with a namespace, an eth0 and a port that are new. Raises
        OSError, HostsimError."""
        assert self._object is not None
        vm = self._vms[name]
        self._attached.discard(vm.index)
        self._drops.watch(vm.index, vm.netns_fd)
        self._rate(vm, self._rates.pop(vm.index, None))
        self._prepare(self._policy.routes)
        classify = self._object.program("classify")
        self._switch.rtnl.batch(
            lambda batch: tc.add_program(batch, vm.port, classify, "hostsim:classify", tc.INGRESS)
        )
        self.link_back(name)

    # -- policy -----------------------------------------------------------------------------------

    def _compile(self, policy: Policy) -> records.Lists:
        """The policy's rows. Raises HostsimError where there are too many."""
        numbers = {name: vm.index for name, vm in self._vms.items()}
        lists = compile_lists(policy.routes, policy.filters, policy.mirrors, numbers)
        count = max(len(lists.rows), len(policy.routes))
        if count > records.ROWS_MAX:
            raise HostsimError("routes", f"{count} rows of matches", f"at most {records.ROWS_MAX}")
        return lists

    def _write_policy(self, policy: Policy, lists: records.Lists) -> None:
        """Write rows and routes into a free region, then let the next epoch name it."""
        numbers = {name: vm.index for name, vm in self._vms.items()}
        used = set(self._regions.values())
        region = next(r for r in range(records.REGIONS) if r not in used)
        base = region * records.ROWS_MAX
        table, chains = self._map("rows"), self._map("routes")
        for at, row in enumerate(lists.rows):
            table.set(maps.pack_u32(base + at), maps.pack_row(row))
        for route in policy.routes:
            value = maps.pack_route(
                tuple(numbers[name] for name in route.through),
                route.bypass in ("auto", "veth")
                or (route.bypass == "ring" and any(self._vms[n].spec.nf for n in route.through)),
                route.on_failure == "skip",
            )
            chains.set(maps.pack_u32(base + route.index), value)
        self._inspector.policy(lists, region)
        self._region, self._lists, self._policy = region, lists, policy
        self._version += 1
        self._next_epoch()

    def apply(self, spec: HostSpec) -> Json:
        """Replace routes, filters, mirrors and rates by those of `spec`, while traffic flows. Every
        decision made before is stale when this returns. Raises HostsimError, with nothing changed,
        where `spec` is of other VMs."""
        theirs = {vm.name: vm for vm in (*spec.vms, *spec.endpoints)}
        mine = {name: vm.spec for name, vm in self._vms.items()}
        if {n: v.endpoint for n, v in theirs.items()} != {n: v.endpoint for n, v in mine.items()}:
            raise HostsimError(
                "routes apply",
                "the file's VMs and endpoints are not those of the running host",
                f"the host has: {', '.join(mine)}",
            )
        policy = Policy(spec.routes, spec.filters, spec.mirrors)
        lists = self._compile(policy)
        self._prepare(policy.routes)
        for name, vm in self._vms.items():
            self._rate(vm, theirs[name].rate)
        self._write_policy(policy, lists)
        return {"epoch": self._epoch, "routes": len(policy.routes)}

    def refresh(self) -> None:
        """Judge every flow again, by the same policy: all rules are stale when this returns."""
        self._next_epoch()

    def _rate(self, vm: Vm, rate: int | None) -> None:
        """Shape what the switch sends to a VM (tc-tbf(8) on its port); None: as fast as it goes."""
        before = self._rates.get(vm.index)
        if rate == before:
            return
        if before is not None:
            tc.unshape(self._switch.rtnl, vm.port)
            del self._rates[vm.index]
        if rate is not None:
            tc.shape(self._switch.rtnl, vm.port, rate)
            self._rates[vm.index] = rate
        self._write_vm(vm)

    def _next_epoch(self) -> None:
        """Make everything decided so far stale, at once."""
        epoch = self._epoch + 1
        self._regions[epoch] = self._region
        self._regions.pop(epoch - records.EPOCHS, None)
        self._map("policies").set(
            maps.pack_u32(epoch % records.EPOCHS),
            maps.pack_policy(epoch, self._version, self._region, self._lists),
        )
        rows = self._lists.rows
        self._on |= records.ON if rows else 0  # what was looked at once stays counted
        self._on |= records.ON_VLAN if any(row.vlan for row in rows) else 0
        self._on |= records.ON_ETHERTYPE if any(row.ethertype for row in rows) else 0
        self._map("config").set(maps.pack_u32(0), maps.pack_config(epoch, self._on))
        self._epoch = epoch
        self.on_epoch(epoch)

    def _prepare(self, routes: Sequence[RouteSpec]) -> None:
        """Make the VMs of the chains ready: forwarding, routes, transfer component."""
        assert self._object is not None
        program = self._object.program("transfer_out")
        networks = switch.subnets(list(self._vms.values()))
        for name in dict.fromkeys(name for route in routes for name in route.through):
            vm = self._vms[name]
            if vm.index in self._attached:
                continue
            vm.sysctl(ROUTER)
            if not vm.spec.addresses:
                switch.reach(vm, networks)
            tc.attach(vm.netns_fd, vm.eth0, program, "hostsim:transfer_out", tc.EGRESS)
            self._attached.add(vm.index)

    def _write_vm(self, vm: Vm) -> None:
        flags = 0 if vm.index in self._gone else records.VM_ALIVE
        if vm.spec.endpoint:
            flags |= records.VM_ENDPOINT
        elif vm.spec.nf is None:  # a packet NF is transparent
            flags |= records.VM_ROUTES
        flags |= records.VM_PORT if vm.spec.nf is not None else 0
        flags |= records.VM_ON_SWITCH if vm.index in self._rates else 0
        self._map("vms").set(maps.pack_u32(vm.index), maps.pack_vm(vm.mac, flags))

    # -- the kernel's side ------------------------------------------------------------------------

    def _map(self, name: str) -> bpf.Map:
        if self._object is None:
            raise HostsimError("data plane", "it is not there")
        return self._object.map(name)

    def _event(self, data: bytes) -> None:
        kind, a, b = maps.unpack_event(data)
        if kind == records.EVENT_PAIR and self._links is not None:
            self._links.want(a, b)
        elif kind == records.EVENT_CONTENT:
            self._inspector.saw(maps.unpack_content(data))

    def _forget(self, vm: int, flow: records.Tuple) -> None:
        assert self._object is not None
        maps.forget(self._object.program("forget"), vm, flow)

    def _sweep(self, gone: int) -> None:
        if self._object is None:
            return
        maps.sweep(
            self._object.program("sweep"),
            time.clock_gettime_ns(time.CLOCK_MONOTONIC),
            int(FLOW_IDLE * 1e9),
            int(CONN_IDLE * 1e9),
            gone,
        )

    def _remembered(self, vm: int, flow: records.Tuple) -> bool:
        """Whether anything is known of a flow that a VM sends."""
        return self._map("flows").get(maps.pack_key(vm, flow)) is not None

    def function_flows(self) -> list[records.Flow]:
        """Flows at the ports of packet functions."""
        return [flow for flow in maps.read_flows(self._map("flows")) if flow.vm in self._functions]

    def drop_flow(self, vm: int, flow: records.Tuple) -> None:
        """A packet function's flow is idle: forget it and its counts."""
        maps.drop_flow(self._map("flows"), vm, flow)

    def ring_hops(self, seen: Sequence[records.Flow]) -> list[tuple[records.Flow, RouteSpec]]:
        """Of these flows, those that may leave the switch for a ring now, with their route. The
        classifier has said so for each: no filter, mirror or rate concerns it."""
        routes = self._policy.routes
        return [
            (flow, routes[flow.route])
            for flow in seen
            if flow.verdict.epoch == self._epoch
            and flow.verdict.action == records.STEER
            and flow.verdict.flags & records.F_BYPASS
            and flow.packets >= records.RULE_AFTER
            and flow.route is not None
            and flow.route < len(routes)
            and routes[flow.route].bypass in ("auto", "ring")
        ]

    @property
    def epoch(self) -> int:
        """The one number that rules must name."""
        return self._epoch

    # -- what is shown ----------------------------------------------------------------------------

    def _view(self) -> flows.View:
        assert self._links is not None
        numbers = {name: vm.index for name, vm in self._vms.items()} | self._switch.uplinks
        return flows.View(
            routes=self._policy.routes,
            numbers=numbers,
            names={number: name for name, number in numbers.items()},
            alive=frozenset(self._by_number) - self._gone | {*self._switch.uplinks.values()},
            direct=self._links.made,
            epoch=self._epoch,
            now=time.clock_gettime_ns(time.CLOCK_MONOTONIC),
            on_switch=frozenset(self._rates),
            judge=self._judge,
            watch=self._watched,
            rings=self.rings,
            functions=self._functions,
            ports=self.ports(),
        )

    def _judge(self, flow: records.Flow) -> tuple[int | None, bool]:
        """Route and direction of a flow by the policy in force."""
        first, reply = self._first(flow)
        row = first_match(self._lists.routes, first)
        return None if row is None else self._lists.routes[row].route, reply

    def _watched(self, flow: records.Flow) -> flows.Watched:
        """The filter and the mirror that the policy in force has for a flow."""
        if not self._lists.filters and not self._lists.mirrors:
            return flows.NOBODY
        first, reply = self._first(flow)
        own = replace(first, flow=flow.tuple, origin=0 if reply else first.origin)
        return flows.watched(self._lists, own)

    def _first(self, flow: records.Flow) -> tuple[First, bool]:
        """What is known of the first packet of a flow's connection; whether the flow is of the
        replies."""
        conn = maps.read_conn(self._map("conns"), flow.tuple)
        first = First(flow.tuple, SYN, 0, flow.vm)
        if conn is not None:
            tuple_ = flow.tuple.reversed() if conn.reply else flow.tuple
            name = self._inspector.name_of(conn.content)
            names = (name,) if name else ()
            first = First(tuple_, conn.tcp_flags, conn.dscp, conn.origin, names)
        return first, bool(conn and conn.reply)

    def explain(self, vm: str, key: str) -> Json:
        """The contract's `explain`. Raises UsageError for a key that is none, HostsimError."""
        flow = parse_key(key)
        if vm not in self._vms:
            raise HostsimError(
                f"explain {vm}", "no such VM or endpoint", f"there are: {', '.join(self._vms)}"
            )
        conn = maps.read_conn(self._map("conns"), flow)
        name = self._inspector.name_of(conn.content) if conn else None
        seen, sent = maps.read_table(self._map("flows"))
        seen = [one for one in seen if one.tuple == flow]
        sent = [one for one in sent if one.tuple == flow]
        return explain.explain(vm, flow, self._lists, conn, name, seen, sent, self._view())

    def verify(self) -> list[Json]:
        """What each VM sent of each flow, and what accounts for it: see verify.py. Packets on
        their way show as missing: ask again."""
        seen, sent = maps.read_table(self._map("flows"))
        losses = verify.Losses(
            {}
            if self._drops.known
            else {vm.index: tc.queue_drops(vm.netns_fd) for vm in self._vms.values() if vm.alive},
            self._drops.read(),
            list(maps.read_ended(self._map("ended"))),
            self.retained,
            frozenset(row.route for row in self._lists.mirrors),
        )
        return verify.check(seen, sent, losses, self._view())

    def flows(self) -> list[Json]:
        """The contract's `flows`."""
        seen, sent = maps.read_table(self._map("flows"))
        return flows.flow_rows(seen, sent, self._view())

    def rules(self) -> list[Json]:
        """The contract's `rules`."""
        return flows.rule_rows(list(maps.read_rules(self._map("flows"))), self._view())

    def routes(self) -> list[Json]:
        """The policy, in order; packets: of the flows remembered, as they entered their chain."""
        packets = [0] * len(self._policy.routes)
        for flow in maps.read_flows(self._map("flows")):
            enters = flow.verdict.flags & records.F_START
            if enters and flow.route is not None and flow.verdict.epoch == self._epoch:
                packets[flow.route] += flow.packets
        return [
            {
                "index": route.index,
                "match": matchtext.match_json(route.match),
                "through": list(route.through),
                "bypass": route.bypass,
                "on_failure": route.on_failure,
                "on_full": route.on_full,
                "ring": route.ring,
                "packets": packets[route.index],
            }
            for route in self._policy.routes
        ]

    def counters(self) -> dict[str, int]:
        """What was counted by name, since the start: packets, but for `given-up` and `pushed-out`,
        which are connections whose contents were given up."""
        found = maps.read_counters(self._map("counters")) | self._inspector.counters()
        return found | {"uncounted-drops": self._drops.missed()}

    def kernel_drops(self) -> dict[str, dict[str, int]] | None:
        """Packets that the kernel dropped, by its own reasons, in each VM, and in the switch's
        namespace (the empty name); None where the kernel does not tell."""
        totals = self._drops.totals()
        if totals is None:
            return None
        numbers = {name: vm.index for name, vm in self._vms.items()} | {"": SWITCH}
        return {name: totals.get(number, {}) for name, number in numbers.items()}
