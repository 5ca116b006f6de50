# SPDX-License-Identifier: Apache-2.0
"""`hostsim explain`: what would happen to a flow, live or imagined, and why. Pure.

It asks what decides: policy.py for the route and the next VM, flows.py for the path of each hop.
"""

from collections.abc import Sequence

from cext.switch.records import DROP, STEER, UNSEEN_CONTENT, Conn, Flow, Lists, Rule, Tuple
from hostsim.keys import key_text
from hostsim.model import Json
from hostsim.routing import policy
from hostsim.routing.flows import HopFacts, View, path_of, watched

UDP, HTTPS = 17, 443


def explain(
    vm: str,
    flow: Tuple,
    lists: Lists,
    conn: Conn | None,
    name: tuple[str, str] | None,
    flows: Sequence[Flow],
    rules: Sequence[Rule],
    view: View,
) -> Json:
    """The contract's `explain`. vm: where the packet is seen; conn: what the switch remembers of
    its connection, None for an imagined flow, whose first packet this is then; name: what the
    connection's contents told."""
    here = view.numbers[vm]
    origin = conn.origin if conn else here
    turned = bool(conn and conn.turned)
    first = policy.First(
        flow.reversed() if turned else flow,
        conn.tcp_flags if conn else policy.SYN,
        conn.dscp if conn else 0,
        origin,
        (name,) if name else (),
        unseen=bool(conn and conn.content == UNSEEN_CONTENT),
    )
    # In a frame to one host, such a packet has a connection, and routes hold for it.
    group = policy.to_group(flow) and conn is None
    judged = policy.judge(lists.routes, first, view.owners)
    row = None if group else judged.row
    route = view.routes[lists.routes[row].route] if row is not None else None
    reply = False if group else judged.reply != turned
    chain = [view.numbers[one] for one in route.through] if route else []
    enters = 0 if here in chain else here
    on_it = watched(lists, policy.own(first, flow, enters, reply, turned))
    ordered = chain[::-1] if reply else chain
    ports = {one.vm: one for one in flows if one.tuple == flow}
    sent = {one.vm: one for one in rules if one.tuple == flow}
    skip = route is not None and route.on_failure == "skip"
    hops = []
    for place, number in enumerate(ordered):
        assert route is not None
        hop = policy.next_hop(chain, number, reply, view.alive.__contains__, skip)
        facts = HopFacts(
            number, ordered[place + 1 :], ports.get(number), sent.get(number), route, on_it
        )
        path, reason = path_of(facts, view)
        to = view.names[hop.to] if hop.action in (STEER, DROP) else "bridge"
        hops.append({"vm": view.names[number], "to": to, "path": path, "reason": reason})
    result = policy.next_hop(chain, here, reply, view.alive.__contains__, skip)
    return {
        "vm": vm,
        "flow": key_text(flow),
        "live": conn is not None,
        "direction": "reply" if reply else "forward",
        "route": route.index if route else None,
        "contents": {name[0]: name[1]} if name else None,
        "unseen": bool(conn and conn.content == UNSEEN_CONTENT),
        "undecided": not group and judged.undecided and not (conn and conn.content),
        "filtered": on_it.filtered,
        "mirror": view.names[on_it.mirror] if on_it.mirror else None,
        "next": _next(result, on_it.filtered, view),
        "why": "to a group: the bridge delivers, past every route"
        if group and not on_it.filtered
        else _why(result, on_it.filtered, route is not None, view) + _quic(flow, view),
        "hops": hops,
    }


def _next(hop: policy.Hop, filtered: bool, view: View) -> str:
    if filtered or hop.action == DROP:
        return "drop"
    return view.names[hop.to] if hop.action == STEER else "bridge"


def _quic(flow: Tuple, view: View) -> str:
    """A word on a flow that may be QUIC (RFC 9000), if a route asks for names."""
    asked = any(route.match.sni or route.match.http_host for route in view.routes)
    if not asked or flow.proto != UDP or HTTPS not in (flow.sport, flow.dport):
        return ""
    return "; if this is QUIC, nobody looks for its name"


def _why(hop: policy.Hop, filtered: bool, routed: bool, view: View) -> str:
    if filtered:
        return "a filter drops it at the switch"
    if not routed:
        return "no route matches: plain bridging"
    if hop.action == DROP:
        return f"{view.names[hop.to]} is gone, and the route says on_failure = drop"
    if hop.action == STEER:
        place = "enters its chain here" if hop.start else "goes on along its chain"
        return f"the flow {place}"
    return "past the last VM of its chain: the bridge delivers"
