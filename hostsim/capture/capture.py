# SPDX-License-Identifier: Apache-2.0
"""A capture of a running host, into a file or a pipe, until it is ended.

It is a process of its own (source.py says what it asks of the daemon). Killed at any moment it
leaves a file that can be read, and nothing in the kernel.
"""

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import hostsim
from hostsim.capture import pcapng
from hostsim.capture.source import Source
from hostsim.capture.story import Story
from hostsim.errors import HostsimError

WAIT = 200
"""Milliseconds that packets are waited for at a time."""
EVERY = 1.0
"""Seconds between two statistics in the file."""
ALL_ = "hostsim"
"""The first interface: no packet is on it; its statistics are the whole capture's."""


@dataclass
class Out:
    """A descriptor that blocks are written to. whole: bytes of whole blocks so far."""

    fd: int
    name: str
    whole: int = 0

    def put(self, blocks: bytes | memoryview) -> None:
        """Write whole blocks. Raises HostsimError if it is full; a file then ends with its last
        whole block."""
        data = memoryview(blocks)
        at = 0
        try:
            while at < len(data):
                at += os.write(self.fd, data[at:])
        except BrokenPipeError:
            raise
        except OSError as error:
            if stat.S_ISREG(os.fstat(self.fd).st_mode):
                os.ftruncate(self.fd, self.whole + _whole(blocks, at))
            why = error.strerror or str(error)
            raise HostsimError(f"capture -w {self.name}", f"{why}; ended") from None
        self.whole += len(data)


def _whole(blocks: bytes | memoryview, written: int) -> int:
    """Bytes of the blocks that were written to their end."""
    done = 0
    while done + pcapng.LEAST <= written:
        length = int.from_bytes(blocks[done + 4 : done + 8], "little")
        if done + length > written:
            break
        done += length
    return done


class Capture:
    """The blocks of a capture's file. See the module."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._known: dict[str, int] = {}

    def head(self) -> bytes:
        """The blocks that a file begins with."""
        self._known[ALL_] = 0
        about = "no packets; its statistics are those of the whole capture"
        section = pcapng.section(f"hostsim {hostsim.__version__}")
        return section + pcapng.interface(ALL_, about, self.source.snap)

    def blocks(self, ms: int, most: int | None) -> Iterator[memoryview | bytes]:
        """Wait so many milliseconds for packets; those that came, `most` at most, in pieces that
        are good until the next. An interface comes with its first packet."""
        return self.source.write(ms, most, self._kind)

    def _kind(self, told: Story) -> tuple[int, bytes, bytes]:
        before = b""
        number = self._known.get(told.interface)
        if number is None:
            number = self._known[told.interface] = len(self._known)
            before = pcapng.interface(told.interface, told.description, self.source.snap)
        options = (pcapng.comment(told.text()), pcapng.custom(told.fields()))
        return number, pcapng.padded(options), before

    def written(self) -> int:
        """Packets in the file."""
        return sum(map(self.source.written, self._known.values()))

    def statistics(self) -> bytes:
        """What each interface has in the file; what was lost is the whole capture's."""
        now, lost = time.time_ns(), self.source.lost()
        blocks = [pcapng.statistics(0, now, self.written() + lost, lost)]
        for number in list(self._known.values())[1:]:
            blocks.append(pcapng.statistics(number, now, self.source.written(number), 0))
        return b"".join(blocks)


def run(
    capture: Capture, out: Out, count: int | None, ready: Callable[[], None]
) -> tuple[int, int]:
    """Write packets until SIGINT, SIGTERM, or `count` of them. ready: called once nothing escapes
    any more. Returns how many are in the file, and how many were lost. Raises HostsimError,
    BrokenPipeError."""
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ended.append(number))
    out.put(capture.head())
    ready()
    due = time.monotonic() + EVERY
    while not ended and (count is None or capture.written() < count):
        _some(capture, out, count)
        if time.monotonic() >= due:
            out.put(capture.statistics())
            due = time.monotonic() + EVERY
    capture.source.detach()
    while (count is None or capture.written() < count) and _some(capture, out, count):
        pass
    out.put(capture.statistics())
    return capture.written(), capture.source.lost()


def _some(capture: Capture, out: Out, count: int | None) -> bool:
    """Write the packets that wait, up to `count` in the file; whether there were any, those that
    nobody wants among them."""
    for piece in capture.blocks(WAIT, None if count is None else count - capture.written()):
        out.put(piece)
    return capture.source.gathered()
