# SPDX-License-Identifier: Apache-2.0
"""Matches in words, and routes that can never match. Pure."""

from collections.abc import Sequence

from hostsim.model import Json, MatchSpec, Network, RouteSpec
from hostsim.names import PROTOCOL_NAMES, TCP_FLAGS


def match_json(match: MatchSpec) -> Json:
    """A match as the host file would say it; lists if there are several."""
    found: Json = {}
    for key, name in (("src", "src"), ("dst", "dst"), ("from", "origins"), ("sni", "sni"),
                      ("http_host", "http_host"), ("dns_name", "dns_name")):  # fmt: skip
        values = [str(value) for value in getattr(match, name)]
        if values:
            found[key] = values[0] if len(values) == 1 else values
    if match.proto is not None:
        found["proto"] = PROTOCOL_NAMES.get(match.proto, match.proto)
    for key in ("sport", "dport"):
        ranges = [low if low == high else f"{low}-{high}" for low, high in getattr(match, key)]
        if ranges:
            found[key] = ranges[0] if len(ranges) == 1 else ranges
    if match.tcp_flags is not None:
        mask, want = match.tcp_flags
        words = [
            ("" if want & bit else "!") + name for name, bit in TCP_FLAGS.items() if mask & bit
        ]
        found["tcp_flags"] = ",".join(words)
    for key in ("dscp", "vlan", "ethertype"):
        if getattr(match, key) is not None:
            found[key] = getattr(match, key)
    return found


def shadowed(routes: Sequence[RouteSpec]) -> list[tuple[RouteSpec, RouteSpec]]:
    """Routes that can never match, each with the earlier one that takes all of its packets."""
    found = []
    for at, route in enumerate(routes):
        above = next((one for one in routes[:at] if covers(one.match, route.match)), None)
        if above is not None:
            found.append((route, above))
    return found


def covers(wide: MatchSpec, narrow: MatchSpec) -> bool:
    """Whether `wide` holds for every packet that `narrow` holds for. Says no if it is not
    sure."""
    for name in ("src", "dst"):
        if not _nets_cover(getattr(wide, name), getattr(narrow, name)):
            return False
    for name in ("sport", "dport"):
        if not _ranges_cover(getattr(wide, name), getattr(narrow, name)):
            return False
    for name in ("origins", "sni", "http_host", "dns_name"):
        outer, inner = set(getattr(wide, name)), set(getattr(narrow, name))
        if outer and (not inner or not inner <= outer):
            return False
    if wide.vlan != narrow.vlan:  # None is untagged only
        return False
    if wide.ethertype is None and narrow.ethertype not in (None, 0x0800, 0x86DD):
        return False
    for name in ("proto", "tcp_flags", "dscp", "ethertype"):
        if getattr(wide, name) is not None and getattr(wide, name) != getattr(narrow, name):
            return False
    return True


def _nets_cover(wide: Sequence[Network], narrow: Sequence[Network]) -> bool:
    if not wide:
        return True
    return bool(narrow) and all(
        any(
            net.version == one.version
            and int(one.network_address) <= int(net.network_address)
            and int(net.broadcast_address) <= int(one.broadcast_address)
            for one in wide
        )
        for net in narrow
    )


def _ranges_cover(wide: Sequence[tuple[int, int]], narrow: Sequence[tuple[int, int]]) -> bool:
    if not wide:
        return True
    return bool(narrow) and all(
        any(low <= first and last <= high for low, high in wide) for first, last in narrow
    )
