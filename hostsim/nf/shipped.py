# SPDX-License-Identifier: Apache-2.0
"""The network functions that ship with hostsim, by name, as the process in the VM runs them.

`forward`, `sink`, `firewall`, `nat` and `source` touch packets in C (cext/nf/judges.h,
cext/port/port.h); `count` shows what a function in Python looks like.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

from cext.nf import judges as native
from cext.port.port import Port
from hostsim.model import Json
from hostsim.names import PROTOCOL_NAMES


def count(port: Port, _: Json) -> None:
    """Pass everything on, and count packets and bytes by protocol; told when it ends."""
    seen: dict[str, list[int]] = {}
    for batch in port:
        for packet in batch:
            kind = protocol(packet)
            entry = seen.setdefault(kind, [0, 0])
            entry[0] += 1
            entry[1] += len(packet)
        port.send(batch)
    for kind, (packets, size) in sorted(seen.items()):
        print(f"{kind}: {packets} packets, {size} bytes", flush=True)


def protocol(packet: memoryview) -> str:
    """A word for what the packet is."""
    kind = bytes(packet[12:14])
    if kind == b"\x08\x00" and len(packet) >= 34:
        number = packet[23]
    elif kind == b"\x86\xdd" and len(packet) >= 54:
        number = packet[20]
    else:
        return kind.hex()
    return PROTOCOL_NAMES.get(number, str(number))


@contextlib.contextmanager
def kept(given: Json) -> Iterator[int]:
    """The descriptor of what outlives the process, and its end."""
    try:
        yield given["kept"]
    finally:
        os.close(given["kept"])


def firewall(port: Port, given: Json) -> None:
    """[[vm.rule]] and `default`."""
    rows = [bytes.fromhex(row) for row in given["rows"]]
    with kept(given) as fd:
        made = native.Firewall(rows, given["accept"], kept=fd)
    made.run(port)


def nat(port: Port, given: Json) -> None:
    """[vm.nat], and the VM's address."""
    low, high = given["ports"]
    address, mac = (bytes.fromhex(given[key]) for key in ("address", "mac"))
    with kept(given) as fd:
        made = native.Nat(address, mac, (low, high), fd)
    made.run(port)


def source(port: Port, given: Json) -> None:
    """[vm.source]."""
    native.Source(bytes.fromhex(given["packet"]), given["count"], given["rate"]).run(port)


SHIPPED: dict[str, Callable[[Port, Json], None]] = {
    "forward": lambda port, _: port.run(native.FORWARD),
    "sink": lambda port, _: port.run(native.SINK),
    "count": count,
    "firewall": firewall,
    "nat": nat,
    "source": source,
}
"""Network functions by name; each gets its settings (hostsim/nf/settings.py)."""
