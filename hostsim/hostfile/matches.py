# SPDX-License-Identifier: Apache-2.0
"""The tables of a host file that are about packets: [[route]], [[filter]], [[mirror]]. Pure.

Each function takes the checked-out Table and the names that exist, and returns the model's part,
or raises HostFileError with what is allowed.
"""

import re
from collections.abc import Collection
from ipaddress import ip_network
from typing import Any

from hostsim.hostfile.table import Table, is_number
from hostsim.model import (
    BypassMode,
    FilterSpec,
    MatchSpec,
    MirrorSpec,
    Network,
    OnFailure,
    OnFull,
    RingMode,
    RouteSpec,
)
from hostsim.names import ETHERTYPE_MIN, ETHERTYPES, HAS_PORTS, PROTOCOLS, TCP_FLAGS, VLAN_MAX

CONTENTS = {"sni": (6,), "http_host": (6,), "dns_name": (6, 17)}
"""What contents can be matched, and the protocols that carry them."""
MATCH_KEYS = (
    "src",
    "dst",
    "proto",
    "sport",
    "dport",
    "from",
    "tcp_flags",
    "dscp",
    "vlan",
    "ethertype",
    *CONTENTS,
)

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_PATTERN = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([kmg]?)bit", re.IGNORECASE | re.ASCII)
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def route(table: Table, index: int, vms: Collection[str], endpoints: Collection[str]) -> RouteSpec:
    """One [[route]]."""
    match = _match(table, {*vms, *endpoints})
    through = table.take("through", list, "a list of VM names")
    if not through:
        table.fail("through is missing or empty", "the VMs of the chain, in order")
    for name in through:
        if not isinstance(name, str) or name not in vms:
            table.fail(
                f"through names {name!r}, which is "
                + ("an endpoint" if name in endpoints else "no VM of this host"),
                f"VMs are: {', '.join(sorted(vms)) or 'none'}",
            )
    if len(set(through)) != len(through):
        table.fail("through names a VM twice", "a chain passes each VM once")
    if len(through) > 16:
        table.fail("through names more than 16 VMs", "a chain has at most 16")
    bypass = table.choice("bypass", BypassMode, "auto")
    on_failure = table.choice("on_failure", OnFailure, "drop")
    on_full = table.choice("on_full", OnFull, "wait")
    ring = table.choice("ring", RingMode, "isolated")
    table.done()
    return RouteSpec(index, match, tuple(through), bypass, on_failure, on_full, ring)


def packet_filter(table: Table, index: int, names: Collection[str]) -> FilterSpec:
    """One [[filter]]; names: of all VMs and endpoints."""
    match = _match(table, names)
    if match.sni or match.http_host or match.dns_name:
        table.fail("a filter matches L2 to L4 only", "route by contents to a VM that filters")
    table.done()
    return FilterSpec(index, match)


def mirror(table: Table, index: int, names: Collection[str]) -> MirrorSpec:
    """One [[mirror]]."""
    match = _match(table, names)
    if match.sni or match.http_host or match.dns_name:
        table.fail("a mirror matches L2 to L4 only", "mirror by addresses and ports")
    to = table.take("to", str, "the name of a VM or endpoint")
    if to not in names:
        table.fail(
            f"to = {to!r} is no VM or endpoint of this host", f"there are: {', '.join(names)}"
        )
    table.done()
    return MirrorSpec(index, match, to)


def rate(table: Table) -> int | None:
    """The bit/s of `rate = "100mbit"`."""
    allowed = 'bits a second, such as "100mbit", from 8kbit to 30gbit'
    text = table.take("rate", str, allowed)
    if text is None:
        return None
    found = _RATE.fullmatch(text)
    value = (
        int(float(found.group(1)) * 1000 ** " kmg".index(found.group(2).lower() or " "))
        if found
        else 0
    )
    if not 8000 <= value <= 30_000_000_000:
        table.fail(f"rate = {text!r} is not allowed", f"rate is {allowed}")
    return value


def rule_match(table: Table) -> MatchSpec:
    """The match of a rule that a network function applies: it names no VM."""
    return _match(table, ())


def _match(table: Table, names: Collection[str]) -> MatchSpec:
    data = table.take("match", dict, "a table of what to match, { proto = …, dport = … }")
    if not data:
        table.fail("match is missing or empty", f"a table of: {', '.join(MATCH_KEYS)}")
    unknown = [key for key in data if key not in MATCH_KEYS]
    if unknown:
        table.fail(f"match has an unknown key {unknown[0]!r}", f"allowed: {', '.join(MATCH_KEYS)}")
    for key, value in data.items():
        if value in ([], "", {}):
            table.fail(f"{key} is empty", f"leave {key} out to match anything")
    match = MatchSpec(
        src=_networks(table, "src", data),
        dst=_networks(table, "dst", data),
        proto=_proto(table, data),
        sport=_ports(table, "sport", data),
        dport=_ports(table, "dport", data),
        origins=_origins(table, data, names),
        tcp_flags=_tcp_flags(table, data),
        dscp=_number(table, data, "dscp", 0, 63),
        vlan=_number(table, data, "vlan", 1, VLAN_MAX),
        ethertype=_ethertype(table, data),
        sni=_names(table, data, "sni"),
        http_host=_names(table, data, "http_host"),
        dns_name=_names(table, data, "dns_name"),
    )
    _fits(table, match)
    return match


def _fits(table: Table, match: MatchSpec) -> None:
    """Refuse what can never match."""
    if (match.sport or match.dport) and match.proto not in HAS_PORTS:
        table.fail("a port is matched without a protocol that has ports", 'add proto = "tcp"')
    if match.tcp_flags is not None and match.proto != 6:
        table.fail("tcp_flags without TCP", 'add proto = "tcp"')
    for key, protocols in CONTENTS.items():
        if getattr(match, key) and match.proto is not None and match.proto not in protocols:
            quic = "; in QUIC no name is looked for" if match.proto == 17 else ""
            table.fail(f"{key} is not in that protocol{quic}", "leave proto out")
    if match.ethertype not in (None, 0x0800, 0x86DD) and (
        match.src or match.dst or match.proto is not None or match.dscp is not None
    ):
        table.fail("ethertype is not IP's, and the match is of IP", "leave one of them out")
    if match.ethertype == ETHERTYPES["arp"]:
        table.fail("ARP is always bridged", "match the traffic that follows it")
    for net in (*match.src, *match.dst):
        if match.ethertype is not None and {4: 0x0800, 6: 0x86DD}[net.version] != match.ethertype:
            table.fail(f"{net} is not in that ethertype", "leave ethertype out")
    version = {1: 4, 58: 6}.get(match.proto or 0)
    for net in (*match.src, *match.dst):
        if version is not None and net.version != version:
            table.fail(f"{net} is not in that protocol", "icmp is IPv4's, icmpv6 is IPv6's")
    if version is not None and match.ethertype not in (None, {4: 0x0800, 6: 0x86DD}[version]):
        table.fail("proto is not in that ethertype", "leave ethertype out")
    versions = [{net.version for net in nets} for nets in (match.src, match.dst) if nets]
    if len(versions) == 2 and not versions[0] & versions[1]:
        table.fail("src and dst are of different IP versions", "no packet has both")


def _proto(table: Table, data: dict[str, Any]) -> int | None:
    proto = data.get("proto")
    if isinstance(proto, str):
        if proto not in PROTOCOLS:
            table.fail(f"proto = {proto!r} is not known", f"{', '.join(PROTOCOLS)}, or a number")
        proto = PROTOCOLS[proto]
    if proto is not None and not (is_number(proto) and 0 <= proto < 256):
        table.fail(f"proto = {proto!r} is not allowed", f"{', '.join(PROTOCOLS)}, or 0 to 255")
    return proto


def _number(table: Table, data: dict[str, Any], key: str, low: int, high: int) -> int | None:
    value = data.get(key)
    if value is not None and not (is_number(value) and low <= value <= high):
        table.fail(f"{key} = {value!r} is not allowed", f"{key} is a number, {low} to {high}")
    return value


def _ethertype(table: Table, data: dict[str, Any]) -> int | None:
    value = data.get("ethertype")
    if isinstance(value, str) and value in ETHERTYPES:
        return ETHERTYPES[value]
    if value is not None and not (is_number(value) and ETHERTYPE_MIN <= value <= 0xFFFF):
        table.fail(
            f"ethertype = {value!r} is not allowed",
            f"{', '.join(ETHERTYPES)}, or a number from {ETHERTYPE_MIN:#x}",
        )
    return value


def _tcp_flags(table: Table, data: dict[str, Any]) -> tuple[int, int] | None:
    value = data.get("tcp_flags")
    if value is None:
        return None
    mask = want = 0
    for word in value.split(",") if isinstance(value, str) else [""]:
        name = word.strip().removeprefix("!")
        if name not in TCP_FLAGS:
            table.fail(
                f"tcp_flags = {value!r} is not allowed",
                f'"syn,!ack": flags that are set, and with ! not set; of {", ".join(TCP_FLAGS)}',
            )
        bit = TCP_FLAGS[name]
        if mask & bit:
            table.fail(f"tcp_flags = {value!r} names {name} twice", "a flag is set, or it is not")
        mask |= bit
        want |= 0 if word.strip().startswith("!") else bit
    return mask, want


def _origins(table: Table, data: dict[str, Any], names: Collection[str]) -> tuple[str, ...]:
    value = data.get("from", [])
    found = value if isinstance(value, list) else [value]
    for name in found:
        if not isinstance(name, str) or name not in names:
            table.fail(
                f"from = {name!r} is no VM or endpoint of this host",
                f"there are: {', '.join(sorted(names))}",
            )
    return tuple(found)


def _names(table: Table, data: dict[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key, [])
    found: list[str] = []
    for text in value if isinstance(value, list) else [value]:
        lower = text.lower().rstrip(".") if isinstance(text, str) else ""
        if not _PATTERN.fullmatch(lower) or len(lower) > 253:
            table.fail(
                f"{key} = {text!r} is not allowed",
                f'{key} is a host name, exact or with a leading "*.", or a list of these',
            )
        found.append(lower)
    return tuple(found)


def _networks(table: Table, key: str, data: dict[str, Any]) -> tuple[Network, ...]:
    value = data.get(key, [])
    found: list[Network] = []
    for text in value if isinstance(value, list) else [value]:
        try:
            found.append(ip_network(text if isinstance(text, str) else ""))
        except ValueError:
            table.fail(
                f"{key} = {text!r} is not allowed",
                f'{key} is a network, "198.18.0.0/24", with no bits set behind the prefix',
            )
    return tuple(found)


def _ports(table: Table, key: str, data: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    value = data.get(key, [])
    found: list[tuple[int, int]] = []
    for item in value if isinstance(value, list) else [value]:
        text = _PORT.fullmatch(item) if isinstance(item, str) else None
        if text is not None:
            low, high = int(text.group(1)), int(text.group(2) or text.group(1))
        else:
            low = high = item if is_number(item) else -1
        if not 0 <= low <= high <= 65535:
            table.fail(
                f"{key} = {item!r} is not allowed",
                f'{key} is a port, a range "8000-8099", or a list of these',
            )
        found.append((low, high))
    return tuple(found)
