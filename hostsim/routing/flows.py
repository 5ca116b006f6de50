# SPDX-License-Identifier: Apache-2.0
"""Flows in words: the rows of `hostsim flows` and `hostsim rules`, and the path of each hop. Pure.

It is given what the maps hold (cext/switch/maps.py) and what is known of the host (`View`), and
says what it means. Keys are those of hostsim/keys.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cext.switch.records import (
    DROP,
    F_INSPECT,
    F_UNSEEN,
    RULE_AFTER,
    STEER,
    Flow,
    Lists,
    Rule,
    Tuple,
)
from hostsim.keys import key_text
from hostsim.model import Json, RouteSpec
from hostsim.routing.accounts import Snapshot
from hostsim.routing.policy import First, Owners, first_match


@dataclass(frozen=True)
class Watched:
    """What the switch does with a flow besides its route."""

    filtered: bool = False  # a filter drops it
    mirror: int = 0  # the VM or endpoint that gets a copy, 0: none


NOBODY = Watched()
FILTERED = "a filter drops it"


@dataclass(frozen=True)
class View:
    """What is known about a host when its flows are shown. VMs, endpoints and uplinks are numbers,
    as in the kernel's maps."""

    routes: Sequence[RouteSpec]  # of the policy in force
    numbers: Mapping[str, int]  # of VMs, endpoints and uplinks, by name
    names: Mapping[int, str]  # the same by number
    alive: frozenset[int]  # those that the switch can reach
    direct: frozenset[frozenset[int]]  # pairs that have a direct link
    epoch: int  # the newest; a decision of another one is stale
    now: int  # ns, CLOCK_MONOTONIC
    on_switch: Mapping[int, str] = field(default_factory=dict)
    """Those whose packets the switch must see, and why."""
    unlike: Mapping[int, str] = field(default_factory=dict)
    # ^ VMs whose own network is not as hostsim made it: what is unlike
    judge: Callable[[Flow], tuple[int | None, bool]] = lambda flow: (flow.route, flow.reply)
    # ^ route (None: bridged) and whether it is a reply, by the policy in force, of a stale flow
    watch: Callable[[Flow], Watched] = lambda flow: NOBODY  # by the policy in force
    rings: Mapping[tuple[int, Tuple], int] = field(default_factory=dict)
    # ^ the receiver of each flow that has a rule into a ring, by sender and flow
    functions: frozenset[int] = frozenset()  # VMs with a packet function
    ports: Snapshot = field(default_factory=Snapshot)  # what packet functions' ports counted
    owners: Owners = field(default_factory=dict)  # who has which address


@dataclass(frozen=True)
class HopFacts:
    """What decides the path of one hop of a flow, from `vm` to the first of `rest`."""

    vm: int
    rest: Sequence[int]  # the VMs behind it in the chain, in the order of the flow
    flow: Flow | None  # what the switch has seen at the port of `vm`
    rule: Rule | None  # what the transfer component of `vm` has sent
    route: RouteSpec
    watched: Watched = NOBODY  # by the policy in force


def flow_rows(flows: Sequence[Flow], rules: Sequence[Rule], view: View) -> list[Json]:
    """The contract's `flows`: one row for each flow, one direction, that the switch has seen."""
    ports: dict[Tuple, dict[int, Flow]] = {}
    for flow in flows:
        ports.setdefault(flow.tuple, {})[flow.vm] = flow
    sent = {(rule.vm, rule.tuple): rule for rule in rules}
    rows = []
    for key, at in ports.items():
        newest = max(at.values(), key=lambda flow: (flow.verdict.epoch, flow.route is not None))
        number, reply = newest.route, newest.reply
        if newest.verdict.epoch != view.epoch:
            number, reply = view.judge(newest)
        route = view.routes[number] if number is not None else None
        chain = [view.numbers[name] for name in route.through] if route else []
        watched = view.watch(newest)
        if reply:
            chain.reverse()
        rows.append(
            {
                "key": key_text(key),
                "route": number,
                "direction": "reply" if reply else "forward",
                "contents": _contents(newest),
                "hops": [
                    _hop(
                        HopFacts(
                            vm,
                            chain[place + 1 :],
                            at.get(vm),
                            sent.get((vm, key)),
                            route,
                            watched,
                        ),
                        view,
                    )
                    for place, vm in enumerate(chain)
                    if route is not None
                ],
            }
        )
    return rows


def _contents(flow: Flow) -> str | None:
    """What is still to be said of a flow's contents, if its route hangs on them: they are looked
    at (`asked`), or nobody will ever know them (`unseen`)."""
    if flow.verdict.flags & F_UNSEEN:
        return "unseen"
    return "asked" if flow.verdict.flags & F_INSPECT else None


def _hop(facts: HopFacts, view: View) -> Json:
    vm, flow, rule = facts.vm, facts.flow, facts.rule
    switch = {
        "packets": flow.packets if flow else 0,
        "bytes": flow.bytes if flow else 0,
    }
    veth = {
        "packets": rule.veth_packets if rule else 0,
        "bytes": rule.veth_bytes if rule else 0,
    }
    account = view.ports.sent.get((vm, flow.tuple)) if flow else None
    packets, size = account.ring if account else (0, 0)
    ring = {"packets": packets, "bytes": size}
    path, reason = path_of(facts, view)
    to = facts.rest[0] if facts.rest else 0
    if flow is not None and flow.verdict.action == STEER and flow.verdict.epoch == view.epoch:
        to = flow.verdict.to
    return {
        "vm": view.names[vm],
        "to": view.names.get(to, "bridge"),
        "path": path,
        "packets": switch["packets"] + veth["packets"] + ring["packets"],
        "bytes": switch["bytes"] + veth["bytes"] + ring["bytes"],
        "paths": {"switch": switch, "veth": veth, "ring": ring},
        "reason": reason,
    }


def path_of(facts: HopFacts, view: View) -> tuple[str, str]:
    """The path that a hop uses now (`switch`, `veth`, `ring`), and why."""
    vm, rest, flow, rule = facts.vm, facts.rest, facts.flow, facts.rule
    route, watched = facts.route, facts.watched
    for one in (vm, *rest[:1]):
        if one in view.unlike and one not in view.functions and vm in view.alive:
            return "switch", f"{view.names[one]}: {view.unlike[one]}"
    if rule is not None and is_rule(rule, view.epoch):
        return "veth", f"rule: straight to {view.names[rule.verdict.to]} by veth"
    now = flow is not None and flow.verdict.epoch == view.epoch
    if flow is not None and now and (vm, flow.tuple) in view.rings:
        return "ring", f"rule: straight to {view.names[flow.verdict.to]} by ring"
    if flow is not None and now and flow.verdict.action == DROP:
        gone = flow.verdict.to
        return "switch", f"{view.names[gone]} is gone: dropped" if gone else FILTERED
    if watched.filtered:
        return "switch", FILTERED
    if vm not in view.alive:
        return "switch", f"{view.names[vm]} is gone"
    if not rest:
        return "switch", "next is outside: the switch delivers"
    for one in (vm, rest[0]):
        if one in view.on_switch:
            return (
                "switch",
                f"{view.names[one]} {view.on_switch[one]}: the switch must see its packets",
            )
    if watched.mirror:
        return "switch", f"mirrored to {view.names[watched.mirror]}: the switch must see it"
    if route.bypass == "never":
        return "switch", "route says bypass = never"
    functions = [view.names[one] for one in (vm, rest[0]) if one in view.functions]
    if route.bypass == "ring" and len(functions) < 2:
        return "switch", "route says bypass = ring, and there is no ring for this hop"
    if route.bypass == "veth" and functions:
        return "switch", f"route says bypass = veth, and {functions[0]} is a packet function"
    if flow is None:
        return "switch", "nothing sent yet"
    if not now:
        return "switch", "the policy is newer: judged again with its next packet"
    if flow.packets < RULE_AFTER:
        return "switch", f"first packets: {flow.packets} of {RULE_AFTER} seen"
    if len(functions) == 1:
        return "switch", f"{functions[0]} is a packet function: there is no direct link to it"
    if functions:
        return "switch", "the rule comes with the daemon's next look, if its table has a place"
    if frozenset((vm, rest[0])) not in view.direct:
        return "switch", f"the direct link to {view.names[rest[0]]} is not there yet"
    return "switch", "the rule comes with its next packet, if there is one"


def watched(lists: Lists, first: First) -> Watched:
    """What filters and mirrors say of a flow; first: the flow itself, and what is known of its
    connection's first packet."""
    mirror = first_match(lists.mirrors, first)
    return Watched(
        first_match(lists.filters, first) is not None,
        lists.mirrors[mirror].route if mirror is not None else 0,
    )


def is_rule(rule: Rule, epoch: int) -> bool:
    """Whether the entry is a routing rule that holds now."""
    return rule.verdict.to != 0 and rule.verdict.epoch == epoch


def rule_rows(rules: Sequence[Rule], view: View) -> list[Json]:
    """The contract's `rules`: those that hold now."""
    found = [
        (rule.vm, rule.tuple, rule.verdict.to, "veth", rule.veth_packets, rule.last)
        for rule in rules
        if is_rule(rule, view.epoch)
    ]
    for (vm, key), to in view.rings.items():
        account = view.ports.sent.get((vm, key))
        found.append(
            (
                vm,
                key,
                to,
                "ring",
                account.ring[0] if account else 0,
                account.last if account else view.now,
            )
        )
    return [
        {
            "vm": view.names[vm],
            "key": key_text(key),
            "to": view.names[to],
            "path": path,
            "epoch": view.epoch,
            "packets": packets,
            "idle_s": round(max(0, view.now - last) / 1e9, 1),
        }
        for vm, key, to, path, packets, last in found
    ]
