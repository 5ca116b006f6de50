"""Flows in words: their keys as text, and the rows of `hostsim flows` and `hostsim rules`.

Pure: it is given what the maps hold (cext/switch/maps.py) and the names, and says what it means.
A flow's key is `proto:source>destination`, as in `tcp:198.18.0.10:40000>198.18.0.20:80`; IPv6
addresses are in brackets; ICMP echo has its identifier for a port; what has no ports has none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from cext.switch.records import DROP, RULE_AFTER, STEER, Flow, Lists, Rule, Tuple
from hostsim.errors import UsageError
from hostsim.model import Json, RouteSpec
from hostsim.routing.accounts import Snapshot
from hostsim.routing.policy import HAS_PORTS, First, first_match

NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
NUMBERS = {name: number for number, name in NAMES.items()}
ICMP = frozenset({1, 58})
MAC = "((?:[0-9a-f]{2}:){5}[0-9a-f]{2})"
FRAME = re.compile(f"0x([0-9a-f]{{1,4}})(?:@([0-9]{{1,4}}))?:{MAC}>{MAC}", re.IGNORECASE)
ETHERTYPE_MIN = 0x600  # below, it is a length (IEEE 802.3)
VLAN_MAX = 4094


@dataclass(frozen=True)
class Watched:
    """What on the switch concerns a flow besides its route: a filter, and the VM or endpoint that
    gets a copy (0: none)."""

    filtered: bool = False
    mirror: int = 0


NOBODY = Watched()
FILTERED = "a filter drops it"


@dataclass(frozen=True)
class View:
    """What is known about a host when its flows are shown. numbers, names: VMs by name and by
    number; alive: the numbers of those that live; direct: pairs with a direct link; on_switch:
    those with a rate; judge: route and direction, by the policy in force, of a flow decided
    before it; watch: the filter and mirror that it has for a flow; rings: flows that have a rule
    into a ring, by the VM that sends them, and the VM it names; functions: VMs with a packet
    function; ports: what those have counted."""

    routes: Sequence[RouteSpec]
    numbers: Mapping[str, int]
    names: Mapping[int, str]
    alive: frozenset[int]
    direct: frozenset[frozenset[int]]
    epoch: int
    now: int
    on_switch: frozenset[int] = frozenset()
    judge: Callable[[Flow], tuple[int | None, bool]] = lambda flow: (flow.route, flow.reply)
    watch: Callable[[Flow], Watched] = lambda flow: NOBODY
    rings: Mapping[tuple[int, Tuple], int] = field(default_factory=dict)
    functions: frozenset[int] = frozenset()
    ports: Snapshot = field(default_factory=Snapshot)


def key_text(flow: Tuple) -> str:
    """The flow's key."""
    proto = NAMES.get(flow.proto, str(flow.proto))
    vlan = f"@{flow.vlan}" if flow.vlan else ""
    if not flow.family:
        return f"0x{flow.sport:04x}{vlan}:{flow.src.hex(':')}>{flow.dst.hex(':')}"
    source, target = _host(flow.src), _host(flow.dst)
    if flow.proto in HAS_PORTS or (flow.proto in ICMP and flow.sport):
        source, target = f"{source}:{flow.sport}", f"{target}:{flow.dport}"
    return f"{proto}{vlan}:{source}>{target}"


def parse_key(text: str) -> Tuple:
    """The flow of a key. Raises UsageError."""
    try:
        if text.startswith("0x"):
            return _parse_frame(text)
        proto_text, rest = text.split(":", 1)
        proto_text, _, vlan = proto_text.partition("@")
        proto = NUMBERS[proto_text] if proto_text in NUMBERS else _number(proto_text)
        source, target = rest.split(">")
        src, sport = _parse_host(source, proto)
        dst, dport = _parse_host(target, proto)
        if len(src) != len(dst) or proto > 255 or (proto in ICMP and sport != dport):
            raise ValueError(text)
        tag = _number(vlan or "0", VLAN_MAX)
        return Tuple(4 if len(src) == 4 else 6, proto, src, sport, dst, dport, tag)
    except ValueError:
        raise UsageError(
            f"flow {text!r}",
            "is not a flow",
            "write it as tcp:198.18.0.10:40000>198.18.0.20:80, or udp:[fd00::1]:5>[fd00::2]:53",
        ) from None


def _number(text: str, most: int = 0xFFFF) -> int:
    """Digits and nothing else."""
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise ValueError(text)
    return int(text)


def _parse_frame(text: str) -> Tuple:
    """The flow of a key that is not IP: an ethertype between two MAC addresses."""
    found = FRAME.fullmatch(text)
    if found is None:
        raise ValueError(text)
    kind, vlan, src, dst = found.groups()
    ethertype, tag = int(kind, 16), int(vlan or 0)
    if ethertype < ETHERTYPE_MIN or tag > VLAN_MAX:
        raise ValueError(text)
    packed = (bytes.fromhex(address.replace(":", "")) for address in (src, dst))
    return Tuple(0, 0, next(packed), ethertype, next(packed), 0, tag)


def _host(address: bytes) -> str:
    text = str(ip_address(address))
    return f"[{text}]" if len(address) == 16 else text


def _parse_host(text: str, proto: int) -> tuple[bytes, int]:
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if proto in HAS_PORTS and not port:
        raise ValueError(text)
    if "%" in host:  # a scope is of one machine, not of a packet
        raise ValueError(text)
    return ip_address(host).packed, _number(port or "0")


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
                "hops": [
                    _hop(
                        vm,
                        chain[place + 1 :],
                        at.get(vm),
                        sent.get((vm, key)),
                        route,
                        view,
                        watched,
                    )
                    for place, vm in enumerate(chain)
                    if route is not None
                ],
            }
        )
    return rows


def _hop(
    vm: int,
    rest: Sequence[int],
    flow: Flow | None,
    rule: Rule | None,
    route: RouteSpec,
    view: View,
    watched: Watched,
) -> Json:
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
    path, reason = path_of(vm, rest, flow, rule, route, view, watched)
    to = rest[0] if rest else 0
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


def path_of(
    vm: int,
    rest: Sequence[int],
    flow: Flow | None,
    rule: Rule | None,
    route: RouteSpec,
    view: View,
    watched: Watched = NOBODY,
) -> tuple[str, str]:
    """The path a hop uses now, and why. watched: what the policy in force has on the flow."""
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
            return "switch", f"{view.names[one]} has a rate: the switch must see its packets"
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
    return "switch", "the rule comes with the next packet"


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
