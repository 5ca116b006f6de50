# SPDX-License-Identifier: Apache-2.0
"""The network functions that ship, their state in C. Wraps nf/judges.h, nf/firewall.h and nf/nat.h.

Each has `run(port)`, its loop until the port's control ends it; `counters()`, what it has done and
dropped, by name; and `pass_(frame, now)`, its decision for one frame, which tests ask.
"""

from collections.abc import Sequence
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.port.port import Port

FORWARD: Any = lib.hs_judge_forward
"""Sends everything on as it is; for `Port.run`."""
SINK: Any = lib.hs_judge_sink
"""Drops everything; for `Port.run`."""

NAT_COUNTS = (
    "translated-out",
    "translated-in",
    "connections",
    "passed-plain",
    "drop-malformed",
    "drop-protocol",
    "drop-unknown",
    "drop-orphan-fragment",
    "drop-looped",
    "drop-full",
)
FIREWALL_DROPS = ("drop-malformed", "drop-orphan-fragment", "drop-table-full")


class Firewall:
    """rows: packed rows (`dataplane.pack_row`) whose route is a rule's index; accept: what each
    rule says, then what the default says; kept: a memfd for the connections, which outlive this
    object in it and stays the caller's. Raises OSError."""

    def __init__(
        self, rows: Sequence[bytes], accept: Sequence[bool], conns: int = 0, kept: int = -1
    ) -> None:
        self._rows = b"".join(rows)
        self._accept = bytes(accept)
        self.native = ffi.gc(ffi.new("struct hs_firewall *"), lib.hs_firewall_close)
        check(
            lib.hs_firewall_open(
                self.native,
                ffi.from_buffer("struct hs_row[]", self._rows) if rows else ffi.NULL,
                len(rows),
                ffi.from_buffer("uint8_t[]", self._accept),
                len(accept) - 1,
                conns or lib.HS_FIREWALL_CONNS,
                kept,
            ),
            "firewall",
        )

    def run(self, port: Port) -> None:
        """Judge everything that comes."""
        port.more_counters = self.counters
        port.run(lib.hs_judge_firewall, self.native)

    def pass_(self, frame: bytes, now: int) -> bool:
        """Whether it goes on. now: ns."""
        buffer = ffi.from_buffer("uint8_t[]", frame)
        return bool(lib.hs_firewall_pass(self.native, buffer, len(frame), now))

    def counters(self) -> dict[str, int]:
        """Packets: accepted, and dropped by reason; a rule's name is its place in the file."""
        native = self.native
        found = {"accepted": native.accepted}
        found |= {name: native.drops[at] for at, name in enumerate(FIREWALL_DROPS)}
        found |= {f"drop-rule-{at}": native.refused[at] for at in range(native.rules)}
        return found | {"drop-default": native.refused[native.rules]}


class Nat:
    """address, mac: the outside's, 4 and 6 bytes; ports: of the outside address, inclusive; kept:
    as a firewall's. Raises OSError."""

    def __init__(self, address: bytes, mac: bytes, ports: tuple[int, int], kept: int = -1) -> None:
        self.native = ffi.gc(ffi.new("struct hs_nat *"), lib.hs_nat_close)
        check(lib.hs_nat_open(self.native, address, mac, *ports, kept), "nat")

    def run(self, port: Port) -> None:
        """Translate everything that comes."""
        port.more_counters = self.counters
        port.run(lib.hs_judge_nat, self.native)

    def pass_(self, frame: bytearray, now: int) -> bool:
        """Translate it where it stands; whether it goes on. now: ns."""
        buffer = ffi.from_buffer("uint8_t[]", frame, require_writable=True)
        return bool(lib.hs_nat_pass(self.native, buffer, len(frame), now))

    def counters(self) -> dict[str, int]:
        """Packets and connections, and packets dropped by reason."""
        return {name: self.native.counts[at] for at, name in enumerate(NAT_COUNTS)}


class Source:
    """Sends `count` copies of a packet (0: without end) at `rate` a second (0: unbounded)."""

    def __init__(self, packet: bytes, count: int, rate: int) -> None:
        self._packet, self._count, self._rate = packet, count, rate
        self._sent: Any = ffi.new("uint64_t *")

    def run(self, port: Port) -> None:
        """Send them, and then wait for the end. Raises OSError."""
        port.more_counters = self.counters
        port.native.pace.wait_on_full = 1
        while True:
            check(
                lib.hs_nf_source(
                    port.native, self._packet, len(self._packet), self._count, self._rate,
                    self._sent, port.control,
                ),
                "source",
            )  # fmt: skip
            if not port.on_control():
                return

    def counters(self) -> dict[str, int]:
        """Packets made so far."""
        return {"made": self._sent[0]}
