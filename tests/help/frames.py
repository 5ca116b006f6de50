# SPDX-License-Identifier: Apache-2.0
"""Frames of every kind that a parser has to tell apart, made by a `random.Random`: tags up to ten
deep, every kind of destination, IPv4 options, IPv6 extension headers, ICMP errors, fragments in any
order, lengths that lie. Most are well formed, so that they get past the first check.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TAGS = (0x8100, 0x88A8)
TPIDS = {one.to_bytes(2, "big") for one in (*TAGS, 0x9100)}
ICMP, IGMP, TCP, UDP, GRE, ICMPV6, SCTP, UDPLITE = 1, 2, 6, 17, 47, 58, 132, 136
HAS_PORTS = (TCP, UDP, SCTP, UDPLITE)
EXTENSIONS = (0, 43, 60, 51)
MF = 0x2000


@dataclass(frozen=True)
class Ends:
    """Between whom the frames are. mac: the receiver's; here: the sender's; src, dst: addresses."""

    mac: bytes
    here: bytes
    src4: bytes
    dst4: Sequence[bytes]
    src6: bytes
    dst6: Sequence[bytes]


ENDS = Ends(
    bytes.fromhex("020000000020"),
    bytes.fromhex("020000000010"),
    bytes([198, 18, 0, 10]),
    (bytes([198, 18, 0, 20]), bytes([198, 18, 0, 255]), bytes([224, 0, 0, 251]), b"\xff" * 4),
    bytes.fromhex("fd000018") + bytes(11) + b"\x10",
    (bytes.fromhex("fd000018") + bytes(11) + b"\x20", bytes.fromhex("ff02") + bytes(13) + b"\xfb"),
)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(src: bytes, dst: bytes, proto: int, payload: bytes, **lies: int) -> bytes:
    """A packet. lies: total (length), ihl, frag (flags and offset), ident, tos; options: 32-bit
    words of no operation."""
    options = bytes([1] * (4 * lies.get("options", 0)))
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | lies.get("ihl", 5 + len(options) // 4),
        lies.get("tos", 0),
        lies.get("total", 20 + len(options) + len(payload)) & 0xFFFF,
        lies.get("ident", 0),
        lies.get("frag", 0),
        64,
        proto,
        0,
        src,
        dst,
    )
    head += options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def with_options(packet: bytes, options: bytes) -> bytes:
    """An IPv4 packet that has none, with these, of four bytes each."""
    length = len(packet) + len(options)
    head = bytes([0x45 + len(options) // 4, packet[1], length >> 8, length & 0xFF])
    head += packet[4:10] + b"\0\0" + packet[12:20] + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + packet[20:]


def ipv6(src: bytes, dst: bytes, following: int, payload: bytes, **lies: int) -> bytes:
    """A packet. lies: length, tos, hops."""
    first = 6 << 28 | lies.get("tos", 0) << 20
    length = lies.get("length", len(payload)) & 0xFFFF
    hops = lies.get("hops", 64)
    return struct.pack("!IHBB16s16s", first, length, following, hops, src, dst) + payload


def pseudo(src: bytes, dst: bytes, proto: int, payload: bytes, at: int) -> bytes:
    """The payload with its checksum at `at` right."""
    head = src + dst + struct.pack("!HHI", 0, proto, len(payload))
    blank = payload[:at] + b"\0\0" + payload[at + 2 :]
    return payload[:at] + struct.pack("!H", checksum(head + blank) or 0xFFFF) + payload[at + 2 :]


SPORTS = (40000, 40001, 50000)
DPORTS = (7, 53, 80, 5000)
FLAGS = (2, 16, 24, 4, 1, 0, 41)
"""Of TCP. No SYN+ACK: that is the answer to a packet of the other direction."""


@dataclass(frozen=True)
class Quoted:
    """A packet that an ICMP error is about, seen from who sent it: where to, and its contents."""

    dst: bytes
    proto: int
    payload: bytes


def transport(
    rng: Random, six: bool, src: bytes, dsts: Sequence[bytes]
) -> tuple[int, bytes, Quoted | None]:
    """A protocol, and what an IP packet of it to the first of `dsts` carries. The others: whose
    packets an ICMP error to it may quote; it may be as if of the flow of what comes third."""
    dst = dsts[0]
    if rng.random() < 0.1:
        return error(rng, six, src, dsts)
    proto = rng.choice((UDP, UDP, UDP, TCP, TCP, SCTP, UDPLITE, GRE, ICMP, ICMPV6))
    body = bytes(rng.choice((0, 0, 1, 8, 24, 60, 600)))
    sport, dport = rng.choice(SPORTS), rng.choice(DPORTS)
    if proto == TCP:
        flags = rng.choice(FLAGS)
        data = struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 5 << 4, flags, 999, 0, 0) + body
        return proto, pseudo(src, dst, proto, data, 16), None
    if proto in (UDP, UDPLITE):
        length = 8 + len(body) if proto == UDP else 0
        data = struct.pack("!HHHH", sport, dport, length, 0) + body
        return proto, pseudo(src, dst, proto, data, 6), None
    if proto == SCTP:
        return proto, struct.pack("!HHII", sport, dport, 0, 0) + body, None
    if proto == GRE:
        return proto, bytes(8) + body, None
    kinds = (0, 8, 3, 11, 12, 5) if proto == ICMP else (128, 129, 1, 2, 3, 136, 143, 100)
    data = struct.pack("!BBHHH", rng.choice(kinds), 0, 0, sport, 0) + body
    return proto, icmp(six, proto, src, dst, data), None


def error(
    rng: Random, six: bool, src: bytes, dsts: Sequence[bytes]
) -> tuple[int, bytes, Quoted | None]:
    """An ICMP error that quotes a packet, which may be that of another host."""
    other, proto = rng.choice(dsts), ICMPV6 if six else ICMP
    sport, dport = rng.choice(SPORTS), rng.choice(DPORTS)
    quoted = rng.choice((UDP, UDP, UDP, TCP, ICMP, GRE))
    inner = struct.pack("!HHHH", dport, sport, 8, 0) + bytes(12)
    data = struct.pack("!BBHI", rng.choice((1, 2, 3) if six else (3, 11, 12)), 0, 0, 0)
    data += (ipv6 if six else ipv4)(other, src, quoted, inner) + bytes(rng.choice((0, 0, 60)))
    head = pseudo(src, other, UDP, struct.pack("!HHHH", sport, dport, 8, 0), 6)
    about = Quoted(other, UDP, head) if quoted == UDP and rng.random() < 0.7 else None
    return proto, icmp(six, proto, src, dsts[0], data), about


def icmp(six: bool, proto: int, src: bytes, dst: bytes, data: bytes) -> bytes:
    """The message with its checksum right."""
    if proto == ICMP:
        return data[:2] + struct.pack("!H", checksum(data)) + data[4:]
    return pseudo(src, dst, proto, data, 2) if six else data


def fragments(rng: Random, payload: bytes) -> list[tuple[int, bool, bytes]]:
    """The payload in pieces: offset in units of 8 bytes, whether more follow, bytes. In any order,
    and perhaps not all of them, or one twice, or a second first one with other ports."""
    size = 8 * rng.randint(max(1, len(payload) // 64), max(1, len(payload) // 16))
    pieces = [
        (at // 8, at + size < len(payload), payload[at : at + size])
        for at in range(0, max(len(payload), 1), size)
    ]
    if rng.random() < 0.3 and len(pieces) > 1:
        other = struct.pack("!HH", rng.choice(SPORTS), rng.choice(DPORTS))
        pieces.insert(1, (0, True, other + pieces[0][2][4:]))
    if rng.random() < 0.5:
        rng.shuffle(pieces)
    if rng.random() < 0.2:
        pieces.append(rng.choice(pieces))
    return pieces[: rng.randint(1, len(pieces))] if rng.random() < 0.2 else pieces


def packet4(rng: Random, ends: Ends) -> list[bytes]:
    """An IPv4 packet, or its fragments; perhaps behind one that it is about."""
    dst = rng.choice((ends.dst4[0], *ends.dst4))
    proto, payload, about = transport(rng, False, ends.src4, (dst, *ends.dst4))
    lies = {"ident": rng.randint(1, rng.choice((500, 0xFFFF)))}
    before = [ipv4(ends.src4, about.dst, about.proto, about.payload)] if about else []
    what = rng.randint(-3, 10)
    if what < 2:
        payload += bytes(rng.choice((0, 0, 40, 200)))
        return [
            ipv4(ends.src4, dst, proto, piece, frag=offset | (MF if more else 0), **lies)
            for offset, more, piece in fragments(rng, payload)
        ]
    if what == 2:
        lies["total"] = max(0, 20 + len(payload) + rng.choice((-60, -12, -8, -4, -1, 1, 9)))
    elif what == 3:
        lies["ihl"] = rng.randint(0, 15)
    elif what in (4, 6, 7):
        lies["options"] = rng.randint(1, 10)
    elif what == 5:
        lies["frag"] = rng.choice((0x4000, 0x8000, MF, MF | 1, 1, 0x1FFF))
    return [*before, ipv4(ends.src4, dst, proto, payload, **lies)]


def extended(kinds: Sequence[int], last: int, payload: bytes) -> tuple[int, bytes]:
    """The first next header, and the payload behind extension headers of these kinds."""
    for kind in reversed(kinds):
        if kind == 43:
            body = bytes([last, 0, 4, 0, 0, 0, 0, 0])  # type 4, nothing left: passed over
        elif kind == 51:
            body = bytes([last, 4]) + bytes(22)
        else:
            body = bytes([last, 0, 1, 4, 0, 0, 0, 0])
        payload, last = body + payload, kind
    return last, payload


def packet6(rng: Random, ends: Ends) -> list[bytes]:
    """An IPv6 packet, or its fragments, of which the later ones may name another protocol: a
    receiver takes it from the first (RFC 8200)."""
    dst = rng.choice(ends.dst6)
    proto, payload, about = transport(rng, True, ends.src6, (dst, *ends.dst6))
    kinds = [rng.choice(EXTENSIONS) for _ in range(rng.choice((0, 0, 0, 1, 2, 3, 10)))]
    inside = rng.randint(0, len(kinds))
    first, payload = extended(kinds[inside:], proto, payload)
    packets = [ipv6(ends.src6, about.dst, about.proto, about.payload)] if about else []
    cut, ident = rng.random() < 0.35, rng.randint(1, 1 << 31)
    payload += bytes(rng.choice((0, 0, 40, 200))) if cut else b""
    hops = rng.choice((64, 64, 64, 255, 1)) if proto == ICMPV6 else 64  # what speaks of neighbours
    for offset, more, piece in fragments(rng, payload) if cut else [(0, False, payload)]:
        following, inner = first, piece
        if cut:
            said = first if offset == 0 or rng.random() < 0.6 else rng.choice((UDP, TCP, GRE, 60))
            inner = struct.pack("!BBHI", said, 0, offset << 3 | more, ident) + piece
            following = 44
        following, inner = extended(kinds[:inside], following, inner)
        length = len(inner)
        if rng.random() < 0.07:
            length = max(0, length + rng.choice((-60, -8, -1, 1, 9, -length)))
        packets.append(ipv6(ends.src6, dst, following, inner, length=length, hops=hops))
    return packets


def tags(rng: Random) -> bytes:
    """What stands between the addresses and the ethertype: mostly up to three tags."""
    count = rng.choice((0, 0, 0, 0, 1, 1, 2, 3, rng.randint(7, 10)))
    ids = (0, 0x2000) if count > 3 else (0, 0, 0, 0x2000, 0xE000, 7, 9, 0x1007)
    tpids = TAGS if count > 3 else (*TAGS, *TAGS, 0x9100)
    return b"".join(struct.pack("!HH", rng.choice(tpids), rng.choice(ids)) for _ in range(count))


def datagram(frame: bytes) -> tuple[tuple[int, bytes, bytes, int], int] | None:
    """Of a fragment's frame: which datagram it is of, as its receiver tells them apart (its
    identifier, source, destination, and over IPv4 its protocol), and its TTL or hop limit."""
    at = 12
    while frame[at : at + 2] in TPIDS:
        at += 4
    kind, packet = int.from_bytes(frame[at : at + 2], "big"), frame[at + 2 :]
    if kind == IPV4 and len(packet) >= 20:
        ident, frag = struct.unpack_from("!HH", packet, 4)
        key = (ident, packet[12:16], packet[16:20], packet[9])
        whole = checksum(packet[: (packet[0] & 15) * 4]) == 0  # else no receiver takes it
        return (key, packet[8]) if frag & 0x3FFF and whole else None
    following, at = packet[6:7], 40
    while kind == IPV6 and len(packet) >= at + 8:
        if following == b"\x2c":
            ident = int.from_bytes(packet[at + 4 : at + 8], "big")
            key = (ident, packet[8:24], packet[24:40], 0)
            return (key, packet[7]) if packet[at + 2 : at + 4] != b"\0\0" else None
        if not following or following[0] not in EXTENSIONS:
            break
        size = (packet[at + 1] + 2) * 4 if following == b"\x33" else (packet[at + 1] + 1) * 8
        following, at = packet[at : at + 1], at + size
    return None


def first(frame: bytes) -> tuple[int, bytes] | None:
    """Of a first fragment's frame: its protocol, and what it carries."""
    at = 12
    while frame[at : at + 2] in TPIDS:
        at += 4
    kind, packet = int.from_bytes(frame[at : at + 2], "big"), frame[at + 2 :]
    if kind == IPV4 and len(packet) >= 20:
        (frag,) = struct.unpack_from("!H", packet, 6)
        header, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        return (packet[9], packet[header:total]) if frag & 0x3FFF == MF else None
    following, at, begun = packet[6:7], 40, False
    while kind == IPV6 and len(packet) >= at + 8:
        if following == b"\x2c":
            begun = packet[at + 2 : at + 4] == b"\0\1"
            following, at = packet[at : at + 1], at + 8
        elif following and following[0] in EXTENSIONS:
            size = (packet[at + 1] + 2) * 4 if following == b"\x33" else (packet[at + 1] + 1) * 8
            following, at = packet[at : at + 1], at + size
        else:
            return (following[0], packet[at:]) if begun else None
    return None


GROUPS = tuple(map(bytes.fromhex, ("ffffffffffff", "01005e000001", "3333000000fb", "030000abcdef")))
NOBODY = bytes.fromhex("0200000000ee")


def frames(rng: Random, ends: Ends = ENDS) -> list[bytes]:
    """One packet's frames, in the order in which they are sent."""
    to = rng.choice((ends.mac, ends.mac, ends.mac, ends.mac, *GROUPS, NOBODY))
    kind = rng.choice((IPV4, IPV4, IPV4, IPV4, IPV4, IPV6, IPV6, IPV6, ARP, 0x88B5))
    if kind == IPV4:
        packets = packet4(rng, ends)
    elif kind == IPV6:
        packets = packet6(rng, ends)
    else:
        packets = [bytes(rng.randint(0, 60))]
    head = to + ends.here + tags(rng) + struct.pack("!H", kind)
    padding = rng.choice((b"", b"", b"", bytes(18), bytes([80] * 14)))
    made = [head + packet + padding for packet in packets]
    what, at = rng.randint(0, 14), rng.randrange(len(made))
    if what == 0:
        made[at] = made[at][: rng.randint(14, len(made[at]))]
    elif what == 1:
        spot = rng.randint(12, min(len(made[at]) - 1, 90))
        made[at] = made[at][:spot] + bytes([rng.randrange(256)]) + made[at][spot + 1 :]
    return made
