# SPDX-License-Identifier: Apache-2.0
"""A capture of a running host, into a file or a pipe, until it is ended.

It is a process of its own (source.py says what it asks of the daemon). Killed at any moment it
leaves a file that can be read, and nothing in the kernel.
"""

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import hostsim
from hostsim.capture import pcapng
from hostsim.capture.source import Source
from hostsim.capture.story import Seen
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

    def put(self, blocks: Sequence[bytes]) -> None:
        """Raises HostsimError if it is full; a file then ends with its last whole block."""
        data = memoryview(b"".join(blocks))
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


def _whole(blocks: Sequence[bytes], written: int) -> int:
    """Bytes of the blocks that were written to their end."""
    done = 0
    for block in blocks:
        if done + len(block) > written:
            break
        done += len(block)
    return done


class Capture:
    """The blocks of a capture's file. See the module."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._known: dict[str, int] = {}
        self._seen: list[int] = []

    def head(self) -> list[bytes]:
        """The blocks that a file begins with."""
        self._known[ALL_] = 0
        self._seen.append(0)
        about = "no packets; its statistics are those of the whole capture"
        return [
            pcapng.section(f"hostsim {hostsim.__version__}"),
            pcapng.interface(ALL_, about, self.source.snap),
        ]

    def blocks(self, seen: Seen) -> Iterator[bytes]:
        """The blocks of one packet: an interface comes with its first one."""
        told = seen.story
        number = self._known.get(told.interface)
        if number is None:
            number = self._known[told.interface] = len(self._known)
            self._seen.append(0)
            yield pcapng.interface(told.interface, told.description, self.source.snap)
        self._seen[number] += 1
        self._seen[0] += 1
        options = (pcapng.comment(told.text()), pcapng.custom(told.fields()))
        yield pcapng.packet(number, seen.time, seen.frame, seen.length, seen.ident, options)

    def statistics(self) -> list[bytes]:
        """What each interface has in the file; what was lost is the whole capture's."""
        now = time.time_ns()
        lost = [self.source.lost(), *[0] * (len(self._seen) - 1)]
        return [
            pcapng.statistics(number, now, seen + lost[number], lost[number])
            for number, seen in enumerate(self._seen)
        ]


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
    written, due = 0, time.monotonic() + EVERY
    while not ended and (count is None or written < count):
        written += _some(capture, out, None if count is None else count - written)
        if time.monotonic() >= due:
            out.put(capture.statistics())
            due = time.monotonic() + EVERY
    capture.source.detach()
    while more := _some(capture, out, None if count is None else count - written):
        written += more
    out.put(capture.statistics())
    return written, capture.source.lost()


def _some(capture: Capture, out: Out, most: int | None) -> int:
    """Write the packets that wait, `most` at most; how many."""
    blocks: list[bytes] = []
    written = 0
    for seen in capture.source.take(WAIT):
        if written != most:
            blocks += capture.blocks(seen)
            written += 1
    if blocks:
        out.put(blocks)
    return written
