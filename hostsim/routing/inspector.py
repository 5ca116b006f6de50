"""Routing by contents: takes what the classifier sent up, finds names, moves flows to their route.

The classifier sends the first bytes of a connection whose route contents could still change
(`undecided`), at most HS_ASK_MAX packets of it. When they tell a name, the connection gets the
name's number and the route that it decides, and its flows are judged anew from their next packet
on. A name is matched against the rows once and the matches are written to the map `names`, so that
the kernel decides by contents itself when a later policy judges the connection again.

Bounded: the ring buffer drops and counts, and unfinished connections are kept for PENDING at most;
the oldest is given up first, and stays on the route of its addresses and ports.
"""

from collections import OrderedDict
from collections.abc import Callable

from cext.bpf import objects as bpf
from cext.switch import maps, records
from cext.switch.records import Content, Lists, Tuple
from hostsim.routing import contents
from hostsim.routing.policy import name_matches

PENDING = 1024
NAMES_MAX = 10000
TCP = 6


class Inspector:
    """Owns nothing in the kernel; it writes `names` and `conns` of the data plane. forget: makes
    what was decided for a flow at a VM's port stale; vms: every VM's number."""

    def __init__(
        self,
        maps: Callable[[str], bpf.Map],
        forget: Callable[[int, Tuple], None],
        vms: tuple[int, ...],
    ) -> None:
        self._maps = maps
        self._forget = forget
        self._vms = vms
        self._pending: OrderedDict[Tuple, dict[int, bytes]] = OrderedDict()
        self._numbers: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._next = 1
        self._lists = Lists(())
        self._base = 0
        self._given_up = 0
        self._pushed_out = 0

    def policy(self, lists: Lists, region: int) -> None:
        """A policy is about to be named: match every name known against its rows first."""
        self._lists, self._base = lists, region * records.ROWS_MAX
        for (kind, name), number in self._numbers.items():
            self._write(kind, name, number)

    def saw(self, content: Content) -> None:
        """Contents came up; those of a connection that is decided already, or forgotten, do not
        count."""
        conn = maps.read_conn(self._maps("conns"), content.tuple)
        if conn is None or conn.content:
            self._pending.pop(content.tuple, None)
            return
        parts = self._pending.setdefault(content.tuple, {})
        parts[content.sequence] = content.data
        self._pending.move_to_end(content.tuple)
        found = self._find(content.tuple, parts)
        if found is None:
            if content.asked >= records.ASK_MAX:
                self._given_up += 1
                self._give_up(content.tuple)
            while len(self._pending) > PENDING:
                self._pushed_out += 1
                self._give_up(next(iter(self._pending)))
            return
        del self._pending[content.tuple]
        self._decide(content.tuple, found)

    def counters(self) -> dict[str, int]:
        """Connections whose contents told no name: those of which enough was seen, and those that
        made room for newer ones (a flood of them)."""
        return {"given-up": self._given_up, "pushed-out": self._pushed_out}

    def name_of(self, number: int) -> tuple[str, str] | None:
        """Kind and name by number; for what is shown."""
        return next((key for key, value in self._numbers.items() if value == number), None)

    def _find(self, flow: Tuple, parts: dict[int, bytes]) -> tuple[str, str] | None:
        """Kind and name, kind "" where there is none for sure, or None where more is needed."""
        if flow.proto != TCP:
            name = contents.dns_name(next(iter(parts.values())))
            return ("dns_name", name) if name else ("", "")
        data = joined(parts)
        more = False
        for kind, name in (
            ("sni", contents.sni(data)),
            ("http_host", contents.http_host(data)),
            ("dns_name", contents.dns_name(data, tcp=True) if flow.dport == 53 else ""),
        ):
            if name == contents.MORE:
                more = True
            elif name:
                return kind, name
        return None if more else ("", "")

    def _give_up(self, flow: Tuple) -> None:
        del self._pending[flow]
        self._decide(flow, ("", ""))

    def _decide(self, flow: Tuple, found: tuple[str, str]) -> None:
        number = records.NO_CONTENT
        if found[0]:
            number = self._number(*found)
        if not maps.set_content(self._maps("conns"), flow, number):
            return
        for one in (flow, flow.reversed()):
            for vm in self._vms:
                self._forget(vm, one)

    def _number(self, kind: str, name: str) -> int:
        number = self._numbers.get((kind, name))
        if number is None:
            if len(self._numbers) >= NAMES_MAX:
                self._numbers.popitem(last=False)
            number, self._next = self._next, self._next % 0x7FFFFFFF + 1
            self._numbers[kind, name] = number
            self._write(kind, name, number)
        self._numbers.move_to_end((kind, name))
        return number

    def _write(self, kind: str, name: str, number: int) -> None:
        for at, row in enumerate(self._lists.routes):
            if row.content and row.content[0] == kind and name_matches(name, row.content[1]):
                key = maps.pack_u32(number) + maps.pack_u32(self._base + at)
                self._maps("names").set(key, b"\1")


def joined(parts: dict[int, bytes]) -> bytes:
    """The bytes of a TCP stream from its first sequence number on, as far as they are there. The
    first is the one that no other is before, as far as numbers that wrap tell (RFC 9293 3.4)."""
    start = min(
        parts, key=lambda number: sum((number - one) & 0xFFFFFFFF < 1 << 31 for one in parts)
    )
    data = b""
    for number in sorted(parts, key=lambda number: (number - start) & 0xFFFFFFFF):
        at = (number - start) & 0xFFFFFFFF
        if at > len(data):
            break
        data = data[:at] + parts[number]
    return data
