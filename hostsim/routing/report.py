# SPDX-License-Identifier: Apache-2.0
"""What is shown of the data plane: flows, rules, routes, an explanation, the books, counters.

Reads the kernel's maps and changes nothing. What the rows mean is said by flows.py, explain.py and
verify.py, which are pure.
"""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from cext.bpf import objects as bpf
from cext.ns.netns import unread
from cext.switch import maps, records
from cext.switch.drops import SWITCH
from hostsim.errors import HostsimError
from hostsim.keys import parse_key
from hostsim.model import Json
from hostsim.routing import explain, matchtext, verify
from hostsim.routing.epochs import Epochs
from hostsim.routing.flows import NOBODY, View, Watched, flow_rows, rule_rows, watched
from hostsim.routing.guard import TakenOff
from hostsim.routing.inspector import Inspector
from hostsim.routing.kerneldrops import KernelDrops
from hostsim.routing.only import EVERY, Only
from hostsim.routing.policy import SYN, First, Owners, judge, own
from hostsim.routing.retained import Retained
from hostsim.routing.ringside import RingSide
from hostsim.vm import Vm
from netns import tc


@dataclass(frozen=True)
class Members:
    """How VMs, endpoints and uplinks stand now, by number."""

    uplinks: Mapping[str, int]  # their numbers by name
    alive: frozenset[int]  # VMs and endpoints that the switch can reach
    direct: frozenset[frozenset[int]]  # pairs with a direct link
    on_switch: Mapping[int, str]  # those whose packets the switch must see, and why
    unlike: Mapping[int, str]  # VMs whose network is not as it was made: what is unlike
    taken_off: Sequence[TakenOff]  # what somebody took off the switch's ports


class Report:
    """See the module.

    source: the data plane's maps by name.
    vms: every VM and endpoint by name.
    members, ring_side: how these stand when something is shown.
    owners: who has which address.
    former: the names of VMs that were removed, by number: what they sent is still shown.
    functions: the numbers of those that have a packet function, or had one when they were removed.
    """

    def __init__(
        self,
        source: Callable[[str], bpf.Map],
        vms: Mapping[str, Vm],
        epochs: Epochs,
        inspector: Inspector,
        drops: KernelDrops,
        retained: Retained,
        members: Callable[[], Members],
        ring_side: Callable[[], RingSide],
        owners: Owners,
        former: Mapping[int, str],
        functions: Set[int],
    ) -> None:
        self._map = source
        self._vms = vms
        self._epochs = epochs
        self._inspector = inspector
        self._drops = drops
        self._retained = retained
        self._members = members
        self._ring_side = ring_side
        self._owners = owners
        self._former = former
        self._functions = functions

    def flows(self, only: Only = EVERY) -> list[Json]:
        """The contract's `flows`, of those that are asked for."""
        seen, sent = maps.read_table(self._map("flows"))
        keys = only.of(one.tuple for one in seen)
        if keys is not None:
            seen = [one for one in seen if one.tuple in keys]
            sent = [one for one in sent if one.tuple in keys]
        return flow_rows(seen, sent, self._view())

    def rules(self, only: Only = EVERY) -> list[Json]:
        """The contract's `rules`, of those that are asked for."""
        rows = rule_rows(list(maps.read_rules(self._map("flows"))), self._view())
        return only.rows(rows)

    def routes(self) -> list[Json]:
        """The policy, in order; packets: of the flows remembered, as they entered their chain."""
        routes = self._epochs.policy.routes
        packets = [0] * len(routes)
        for flow in maps.read_flows(self._map("flows")):
            enters = flow.verdict.flags & records.F_START
            if enters and flow.route is not None and flow.verdict.epoch == self._epochs.newest:
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
            for route in routes
        ]

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
        return explain.explain(vm, flow, self._epochs.lists, conn, name, seen, sent, self._view())

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
            self._retained,
            frozenset(row.route for row in self._epochs.lists.mirrors),
            {vm.index: drops for vm in self._vms.values() if (drops := _unread(vm))},
        )
        return verify.check(seen, sent, losses, self._view())

    def counters(self) -> dict[str, int]:
        """What was counted by name, since the start: packets, but for `given-up` and `pushed-out`,
        which are connections whose contents were given up."""
        found = maps.read_counters(self._map("counters")) | self._inspector.counters()
        return found | {"uncounted-drops": self._drops.missed()}

    def kernel_drops(self) -> dict[str, dict[str, int]] | None:
        """Packets that the kernel dropped, by its own reasons, in each VM, and in the switch's
        namespace (the empty name); None if the kernel does not tell."""
        totals = self._drops.totals()
        if totals is None:
            return None
        numbers = {name: vm.index for name, vm in self._vms.items()} | {"": SWITCH}
        found = {name: totals.get(number, {}) for name, number in numbers.items()}
        return found | {name: found[name] | _unread(vm) for name, vm in self._vms.items()}

    def unlike(self) -> dict[str, str]:
        """VMs whose own network is not as hostsim made it, by name, and what is unlike."""
        numbers = self._members().unlike
        return {vm: numbers[one.index] for vm, one in self._vms.items() if one.index in numbers}

    def taken_off(self) -> list[Json]:
        """The programs that somebody has taken off the switch's ports since these were made."""
        return [one.row() for one in self._members().taken_off]

    def _view(self) -> View:
        members, ring_side = self._members(), self._ring_side()
        numbers = {**{name: vm.index for name, vm in self._vms.items()}, **members.uplinks}
        return View(
            routes=self._epochs.policy.routes,
            numbers=numbers,
            names={**self._former, **{number: name for name, number in numbers.items()}},
            alive=members.alive | {*members.uplinks.values()},
            direct=members.direct,
            epoch=self._epochs.newest,
            now=time.clock_gettime_ns(time.CLOCK_MONOTONIC),
            on_switch=members.on_switch,
            unlike=members.unlike,
            judge=self._judge,
            watch=self._watched,
            rings=ring_side.rings,
            functions=frozenset(self._functions),
            ports=ring_side.snapshot(),
            owners=self._owners,
        )

    def _judge(self, flow: records.Flow) -> tuple[int | None, bool]:
        """Route and direction of a flow by the policy in force."""
        first, turned, _ = self._first(flow)
        judged = judge(self._epochs.lists.routes, first, self._owners)
        return judged.route, judged.reply != turned

    def _watched(self, flow: records.Flow) -> Watched:
        """The filter and the mirror that the policy in force has for a flow."""
        lists = self._epochs.lists
        if not lists.filters and not lists.mirrors:
            return NOBODY
        first, turned, enters = self._first(flow)
        reply = judge(lists.routes, first, self._owners).reply != turned
        return watched(lists, own(first, flow.tuple, enters, reply, turned))

    def _first(self, flow: records.Flow) -> tuple[First, bool, int]:
        """What is known of the packet that a flow's connection is judged by, whether that went the
        other way, and by whose port the flow enters the switch."""
        conn = maps.read_conn(self._map("conns"), flow.tuple)
        if conn is None:
            return First(flow.tuple, SYN, 0, flow.vm), False, flow.vm
        tuple_ = flow.tuple.reversed() if conn.turned else flow.tuple
        name = self._inspector.name_of(conn.content)
        names = (name,) if name else ()
        unseen = conn.content == records.UNSEEN_CONTENT
        first = First(tuple_, conn.tcp_flags, conn.dscp, conn.origin, names, unseen=unseen)
        return first, conn.turned, conn.back if conn.turned else conn.origin


def _unread(vm: Vm) -> dict[str, int]:
    """Frames that reached a packet function's eth0 and not the function, by name."""
    if vm.spec.nf is None or vm.netns_fd < 0:
        return {}
    try:
        full, dropped = unread(vm.netns_fd, vm.eth0)
    except OSError:  # its eth0 is gone, or changes now
        return {}
    return {name: n for name, n in (("function-full", full), ("no-function", dropped)) if n}
