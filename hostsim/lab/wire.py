# SPDX-License-Identifier: Apache-2.0
"""Frames as they are on a wire, from what a packet socket gives. Pure.

The kernel keeps beside a packet what a network card would do: a checksum that is not computed yet,
a large segment that is not cut yet, a VLAN tag that is not put in yet. A packet socket tells the
first two with PACKET_VNET_HDR (packet(7); struct virtio_net_hdr, linux/virtio_net.h), and the tag
with PACKET_AUXDATA.

    frames(header, frame, tag) -> the frames, in their order
"""

import struct

HEADER = struct.Struct("=BBHHHH")
"""struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
NEEDS_CSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 1, 4, 5
GSO_ECN = 0x80
ETHER = 14
UDP_OFFSET = 6
"""Of the checksum in a UDP header."""
FIN, PSH, CWR = 0x01, 0x08, 0x80


def frames(header: bytes, frame: bytes, tag: bytes = b"") -> list[bytes]:
    """What a wire would carry of `frame`.

    header: struct virtio_net_hdr; tag: the VLAN tag, 4 bytes, or none. A frame that is too short
    for what the header says of it stays as it is.
    """
    flags, gso, _, size, start, offset = HEADER.unpack(header)
    found = [frame]
    kind = gso & ~GSO_ECN
    if flags & NEEDS_CSUM:
        if kind in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4) and size:
            found = _segments(frame, kind, size, start)
        else:
            found = [_summed(frame, start, offset)]
    return [one[:12] + tag + one[12:] for one in found] if tag else found


def _sum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071): 2^16 is 1 modulo 2^16 - 1."""
    number = int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return number % 0xFFFF or (0xFFFF if number else 0)


def _summed(frame: bytes, start: int, offset: int) -> bytes:
    """With its checksum, whose field holds the sum of the pseudo header so far."""
    if start + offset + 2 > len(frame):
        return frame
    checksum = 0xFFFF - _sum(frame[start:])
    if offset == UDP_OFFSET and not checksum:
        checksum = 0xFFFF  # 0 says that there is none (RFC 768)
    place = start + offset
    return frame[:place] + struct.pack("!H", checksum) + frame[place + 2 :]


def _segments(frame: bytes, kind: int, size: int, start: int) -> list[bytes]:
    """A large segment in pieces of `size` bytes of payload each."""
    udp = kind == GSO_UDP_L4
    ethertype = frame[12:14]
    if start < ETHER + 20 or len(frame) < start + (8 if udp else 20):
        return [frame]
    four = ethertype == b"\x08\x00"
    if not four and ethertype != b"\x86\xdd":  # inside of another header: whole, as it is
        return [_summed(frame, start, UDP_OFFSET if udp else 16)]
    head = start + (8 if udp else (frame[start + 12] >> 4) * 4)
    payload = frame[head:]
    found = []
    for number, at in enumerate(range(0, len(payload), size)):
        last = at + size >= len(payload)
        part = payload[at : at + size]
        l4 = bytearray(frame[start:head])
        if udp:
            struct.pack_into("!HH", l4, 4, 8 + len(part), 0)
        else:
            (sequence,) = struct.unpack_from("!I", l4, 4)
            struct.pack_into("!I", l4, 4, (sequence + at) & 0xFFFFFFFF)
            l4[13] &= (0xFF if last else ~(FIN | PSH) & 0xFF) & (~CWR & 0xFF if number else 0xFF)
            struct.pack_into("!H", l4, 16, 0)
        l3 = bytearray(frame[ETHER:start])
        length = len(l4) + len(part)
        if four:
            (identity,) = struct.unpack_from("!H", l3, 4)
            struct.pack_into("!H", l3, 2, len(l3) + length)
            struct.pack_into("!H", l3, 4, (identity + number) & 0xFFFF)
            struct.pack_into("!H", l3, 10, 0)
            struct.pack_into("!H", l3, 10, 0xFFFF - _sum(bytes(l3)))
            pseudo = bytes(l3[12:20])
        else:
            struct.pack_into("!H", l3, 4, len(l3) - 40 + length)
            pseudo = bytes(l3[8:40])
        pseudo += struct.pack("!II", length, 17 if udp else 6)
        checksum = 0xFFFF - _sum(pseudo + bytes(l4) + part)
        if udp:
            struct.pack_into("!H", l4, UDP_OFFSET, checksum or 0xFFFF)
        else:
            struct.pack_into("!H", l4, 16, checksum)
        found.append(frame[:ETHER] + bytes(l3) + bytes(l4) + part)
    return found or [frame]
