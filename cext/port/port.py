# SPDX-License-Identifier: Apache-2.0
"""The port of a network function. Wraps port/port.h.

    for batch in port:                  # ends when hostsim says so
        for i in range(len(batch)):
            if unwanted(batch[i]):      # a memoryview onto the packet: read it, write it
                batch.drop(i)
        port.send(batch)                # what was not dropped, in order

Nothing is copied for Python, and a batch is one object whatever its length.
"""

import select
from collections.abc import Callable, Iterator
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.ring.channel import COUNTERS as REFUSED
from cext.ring.channel import Shape

BURST: int = lib.HS_BURST
NF_VERSION: int = lib.HS_NF_VERSION
"""Of hostsim/nf.h."""
COUNTERS = (
    "eth0_in",
    "eth0_out",
    "ring_in",
    "ring_out",
    "dropped",
    "full_ring",
    "full_eth0",
    "too_long",
    "drained_late",
    "sleeps",
)


class Batch:
    """Packets in hand, from one `recv` to the `send` that ends it."""

    def __init__(self, memory: memoryview) -> None:
        self.native = ffi.new("struct hs_packet[]", BURST)
        self.count = 0
        self.dropped = 0
        self._memory = memory

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> memoryview:
        """The packet, from its Ethernet header on; valid until the batch is sent."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        packet = self.native[index]
        return self._memory[packet.addr : packet.addr + packet.len]

    def __iter__(self) -> Iterator[memoryview]:
        return (self[index] for index in range(self.count))

    def source(self, index: int) -> int:
        """The number of the VM it came from by ring; 0: from eth0."""
        vm: int = getattr(self.native[index], "from")
        return vm

    def drop(self, index: int) -> None:
        """This packet does not go on."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.dropped |= 1 << index


def make_socket(netns_fd: int, memory_fd: int, size: int, frame_size: int, ring: int) -> int:
    """An AF_XDP socket of that network namespace over the memory (see hs_xsk_make); the descriptor
    is the caller's. Raises OSError."""
    return check(lib.hs_xsk_make(netns_fd, memory_fd, size, frame_size, ring), "AF_XDP")


class Port:
    """See port/port.h. Its packet memory: a private umem of `frames`, or `count` frames from
    `first` on of the shared one behind `fd`. Raises OSError."""

    def __init__(
        self,
        frames: int = 4096,
        frame_size: int = 2048,
        fd: int | None = None,
        first: int = 0,
        count: int | None = None,
    ) -> None:
        self.native = ffi.new("struct hs_port *")
        owned = frames - first if count is None else count
        given = -1 if fd is None else fd
        check(
            lib.hs_port_open(self.native, given, frames, frame_size, first, owned), "packet memory"
        )
        umem = self.native.umem
        self._memory = memoryview(ffi.buffer(umem.base, umem.size))
        self.frame_size = frame_size
        """Bytes of a frame."""
        self.control = -1
        self.on_control: Callable[[], bool] = lambda: False
        """Called when `control` is readable; False ends the function's loop."""
        self.more_counters: Callable[[], dict[str, int]] = dict
        """What the function itself counts, by name: it may put a function of its own here."""

    def eth0(self, fd: int, interface: str = "eth0", ring: int = 1024) -> None:
        """Open the AF_XDP socket `fd` (see `make_socket`, with as many entries in each `ring`),
        which becomes the port's. Raises OSError; after EBUSY, call it again."""
        opened = lib.hs_port_eth0(self.native, fd, interface.encode(), ring)
        check(opened, f"AF_XDP on {interface}")

    def neighbour(self, vm: int, shape: Shape, out: int, into: int, bells: tuple[int, int]) -> None:
        """Channels to and from VM number `vm`. bells (the end to read, the peer's to write) become
        the port's; `out` and `into` stay the caller's. Raises OSError."""
        check(
            lib.hs_port_neighbour(self.native, vm, shape.native(), out, into, *bells),
            f"channels to VM {vm}",
        )

    def rules(self, fd: int, entries: int) -> None:
        """Map the table of routing rules; the descriptor stays the caller's. Raises OSError."""
        check(lib.hs_port_rules(self.native, fd, entries), "routing rules")

    def tally(self, fd: int, entries: int) -> None:
        """Count by flow in this table; the descriptor stays the caller's. Raises OSError."""
        check(lib.hs_port_tally(self.native, fd, entries), "tally")

    def tap(self, fd: int) -> None:
        """Tell those who capture there what is sent (cext/sight/tap.py); the descriptor stays the
        caller's. Raises OSError."""
        check(lib.hs_port_tap(self.native, fd), "tap")

    def forget(self, vm: int) -> None:
        """A neighbour is gone."""
        lib.hs_port_forget(self.native, vm)

    def renew(self) -> None:
        """Another function is going to run: nothing of what this one has set stays."""
        self.more_counters = dict
        self.native.pace.wait_on_full = 0

    def recv(self) -> Batch:
        """What is there now; may be empty."""
        batch = Batch(self._memory)
        batch.count = lib.hs_port_recv(self.native, batch.native, BURST)
        return batch

    def send(self, batch: Batch) -> None:
        """Send what was not dropped; the batch is empty then."""
        lib.hs_port_finish(self.native, batch.native, batch.count, batch.dropped)
        batch.count = batch.dropped = 0

    def make(self, *packets: bytes) -> Batch:
        """A batch of packets of one's own (at most BURST), as many as there are frames for."""
        batch = Batch(self._memory)
        for data in packets:
            if lib.hs_port_new(self.native, batch.native + batch.count) < 0:
                break
            packet = batch.native[batch.count]
            packet.len = len(data)
            self._memory[packet.addr : packet.addr + len(data)] = data
            batch.count += 1
        return batch

    def wait(self, seconds: float) -> int:
        """1: packets are there; 2: `control` is readable; 0: neither in time. Raises OSError."""
        return check(lib.hs_port_wait(self.native, self.control, int(seconds * 1e9)), "wait")

    def __iter__(self) -> Iterator[Batch]:
        """Batches, until `on_control` says to end. A batch that was not sent is dropped."""
        rounds = 0
        while True:
            batch = self.recv()
            if batch.count:
                yield batch
                lib.hs_port_drop(self.native, batch.native, batch.count)
                batch.count = 0
            rounds += 1
            if rounds % 256 and batch.count == 0 and self.wait(1.0) != 2:
                continue
            if self._asked() and not self.on_control():
                return

    def _asked(self) -> bool:
        return self.control >= 0 and bool(select.select([self.control], [], [], 0)[0])

    def run(self, judge: Any, state: Any = None) -> None:
        """A C function's loop (of cext/nf/judges.py, or a plug-in's) until `on_control` ends it."""
        given = ffi.NULL if state is None else state
        while True:
            check(lib.hs_port_loop(self.native, judge, given, self.control), "port")
            if not self.on_control():
                return

    def counters(self) -> dict[str, int]:
        """Packets by way and by reason; what was refused of that which neighbours wrote, by reason;
        and what the function counts."""
        found: dict[str, int] = {name: getattr(self.native.counters, name) for name in COUNTERS}
        near = [self.native.neighbour[place] for place in range(self.native.neighbours)]
        ends = [end for one in near if one.vm for end in (one.out, getattr(one, "in"))]
        for place, name in enumerate(REFUSED):
            found[name] = self.native.refused[place] + sum(end.counters[place] for end in ends)
        return found | self.more_counters()

    def close(self) -> None:
        """Twice is harmless; no view of a packet may be used afterwards."""
        lib.hs_port_close(self.native)


def judge_at(address: int) -> Any:
    """A C function at this address (hs_judge in port/port.h), as `run` takes it."""
    return ffi.cast("hs_judge", address)
