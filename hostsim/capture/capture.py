"""A capture of a running host, into a file or a pipe, until it is ended.

The daemon says which programs and maps it has (`sight`); everything else happens here, in a process
of its own. Killed at any moment it leaves a file that can be read, and nothing in the kernel.
"""

import contextlib
import os
import signal
import stat
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hostsim
from cext.bpf.probe import descriptor_of
from cext.sight.records import SNAP, Sight
from cext.sight.sight import Sights
from cext.switch.drops import reasons
from hostsim.capture import pcapng, story
from hostsim.errors import HostsimError, UsageError
from hostsim.hostfile import matches
from hostsim.hostfile.table import Table
from hostsim.routing import policy
from hostsim.routing.policy import First

Wanted = Callable[[Sight], bool]

WAIT = 200
"""Milliseconds that packets are waited for at a time."""
EVERY = 1.0
"""Seconds between two statistics in the file."""
ALL_ = "hostsim"
"""The first interface: no packet is on it; its statistics are the whole capture's."""


def parse_match(text: str | None) -> Wanted:
    """What `--match` lets by: packets of flows that a host file's match holds, and their replies.
    Raises HostsimError if it is none."""
    if text is None:
        return lambda sight: True
    inside = text.strip().removeprefix("{").removesuffix("}")
    try:
        data = tomllib.loads(f"match = {{ {inside} }}")
    except tomllib.TOMLDecodeError as error:
        hint = 'for example { proto = "tcp", dport = 80 }'
        raise UsageError("capture --match", f"{text!r} is no match: {error}", hint) from None
    match = matches.rule_match(Table("capture", 0, "--match", data))
    if match.tcp_flags is not None or match.dscp is not None:
        why = "tcp_flags and dscp are not looked at"
        raise UsageError("capture --match", why, "leave them out")
    rows = list(policy.match_rows(match, 0))

    def wanted(sight: Sight) -> bool:
        flow = sight.flow
        return flow is not None and any(
            policy.first_match(rows, First(one)) is not None for one in (flow, flow.reversed())
        )

    return wanted


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
    """See the module.

    answer: the daemon's `sight`
    vms: names; none: all
    snap: bytes of a packet at most

    Raises HostsimError, OSError.
    """

    def __init__(self, answer: dict[str, Any], vms: Sequence[str], snap: int = SNAP) -> None:
        self._names = {number: name for name, number in answer["numbers"].items()}
        unknown = [name for name in vms if name not in answer["numbers"]]
        if unknown:
            hint = f"there are: {', '.join(answer['numbers'])}"
            raise HostsimError(f"capture {unknown[0]}", "no such VM or endpoint", hint)
        self._snap = snap
        self._known: dict[str, int] = {}
        self._seen: list[int] = []
        self._offset = time.time_ns() - time.monotonic_ns()
        with contextlib.ExitStack() as stack:
            daemon = os.pidfd_open(answer["pid"])
            stack.callback(os.close, daemon)
            flows = descriptor_of(daemon, answer["flows"])
            stack.callback(os.close, flows)
            chosen = [answer["numbers"][name] for name in vms or answer["numbers"]]
            self.sights = Sights(flows, answer["homes"], chosen, snap)
        self._reasons = reasons()

    def head(self) -> list[bytes]:
        """The blocks that a file begins with."""
        self._known[ALL_] = 0
        self._seen.append(0)
        about = "no packets; its statistics are those of the whole capture"
        return [
            pcapng.section(f"hostsim {hostsim.__version__}"),
            pcapng.interface(ALL_, about, self._snap),
        ]

    def blocks(self, sight: Sight) -> Iterator[bytes]:
        """The blocks of one packet: an interface comes with its first one."""
        told = story.tell(sight, self._names, self._reasons)
        number = self._known.get(told.interface)
        if number is None:
            number = self._known[told.interface] = len(self._known)
            self._seen.append(0)
            yield pcapng.interface(told.interface, told.description, self._snap)
        self._seen[number] += 1
        self._seen[0] += 1
        options = (pcapng.comment(told.text()), pcapng.custom(told.fields()))
        when = sight.time + self._offset
        ident = story.packet_id(sight.frame)
        yield pcapng.packet(number, when, sight.frame, sight.length, ident, options)

    def statistics(self) -> list[bytes]:
        """What each interface has in the file; what was lost is the whole capture's."""
        now = time.time_ns()
        lost = [self.sights.lost(), *[0] * (len(self._seen) - 1)]
        return [
            pcapng.statistics(number, now, seen + lost[number], lost[number])
            for number, seen in enumerate(self._seen)
        ]

    def close(self) -> None:
        self.sights.close()


def run(
    capture: Capture, out: Out, wanted: Wanted, count: int | None, ready: Callable[[], None]
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
        written += _some(capture, out, wanted, None if count is None else count - written)
        if time.monotonic() >= due:
            out.put(capture.statistics())
            due = time.monotonic() + EVERY
    capture.sights.detach()
    while more := _some(capture, out, wanted, None if count is None else count - written):
        written += more
    out.put(capture.statistics())
    return written, capture.sights.lost()


def _some(capture: Capture, out: Out, wanted: Wanted, most: int | None) -> int:
    """Write the packets that wait, `most` at most; how many."""
    blocks: list[bytes] = []
    written = 0
    for sight in capture.sights.take(WAIT):
        if written != most and wanted(sight):
            blocks += capture.blocks(sight)
            written += 1
    if blocks:
        out.put(blocks)
    return written
