# SPDX-License-Identifier: Apache-2.0
"""The keys of a [[vm]] or [[endpoint]] about its own network: mtu, gateway, routes, offload and
router. Pure.

    mtu(table, addresses) -> int                        bytes
    ways(table, addresses) -> tuple[WaySpec, ...]       gateway, then routes
    offload(table) -> bool
    router(table) -> bool

Each raises HostFileError.
"""

import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from hostsim.hostfile.table import Table
from hostsim.model import MTU, Address, Interface, Network, WaySpec

MTU_MIN, MTU_MIN_V6, MTU_MAX = 68, 1280, 9000
"""ETH_MIN_MTU of the kernel, what IPv6 wants of a link (RFC 8200, 5), and jumbo frames."""
ANY = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}

_WAY = re.compile(r"(\S+)(?: via (\S+))?(?: mtu ([0-9]{1,5}))?", re.ASCII)


def mtu(table: Table, addresses: Sequence[Interface]) -> int:
    """See above."""
    allowed = f"bytes of a packet, {MTU_MIN} to {MTU_MAX}"
    value = table.take("mtu", int, allowed)
    if value is None:
        return MTU
    if not MTU_MIN <= value <= MTU_MAX:
        table.fail(f"mtu = {value} is not allowed", f"mtu is {allowed}")
    if value < MTU_MIN_V6 and any(address.version == 6 for address in addresses):
        table.fail(f"mtu = {value} with an IPv6 address", f"IPv6 wants {MTU_MIN_V6} or more")
    return int(value)


def offload(table: Table) -> bool:
    """See above."""
    value = table.take("offload", bool, "true or false")
    return True if value is None else bool(value)


def router(table: Table) -> bool:
    """See above."""
    return bool(table.take("router", bool, "true or false"))


def ways(table: Table, addresses: Sequence[Interface]) -> tuple[WaySpec, ...]:
    """See above. A router is in one of the VM's own subnets."""
    found = [*_gateways(table, addresses), *_routes(table, addresses)]
    seen: set[Network] = set()
    for way in found:
        if way.to in seen:
            table.fail(f"two routes to {way.to}", "one router for each network")
        seen.add(way.to)
    return tuple(found)


def _gateways(table: Table, addresses: Sequence[Interface]) -> list[WaySpec]:
    allowed = 'the router\'s address, "198.18.0.1", or a list with one of each IP version'
    value = table.take("gateway", (str, list), allowed)
    found = []
    for text in [] if value is None else [value] if isinstance(value, str) else value:
        router = _router(table, "gateway", text, addresses, allowed)
        found.append(WaySpec(ANY[router.version], router))
    return found


def _routes(table: Table, addresses: Sequence[Interface]) -> list[WaySpec]:
    allowed = (
        'a list of "NETWORK via ROUTER", "NETWORK" on the link, each perhaps with " mtu BYTES"'
    )
    found = []
    for text in table.take("routes", list, allowed) or ():
        match = _WAY.fullmatch(text) if isinstance(text, str) else None
        try:
            to = ip_network(match.group(1)) if match else None
        except ValueError as error:
            table.fail(f"routes has {text!r}: {error}", f"routes is {allowed}")
        if match is None or to is None:
            table.fail(f"routes has {text!r}", f"routes is {allowed}")
        if to.is_multicast or to.is_loopback:
            table.fail(f"routes has {text!r}: no network of devices", f"routes is {allowed}")
        via, bytes_ = match.group(2), match.group(3)
        router = None if via is None else _router(table, "routes", via, addresses, allowed)
        if router is not None and router.version != to.version:
            table.fail(f"routes has {text!r}", "network and router have one IP version")
        if router is None and not any(one.version == to.version for one in addresses):
            table.fail(f"routes has {text!r}, and the VM no IPv{to.version} address", "add one")
        if any(one.network == to for one in addresses):
            table.fail(f"routes has {text!r}, which is the VM's own subnet", "leave it out")
        longest = None if bytes_ is None else int(bytes_)
        if longest is not None and not MTU_MIN <= longest <= MTU_MAX:
            table.fail(f"routes has {text!r}", f"mtu is {MTU_MIN} to {MTU_MAX} bytes")
        found.append(WaySpec(to, router, longest))
    return found


def _router(
    table: Table, key: str, text: object, addresses: Sequence[Interface], allowed: str
) -> Address:
    try:
        router = ip_address(text) if isinstance(text, str) else None
    except ValueError:
        router = None
    if router is None or router.is_multicast or router.is_unspecified or router.is_loopback:
        table.fail(f"{key}: {text!r} is no device's address", f"{key} is {allowed}")
    if any(router == one.ip for one in addresses):
        table.fail(f"{key}: {text!r} is the VM itself", "the address of another device")
    if not any(router in one.network for one in addresses):
        table.fail(
            f"{key}: {text!r} is in none of the VM's subnets",
            f"its addresses: {', '.join(map(str, addresses)) or 'none'}",
        )
    return router
