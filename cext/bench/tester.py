# SPDX-License-Identifier: Apache-2.0
"""A tester of paths between two VMs, in the kernel: wraps bench/tester.h and bench/tester.bpf.c."""

import mmap
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from cext import check
from cext._native import ffi, lib
from cext.bpf.objects import Object

FRAME: int = lib.HS_TESTER_FRAME
"""Bytes of a frame."""
PORTS: int = lib.HS_TESTER_PORTS
"""Destination ports, from the first, that are counted each by itself."""
SOURCES: int = lib.HS_TESTER_SOURCES
"""Flows of one source address."""
_U64 = 8
_LIMIT, _PORT = PORTS * _U64, (PORTS + 1) * _U64  # offsets in struct hs_arrivals


@dataclass(frozen=True)
class Sent:
    """What became of a stream. lost: given up, nothing came for a second."""

    sent: int
    got: int
    lost: int
    seconds: float  # from the first frame sent to the last that came
    cpu: float  # seconds, of the sending thread


class Tester:
    """The programs and counters of one tester; `arrive` is the program to put at the tc ingress of
    the receiver's eth0. Owns them; `close` may be called twice.

    target: address and first port that frames go to. flows: for each of PORTS ports, how many
    flows' arrivals are noted (`twice`); 0: none. Raises OSError.
    """

    def __init__(self, target: tuple[IPv4Address, int], flows: int = 0) -> None:
        self._target, self._flows = target, flows
        parts = -(-max(1, flows * PORTS) // lib.HS_TESTER_SEEN)
        self._object = Object("tester", {"seen": parts})
        try:
            self._generate = self._object.program("generate")
            self.arrive = self._object.program("arrive")
            self._counts = mmap.mmap(self._object.map("arrivals").fd, mmap.PAGESIZE)
            self._seen = mmap.mmap(self._object.map("seen").fd, parts * lib.HS_TESTER_SEEN)
        except OSError:
            self._object.close()
            raise
        struct.pack_into("=QQ", self._counts, _LIMIT, flows, target[1])
        self._got = ffi.from_buffer("uint64_t[]", self._counts)

    def run(
        self,
        sender: tuple[int, int],
        macs: tuple[str, str],
        source: IPv4Address,
        *,
        ms: int,
        window: int,
        port: int = 0,
        first: int = 0,
        count: int = 0,
        flows: bool = False,
    ) -> Sent:
        """Send frames by an interface, `sender`: a network namespace's descriptor, not kept, and
        the interface's number there; from macs[0] to macs[1], to the target's `port`-th port, for
        at most `ms` milliseconds, at most `window` on their way. flows: each is the first of a flow
        of its own, numbered from `first`; source: the address of the flows, or of the first
        SOURCES ones. Other threads may run other ports meanwhile. Raises OSError."""
        run = ffi.new("struct hs_tester *")
        run.ifindex, run.source = sender[1], int(source) if flows else 0
        run.first, run.count, run.ms, run.window = first, count, ms, window
        address, base = self._target
        frame = _frame(macs, (source, 4000), (address, base + port))
        done = lib.hs_tester_run(sender[0], self._generate, frame, self._got + port, run)
        check(done, "tester")
        return Sent(run.sent, run.got, run.lost, run.ns / 1e9, run.cpu_ns / 1e9)

    def twice(self, port: int = 0) -> int:
        """Flows to that port of which more than one frame has come."""
        at = port * self._flows
        return sum(count > 1 for count in self._seen[at : at + self._flows])

    def close(self) -> None:
        """Twice is harmless."""
        self._object.close()


def _frame(
    macs: tuple[str, str], source: tuple[IPv4Address, int], target: tuple[IPv4Address, int]
) -> bytes:
    """A datagram from macs[0] to macs[1] with a number that nobody notes."""
    payload = bytes([255] * 8).ljust(FRAME - 42, b"\0")
    datagram = struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0)
    head += source[0].packed + target[0].packed
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    ethernet = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in reversed(macs))
    return ethernet + b"\x08\0" + head + datagram
