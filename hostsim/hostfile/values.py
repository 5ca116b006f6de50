# SPDX-License-Identifier: Apache-2.0
"""Values of a host file that are checked by themselves: sizes in bytes, MAC addresses. Pure."""

import re

from hostsim.hostfile.table import Table

_SIZE = re.compile(r"([0-9]{1,18}) ?([KMGT]?)i?B?", re.IGNORECASE | re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE | re.ASCII)
GROUP = 1
"""The bit of a MAC address's first byte that makes it a group's."""


def size(table: Table, key: str, least: int, most: int, allowed: str) -> int | None:
    """A number of bytes, or a size such as "128M" (1024s); None if the key is missing. allowed:
    how the limits read."""
    allowed = f'bytes, or a size such as "128M" or "1G", {allowed}'
    value = table.take(key, (int, str), allowed)
    if value is None:
        return None
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if not match:
            table.fail(f"{key} = {value!r} is not allowed", f"{key} is {allowed}")
        power = " KMGT".index(match.group(2).upper() or " ")
        value = int(match.group(1)) * 1024**power
    if not least <= value <= most:
        table.fail(f"{key} = {value} is not allowed", f"{key} is {allowed}")
    return int(value)


def mac(table: Table) -> str | None:
    """The address of one interface, in lower case; None if the key is missing."""
    allowed = 'the address of one interface, "02:00:00:00:00:01"'
    value = table.take("mac", str, allowed)
    if value is None:
        return None
    if not _MAC.fullmatch(value):
        table.fail(f"mac = {value!r} is not allowed", f"mac is {allowed}")
    if int(value[:2], 16) & GROUP:
        table.fail(f"mac = {value!r} is a group's address", f"mac is {allowed}")
    if set(value) == {"0", ":"}:
        table.fail(f"mac = {value!r} is nobody's address", f"mac is {allowed}")
    return str(value.lower())
