# SPDX-License-Identifier: Apache-2.0
"""Packets that a capture has seen, for a Python program.

    with host.capture("fw", match='proto = "icmp"') as seen:
        client.run("ping", "-c", "3", "198.18.0.20")
    assert all(packet.path == "veth" for packet in seen if packet.vm == "fw")

They are scapy's, from the Ethernet header on, with more attributes, which a `copy` does not have.
A thread takes packets from the kernel during the block. What was sent in the block is there after
it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from cext.sight.records import SNAP as SNAP
from hostsim.capture.source import Source, parse_match
from hostsim.capture.story import ETHER, Seen
from hostsim.errors import HostsimError
from hostsim.lab.packets import imported

MOST = 100_000
"""Packets that are kept, unless one says otherwise."""
WAIT = 100
"""Milliseconds that packets are waited for at a time."""
ABOUT = ("interface", "vm", "path", "to", "key", "route", "epoch", "reply", "drop")
"""What each packet has of its story (hostsim/capture/story.py)."""


class Captured:
    """A capture, and afterwards what it has seen: a sequence of packets, in the order of time.

    Each packet is scapy's, and has besides

    path: `eth0` (left its VM for the switch), `switch` (came in by the VM's port), `veth`, `ring`,
        `drop`
    vm, to: names; `to` is empty if the path has no other end
    key: of its flow; empty if it is of none
    route, epoch: of the policy; route is None if no route concerns it
    reply: whether it goes against the order of its chain
    drop: the name of its loss, or empty
    ident: the same number for the same packet, wherever it is seen
    interface: that of the capture's file
    time: seconds since 1970; wirelen: bytes of the whole packet
    """

    def __init__(
        self,
        ask: Callable[[], dict[str, Any]],
        vms: Sequence[str],
        match: str | None,
        snap: int,
        most: int,
    ) -> None:
        """Raises HostsimError."""
        self._layers = imported("scapy.layers.l2"), imported("scapy.packet")
        imported("scapy.all")  # or frames would be taken apart only as far as is known
        wanted = parse_match(match)
        self._open: Callable[[], Source] = lambda: Source(ask(), vms, wanted, snap)
        self._most = most
        self._source: Source | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._came = threading.Condition()
        self._seen: list[Seen] = []
        self._packets: list[Any] = []
        self._over = 0  # came when there were `most`
        self._lost = 0
        self._error: Exception | None = None

    # -- life -------------------------------------------------------------------------------------

    def __enter__(self) -> "Captured":
        if self._thread is not None:
            raise HostsimError("capture", "has been used", "host.capture(...) makes another one")
        self._source = self._open()
        self._thread = threading.Thread(target=self._listen, args=(self._source,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._source is not None
        assert self._thread is not None
        self._source.detach()
        self._ended.set()
        self._thread.join()
        self._lost = self._source.lost()
        self._source.close()
        self._source = None
        self._seen.sort(key=lambda one: one.time)
        self._packets = []
        if self._error is not None and value is None:
            raise self._error

    def _listen(self, source: Source) -> None:
        try:
            while not self._ended.is_set():
                self._keep(source.take(WAIT))
            self._keep(source.take(0))  # what came before `detach`
        except Exception as error:  # for `__exit__`, which is in the program's thread
            self._error = error
        with self._came:
            self._came.notify_all()

    def _keep(self, found: Iterator[Seen]) -> None:
        some = list(found)
        with self._came:
            room = self._most - len(self._seen)
            self._seen += some[:room]
            self._over += max(0, len(some) - room)
            self._came.notify_all()

    # -- what was seen ----------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """Packets that are not here: the kernel's buffer was full, or there were `most`."""
        lost = self._source.lost() if self._source is not None else self._lost
        return lost + self._over

    @property
    def packets(self) -> list[Any]:
        """Those that were seen so far."""
        with self._came:
            self._packets += [self._packet(one) for one in self._seen[len(self._packets) :]]
            return list(self._packets)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.packets)

    def __len__(self) -> int:
        return len(self._seen)

    def __getitem__(self, index: int) -> Any:
        return self.packets[index]

    def wait_for(self, wanted: Callable[[Any], bool], within: float = 2.0) -> Any:
        """The first packet that `wanted` says yes to; waits for it within the block. Raises
        HostsimError after `within` seconds."""
        deadline = time.monotonic() + within
        at = 0
        while True:
            packets = self.packets
            for packet in packets[at:]:
                if wanted(packet):
                    return packet
            at = len(packets)
            left = deadline - time.monotonic()
            if left <= 0 or self._source is None or self._error is not None:
                why = f"not seen within {within:g} s ({at} others were, {self.lost} lost)"
                raise HostsimError("packet", why) from self._error
            with self._came:
                if len(self._seen) == at:
                    self._came.wait(left)

    def _packet(self, seen: Seen) -> Any:
        """scapy's packet of it."""
        layers, packet = self._layers
        make = layers.Ether if len(seen.frame) >= ETHER else packet.Raw
        with contextlib.suppress(RecursionError):  # a frame may be anything
            found = make(seen.frame)
            return _described(found, seen)
        return _described(packet.Raw(seen.frame), seen)


def _described(packet: Any, seen: Seen) -> Any:
    packet.time = seen.time / 1e9
    packet.wirelen = seen.length
    # Past scapy's own __setattr__, which looks for a field of that name first.
    object.__setattr__(packet, "ident", seen.ident)
    for name in ABOUT:
        object.__setattr__(packet, name, getattr(seen.story, name))
    return packet
