# SPDX-License-Identifier: Apache-2.0
"""The part of a capture that writes packets, in C: its blocks are those that pcapng.py describes,
and it asks once for each kind of packet."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from cext._native import ffi, lib

from cext.sight.records import ARRIVES, LEAVES
from cext.sight.write import KEPT, TURN, Told, Writer, packet_id
from help import packets
from hostsim.capture import pcapng

OFFSET = 1_700_000_000_000_000_000
OPTIONS = (pcapng.comment("fw eth0"), pcapng.custom("path=eth0"))
FRAME = bytes(range(12)) + b"\x08\x00" + bytes(range(60))


def record(frame: bytes, *, before: int = 0, place: int = LEAVES, **more: int) -> bytes:
    """As the kernel tells it, with `before` bytes of the frame in the head."""
    sight = ffi.new("struct hs_sight *")
    sight.time, sight.length, sight.place, sight.verdict = 5, len(frame), place, 7 << 32
    sight.key.vm, sight.key.tuple.family, sight.key.tuple.proto = more.pop("vm", 1), 4, 17
    sight.key.tuple.src = IPv4Address("198.18.0.1").packed + bytes(12)
    sight.before, sight.taken = before, max(0, len(frame) - before)
    for name, value in more.items():
        setattr(sight, name, value)
    ffi.memmove(sight.head, frame, min(before, len(frame)))
    data = bytes(ffi.buffer(sight)) + frame[before:]
    return len(data).to_bytes(4, "little") + data + bytes(-len(data) % 4)


def block(frame: bytes, interface: int = 3) -> bytes:
    return packets.packet(interface, OFFSET + 5, frame, len(frame), packet_id(frame), OPTIONS)


class Teller:
    """Says the same of every kind, and counts how often it was asked."""

    def __init__(self, **more: Any) -> None:
        self.asked = 0
        self.told = Told(3, pcapng.padded(OPTIONS))._replace(**more)

    def __call__(self, at: int) -> Told:
        self.asked += 1
        return self.told


def written(
    writer: Writer, data: bytes, tell: Callable[[int], Told], most: int | None = None
) -> bytes:
    memory = ffi.from_buffer("uint8_t *", data) if data else ffi.NULL
    return b"".join(map(bytes, writer.write(memory, len(data), most, tell)))


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer(OFFSET)
    yield made
    made.close()
    made.close()


@pytest.mark.parametrize("before", [0, 14, 72])
@pytest.mark.parametrize("length", [0, 1, 13, 14, 33, 34, 60, 72])
def test_its_blocks_are_those_of_the_format(writer: Writer, before: int, length: int) -> None:
    frame = FRAME[:length]
    data = record(frame, before=min(before, length))
    assert written(writer, data * 2, Teller()) == block(frame) * 2
    assert writer.count(3) == 2
    assert writer.count(2) == 0


def test_each_kind_is_asked_for_once(writer: Writer) -> None:
    kinds = [
        record(FRAME),
        record(FRAME, vm=2),
        record(FRAME, place=ARRIVES),
        record(FRAME, route=1),
        record(FRAME, reply=1),
        record(FRAME, reason=1),
        record(FRAME, to=1),
        record(FRAME, verdict=8),
    ]
    tell = Teller()
    for _ in range(3):
        assert written(writer, b"".join(kinds) * 5, tell) == block(FRAME) * len(kinds) * 5
    assert tell.asked == len(kinds)


@pytest.mark.parametrize(("how", "asked"), [(KEPT, 1), (TURN, 2)])
def test_how_long_an_answer_holds(writer: Writer, how: int, asked: int) -> None:
    tell = Teller(how=how)
    for _ in range(2):
        assert written(writer, record(FRAME) * 5, tell) == block(FRAME) * 5
    assert tell.asked == asked


def test_an_icmp_error_is_told_by_its_bytes(writer: Writer) -> None:
    """Two of one host, about flows of their own: what is said of the one does not hold for the
    other."""
    ip = bytes.fromhex("4500003800000000 40010000 c6120014 c612000a".replace(" ", ""))
    inner = bytes.fromhex("4500001c00000000 40110000 c612000a c6120014".replace(" ", ""))
    frames = [
        bytes(12) + b"\x08\x00" + ip + b"\x03\x03" + bytes(6) + inner + port + bytes(6)
        for port in (b"\x10\x00", b"\x10\x01")
    ]
    tell = Teller()
    data = b""
    for frame in frames:
        made = ffi.from_buffer("struct hs_sight *", one := bytearray(record(frame)[4:]))
        made.key.tuple.proto = lib.HS_IP_ICMP
        ffi.release(made)
        data += len(one).to_bytes(4, "little") + bytes(one)
    assert written(writer, data * 2, tell) == b"".join(map(block, frames)) * 2
    assert tell.asked == 4


def test_what_is_not_wanted_is_left_out_and_only_so_many(writer: Writer) -> None:
    assert written(writer, record(FRAME, vm=9) * 3, Teller(interface=None)) == b""
    data = record(FRAME, vm=9) + record(FRAME)
    assert written(writer, data * 5, Teller(), most=2) == block(FRAME) * 2
    assert written(writer, data * 5, Teller(), most=0) == b""
    assert written(writer, b"", Teller()) == b""


def test_what_has_to_be_there_first_is(writer: Writer) -> None:
    data = record(FRAME) + record(FRAME, vm=2)
    found = written(writer, data, Teller(before=b"interface..."))
    assert found == (b"interface..." + block(FRAME)) * 2


def test_more_kinds_and_more_bytes_than_it_keeps(writer: Writer) -> None:
    tell = Teller()
    many = [record(b"", verdict=number + 1) for number in range(lib.HS_WRITER_KINDS + 100)]
    assert written(writer, b"".join(many), tell) == block(b"") * len(many)
    assert tell.asked == len(many)
    long = record(bytes(65535))
    assert len(written(writer, long * 200, tell)) == 200 * len(block(bytes(65535)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        bytes(8),
        record(FRAME)[:-8],
        (2**32 - 1).to_bytes(4, "little") + bytes(300),
        record(FRAME, before=129),
        record(FRAME, taken=2**31),
        record(FRAME, taken=len(FRAME) + 1),
    ],
)
def test_records_that_are_none_end_it(writer: Writer, data: bytes) -> None:
    with pytest.raises(OSError, match="capture: Protocol error"):
        written(writer, record(FRAME) + data, Teller())
    assert written(writer, record(FRAME), Teller()) == block(FRAME)
