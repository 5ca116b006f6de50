# SPDX-License-Identifier: Apache-2.0
"""Routing by contents: takes what the classifier sent up, finds names, moves flows to their route.

The classifier sends the first bytes of a connection whose route contents could still change
(`undecided`), at most HS_ASK_MAX packets of it. When they tell a name, the connection gets the
name's number and the route that it decides, and its flows are judged anew from their next packet
on. If they tell none for sure, it stays on the route of its addresses and ports. If nobody can say
any more (too many packets, bytes, or others; what servers read in various ways), it goes where any
name might send it.
A name is matched against the rows once and the matches are written to the map `names`, so that
the kernel decides by contents itself when a later policy judges the connection again.

Bounded: the ring buffer drops and counts. Unfinished connections are kept for PENDING at most, and
fairly (fair.py): the oldest of whoever has most is given up. What a decision costs does not depend
on how many VMs there are.
"""

from collections.abc import Callable, Iterable

from cext.bpf import objects as bpf
from cext.switch import maps, records
from cext.switch.records import Conn, Content, Lists, Tuple
from hostsim.routing import contents
from hostsim.routing.fair import Fair
from hostsim.routing.nametable import NameTable

PENDING = 1024
PARTS = 16
"""Of an unfinished connection, each of at most 2 KB."""
TCP = 6
_UNSURE = ("", contents.UNSURE)


class Inspector:
    """Owns nothing in the kernel; it writes `names` and `conns` of the data plane.

    source: the data plane's maps by name.
    tell: notes the name of a connection, by number; false if the connection is forgotten.
    forget: makes what was decided for a flow at a port stale.
    ports: where something may have been decided for a connection.
    """

    def __init__(
        self,
        source: Callable[[str], bpf.Map],
        tell: Callable[[Tuple, int], bool],
        forget: Callable[[int, Tuple], None],
        ports: Callable[[Conn], Iterable[int]],
    ) -> None:
        self._source = source
        self._tell = tell
        self._forget = forget
        self._ports = ports
        self._names = NameTable(lambda: source("names"))
        self._pending: dict[Tuple, dict[int, bytes]] = {}
        self._waiting: Fair[Tuple] = Fair(PENDING)
        self._given_up = 0
        self._pushed_out = 0

    def policy(self, lists: Lists, region: int) -> None:
        """A policy is about to be named: see NameTable. Raises OSError."""
        self._names.policy(lists, region)

    def saw(self, content: Content) -> None:
        """Contents came up; those of a connection that is decided already, or forgotten, do not
        count. Raises OSError."""
        flow = content.tuple
        conn = maps.read_conn(self._source("conns"), flow)
        if conn is None or conn.content:
            self._drop(flow)
            return
        parts = self._pending.setdefault(flow, {})
        alike = True
        if not content.start or _offset(content.sequence, content.start) < contents.LIMIT:
            alike = _keep(parts, content)
        data = joined(parts, content.start) if alike else None
        found = self._find(flow, data) if parts and data is not None else None
        full = data is None or len(data) >= contents.LIMIT or len(parts) >= PARTS
        if found == _UNSURE:
            found, full = None, True
        if found is None and not full and (content.asked < records.ASK_MAX or content.rest):
            for one in self._waiting.touch(flow, content.vm):
                self._pushed_out += 1
                self._give_up(one)
            return
        if found is None:
            self._given_up += 1
        self._drop(flow)
        self._decide(flow, content.vm, found)

    def counters(self) -> dict[str, int]:
        """Connections of which nobody can say whether their contents told a name: those of which
        enough was seen, and those that made room for newer ones (a flood of them)."""
        return {"given-up": self._given_up, "pushed-out": self._pushed_out}

    def name_of(self, number: int) -> tuple[str, str] | None:
        """Kind and name by number; for what is shown."""
        return self._names.name_of(number)

    def _find(self, flow: Tuple, data: bytes) -> tuple[str, str] | None:
        """Kind and name, kind "" if there is none for sure, _UNSURE, or None if more is needed."""
        if flow.proto != TCP:
            told = [("dns_name", contents.dns_name(data))]
        else:
            data = data[: contents.LIMIT]
            told = [("sni", contents.sni(data)), ("http_host", contents.http_host(data))]
            if flow.dport == 53:
                told.append(("dns_name", contents.dns_name(data, tcp=True)))
        answers = [name for _, name in told]
        if contents.UNSURE in answers:
            return _UNSURE
        for kind, name in told:
            if name not in (contents.MORE, contents.NONE):
                return kind, name
        return None if contents.MORE in answers else ("", "")

    def _drop(self, flow: Tuple) -> None:
        self._pending.pop(flow, None)
        self._waiting.discard(flow)

    def _give_up(self, flow: Tuple) -> None:
        self._drop(flow)
        conn = maps.read_conn(self._source("conns"), flow)
        if conn is not None:
            self._decide(flow, 0, None)

    def _decide(self, flow: Tuple, teller: int, found: tuple[str, str] | None) -> None:
        """found: as _find says; None if nobody can say any more."""
        conns = self._source("conns")
        if found is None:
            number = records.UNSEEN_CONTENT
        else:
            number = self._names.number(found, teller) if found[0] else records.NO_CONTENT
        if not self._tell(flow, number):
            return
        # Read after the name is written, not before: a reply that the switch has judged meanwhile,
        # without the name, has left its port here, and is judged again. One that it is judging now
        # is not remembered (hs_holds in cext/switch/conns.bpf.h).
        conn = maps.read_conn(conns, flow)
        for port in self._ports(conn) if conn is not None else ():
            self._forget(port, flow)
            self._forget(port, flow.reversed())


def _offset(number: int, start: int) -> int:
    """How far a byte is behind the first, by TCP's numbers, which wrap."""
    return (number - start) & 0xFFFFFFFF


def _keep(parts: dict[int, bytes], content: Content) -> bool:
    """Returns whether it is what came at that place before, shorter or longer."""
    before = parts.get(content.sequence, b"")
    parts[content.sequence] = max(before, content.data, key=len)
    return before.startswith(content.data) or content.data.startswith(before)


def joined(parts: dict[int, bytes], start: int = 0) -> bytes | None:
    """The bytes of a TCP stream from the number `start` on, as far as they are there. 0: it is not
    known; then the first is the one that no other is before, as far as numbers that wrap tell
    (RFC 9293 3.4). None: two parts say different things of one place, and nobody can say which
    the receiver takes."""
    if not start and parts:
        start = min(parts, key=lambda number: sum(_offset(number, o) < 1 << 31 for o in parts))
    data = b""
    for number in sorted(parts, key=lambda number: _offset(number, start)):
        at = _offset(number, start)
        if at > len(data):
            break
        known = data[at:]
        if known[: len(parts[number])] != parts[number][: len(known)]:
            return None
        data += parts[number][len(known) :]
    return data
