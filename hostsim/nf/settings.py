# SPDX-License-Identifier: Apache-2.0
"""What a shipped network function is told of its VM's tables: the document that the daemon gives
its process (hostsim/nf/functions.py -> hostsim/nf/shipped.py).

JSON in a memfd of its own, since a firewall's rules can be more than a message takes.
"""

import contextlib
import json
import os
import struct
from collections.abc import Iterator, Mapping

from cext.switch import maps
from hostsim.hostfile.functions import outside_address
from hostsim.model import Address, FirewallSpec, Json, NatSpec, SourceSpec, VmSpec
from hostsim.routing.policy import match_rows

NOBODY = bytes.fromhex("020000000002")
"""Where a source sends what no VM or endpoint has the address of: the switch floods it."""
TCP = 6
SYN = 2


def settings(spec: VmSpec, mac: str, macs: Mapping[Address, str]) -> Json:
    """mac: the VM's own; macs: of every address of the host. With `keeps`, the function has a
    memfd for what outlives its process; who keeps the same goes on with it."""
    given = spec.settings
    own = bytes.fromhex(mac.replace(":", ""))
    if isinstance(given, FirewallSpec):
        rows = [
            maps.pack_row(row).hex()
            for index, rule in enumerate(given.rules)
            for row in match_rows(rule.match, index)
        ]
        return {
            "keeps": "connections",
            "rows": rows,
            "accept": [*(rule.accept for rule in given.rules), given.default],
        }
    if isinstance(given, NatSpec):
        address = outside_address(spec)
        assert address is not None
        return {
            "keeps": "translations by {}-{}".format(*given.ports),
            "address": address.packed.hex(),
            "mac": own.hex(),
            "ports": given.ports,
        }
    if isinstance(given, SourceSpec):
        to = macs.get(given.dst)
        target = bytes.fromhex(to.replace(":", "")) if to else NOBODY
        frame = source_frame(given, own, target)
        return {"packet": frame.hex(), "count": given.count, "rate": given.rate}
    return {}


@contextlib.contextmanager
def handed(document: Json) -> Iterator[int]:
    """A descriptor with the document, to be handed over. Raises OSError."""
    fd = os.memfd_create("hostsim-settings", os.MFD_CLOEXEC)
    try:
        os.write(fd, json.dumps(document).encode())
        yield fd
    finally:
        os.close(fd)


def source_frame(spec: SourceSpec, mac: bytes, to: bytes) -> bytes:
    """The packet a source sends: zeroes in a UDP datagram, or behind a TCP SYN's header."""
    four = spec.src.version == 4
    payload = bytes(spec.size - 14 - (20 if four else 40) - (20 if spec.proto == TCP else 8))
    if spec.proto == TCP:
        head = struct.pack("!HHIIBBHHH", spec.sport, spec.dport, 1, 0, 5 << 4, SYN, 65535, 0, 0)
    else:
        head = struct.pack("!HHHH", spec.sport, spec.dport, 8 + len(payload), 0)
    segment = head + payload
    addresses = spec.src.packed + spec.dst.packed
    if four:
        pseudo = addresses + struct.pack("!HH", spec.proto, len(segment))
        start = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, spec.proto, 0)
        total = checksum(start + addresses)
        network = start[:10] + struct.pack("!H", total) + addresses
        kind = b"\x08\x00"
    else:
        pseudo = addresses + struct.pack("!II", len(segment), spec.proto)
        network = struct.pack("!IHBB", 6 << 28, len(segment), spec.proto, 64) + addresses
        kind = b"\x86\xdd"
    at = 16 if spec.proto == TCP else 6
    total = checksum(pseudo + segment) or 0xFFFF
    segment = segment[:at] + struct.pack("!H", total) + segment[at + 2 :]
    return to + mac + kind + network + segment


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
