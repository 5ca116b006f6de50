# SPDX-License-Identifier: Apache-2.0
"""A network function that can be seen in what it has passed on: like a router, it takes one from
each packet's TTL or hop limit."""

from hostsim.nf import Port

TPIDS = {b"\x81\x00", b"\x88\xa8", b"\x91\x00"}


def mark(packet: memoryview) -> None:
    """Take one from the TTL, and keep IPv4's header checksum as right as it was (RFC 1624)."""
    at = 12
    while bytes(packet[at : at + 2]) in TPIDS:
        at += 4
    kind, ip = bytes(packet[at : at + 2]), at + 2
    if kind == b"\x08\x00" and len(packet) >= ip + 20 and packet[ip + 8]:
        packet[ip + 8] -= 1
        total = int.from_bytes(packet[ip + 10 : ip + 12], "big") + 0x0100
        total = (total & 0xFFFF) + (total >> 16)
        packet[ip + 10 : ip + 12] = total.to_bytes(2, "big")
    elif kind == b"\x86\xdd" and len(packet) >= ip + 40 and packet[ip + 7]:
        packet[ip + 7] -= 1


def marks(port: Port) -> None:
    """Marks each packet, and passes it on."""
    for batch in port:
        for packet in batch:
            mark(packet)
        port.send(batch)
