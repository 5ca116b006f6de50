# SPDX-License-Identifier: Apache-2.0
"""The tables of a host file that are a shipped network function's: [[vm.rule]], [vm.nat],
[vm.source]. Pure.

Each function takes the checked-out Table of the VM, and returns the model's part, or raises
HostFileError with what is allowed.
"""

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any, Literal

from hostsim.errors import UsageError
from hostsim.hostfile import matches
from hostsim.hostfile.table import Table
from hostsim.keys import parse_key
from hostsim.model import (
    FirewallRule,
    FirewallSpec,
    NatSpec,
    RouteSpec,
    SourceSpec,
    VmSpec,
)

Verdict = Literal["accept", "drop"]
NOT_IN_A_RULE = ("from", *matches.CONTENTS)
"""What a match has for the switch alone: a network function sees a frame and no more."""
IN_A_RULE = tuple(key for key in matches.MATCH_KEYS if key not in NOT_IN_A_RULE)
PORTS = (1024, 65535)
_PORTS = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
FRAME_MIN, ETHERNET = 60, 14
SENT = (6, 17)
TCP_HEADER, UDP_HEADER = 20, 8


def settings(
    table: Table, place: str, nf: str | None, mtu: int
) -> FirewallSpec | NatSpec | SourceSpec | None:
    """What the VM's function is told. place: of the VM in the file, for messages; mtu: its."""
    rules, default = _rules(table, place), table.choice("default", Verdict, "drop")
    nat = _inner(table, place, "nat")
    source = _inner(table, place, "source")
    found: FirewallSpec | NatSpec | SourceSpec | None = None
    if nf == "firewall":
        found = FirewallSpec(rules, default == "accept")
    elif nf == "nat":
        found = _nat(nat)
    elif nf == "source":
        if source is None:
            table.fail('nf = "source" without [vm.source]', "it says which flow to send")
        found = _source(source, mtu + ETHERNET)
    for key, owner in (("rule", "firewall"), ("default", "firewall"), ("nat", "nat"),
                       ("source", "source")):  # fmt: skip
        if table.has(key) and nf != owner:
            table.fail(f"{key} is for a VM with nf = {owner!r}", "take it out")
    return found


def _inner(table: Table, place: str, key: str) -> Table | None:
    data = table.take(key, dict, f"a table [vm.{key}]")
    return None if data is None else Table(place, 0, f"[vm.{key}]", data)


def _rules(table: Table, place: str) -> tuple[FirewallRule, ...]:
    allowed = "a list of tables [[vm.rule]]"
    found = []
    for nth, data in enumerate(table.take("rule", list, allowed) or []):
        if not isinstance(data, dict):
            table.fail("rule is not a list of tables", "write [[vm.rule]] before each")
        inner = Table(place, 0, f"[[vm.rule]] {nth + 1}", data)
        wanted = inner.take("match", dict, "a table of what to match")
        for key in NOT_IN_A_RULE:
            if key in (wanted or {}):
                inner.fail(
                    f"{key} cannot be matched by a firewall",
                    f"allowed: {', '.join(IN_A_RULE)}",
                )
        match = matches.rule_match(inner)
        if not inner.has("do"):
            inner.fail("do is missing", "do is one of accept, drop")
        verdict = inner.choice("do", Verdict, "drop")
        inner.done()
        found.append(FirewallRule(match, verdict == "accept"))
    return tuple(found)


def _nat(table: Table | None) -> NatSpec:
    if table is None:
        return NatSpec(PORTS)
    allowed = 'the ports of the outside address, "1024-65535"'
    text = table.take("ports", str, allowed)
    low, high = PORTS
    if text is not None:
        found = _PORTS.fullmatch(text)
        low, high = (int(end) for end in found.groups()) if found else (0, 0)
        if not 1 <= low <= high <= 65535:
            table.fail(f"ports = {text!r} is not allowed", f"ports is {allowed}")
    table.done()
    return NatSpec((low, high))


def _source(table: Table, longest: int) -> SourceSpec:
    text = table.take("flow", str, "a flow, udp:198.18.0.1:4000>198.18.0.20:9")
    if text is None:
        table.fail("flow is missing", "a flow, udp:198.18.0.1:4000>198.18.0.20:9")
    try:
        flow = parse_key(text)
    except UsageError as error:
        table.fail(f"flow = {text!r} is not allowed: {error.why}", error.hint)
    if flow.proto not in SENT or flow.vlan:
        table.fail(f"flow = {text!r} is not allowed", "a source sends TCP or UDP, untagged")
    least = 14 + (20 if flow.family == 4 else 40) + (TCP_HEADER if flow.proto == 6 else UDP_HEADER)
    size = _number(table, "size", max(FRAME_MIN, least), longest, max(FRAME_MIN, least), "bytes")
    rate = _number(table, "rate", 0, 100_000_000, 0, "packets a second, 0 for as many as go")
    count = _number(table, "count", 0, 1 << 48, 0, "packets, 0 for no end")
    table.done()
    return SourceSpec(
        ip_address(flow.src), ip_address(flow.dst), flow.proto, flow.sport, flow.dport,
        size, rate, count,
    )  # fmt: skip


def _number(table: Table, key: str, low: int, high: int, default: int, what: str) -> int:
    allowed = f"{what}, {low} to {high}"
    value = table.take(key, int, allowed)
    if value is None:
        return default
    if not low <= value <= high:
        table.fail(f"{key} = {value} is not allowed", f"{key} is {allowed}")
    return int(value)


def outside_address(spec: VmSpec) -> IPv4Address | None:
    """The address that a nat VM puts in place of others; None if it has none, or several."""
    found = [a.ip for a in spec.addresses if isinstance(a.ip, IPv4Address)]
    return found[0] if len(found) == 1 else None


def check_nat(route: RouteSpec, vms: Mapping[str, VmSpec]) -> str | None:
    """Why a route cannot go through the translators it names; None: it can.

    The switch judges a translated packet as the first one of another connection, which the same
    route must match where the chain goes on behind the translator.
    """
    translators = [name for name in route.through if vms[name].nf == "nat"]
    if not translators:
        return None
    match = route.match
    if match.sni or match.http_host or match.dns_name:
        return "a connection has begun, untranslated, before its contents are known"
    for name in translators:
        if name == route.through[-1]:
            continue
        address = outside_address(vms[name])
        if match.sport or match.origins or (match.src and not _holds(match.src, address)):
            return (
                f"{name!r} is not the last of the chain, and what it sends does not match"
                " (src, sport or from)"
            )
    return None


def _holds(networks: Sequence[Any], address: IPv4Address | None) -> bool:
    return any(address in network for network in networks)
