# SPDX-License-Identifier: Apache-2.0
"""Routing by contents without a kernel: names, connections, floods; the maps are dictionaries."""

import errno
import ssl
import struct
from typing import Any

import pytest
from cext._native import ffi
from hypothesis import given
from hypothesis import strategies as st

from cext.switch import maps, records
from cext.switch.records import Conn, Content, Lists, Row, Tuple
from hostsim.routing import contents, inspector, nametable
from hostsim.routing.fair import Fair
from hostsim.routing.inspector import Inspector
from hostsim.routing.nametable import Name, NameTable
from hostsim.routing.policy import name_matches

CLIENT, SERVER, FW, UPLINK = 1, 2, 3, 77


class FakeMap(dict[bytes, bytes]):
    """A BPF hash map with room for `room` entries."""

    room = 1 << 16
    broken = False

    def set(self, key: bytes, value: bytes) -> None:
        if self.broken:
            raise OSError(errno.ENOMEM, "no memory")
        if key not in self and len(self) >= self.room:
            raise OSError(errno.E2BIG, "full")
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)


def row(kind: str, *patterns: str) -> Row:
    content = (kind, patterns) if patterns else None
    return Row(0, 0, 6, (), (), (), (), (), (0, 0), None, 0, 0, content)


def lists(*rows: Row) -> Lists:
    return Lists(rows)


def true_of(table: FakeMap, region: int, number: int) -> set[int]:
    """The rows of a region that the kernel takes the name for matching."""
    found = (struct.unpack("=II", key) for key in table)
    base = region * records.ROWS_MAX
    return {at - base for one, at in found if one == number and 0 <= at - base < records.ROWS_MAX}


def test_a_name_has_the_rows_of_the_policy_in_force() -> None:
    table = FakeMap()
    names = NameTable(lambda: table)
    names.policy(
        lists(row("sni", "a.example"), row("sni", "*.example"), row("dns_name", "*.org")), 0
    )
    number = names.number(("sni", "a.example"), CLIENT)
    assert true_of(table, 0, number) == {0, 1}
    assert true_of(table, 0, names.number(("sni", "example"), CLIENT)) == set()
    assert names.name_of(number) == ("sni", "a.example")
    names.policy(lists(row("sni", "b.example")), 1)
    assert true_of(table, 1, number) == set()
    assert true_of(table, 0, number) == {0, 1}  # packets in flight are judged by it


def test_what_was_true_of_a_region_goes_with_its_policy() -> None:
    """A region is used again after some epochs, and its rows then ask for other names."""
    table = FakeMap()
    names = NameTable(lambda: table)
    names.policy(lists(row("sni", "a.example")), 0)
    number = names.number(("sni", "a.example"), CLIENT)
    for region in range(1, records.REGIONS):
        names.policy(lists(row("sni", "b.example")), region)
    names.policy(lists(row("sni", "b.example")), 0)
    assert true_of(table, 0, number) == set()
    assert not table


def test_a_name_that_goes_takes_its_rows_along() -> None:
    table = FakeMap()
    names = NameTable(lambda: table, limit=3)
    names.policy(lists(row("sni", "*.example")), 0)
    for nth in range(50):
        names.number(("sni", f"n{nth}.example"), CLIENT)
    assert len(table) == 3


def test_a_full_map_costs_names_and_no_policy() -> None:
    table = FakeMap()
    table.room = 20
    names = NameTable(lambda: table)
    wide = lists(*(row("sni", "*.example") for _ in range(4)))
    names.policy(wide, 0)
    numbers = [names.number(("sni", f"n{nth}.example"), CLIENT) for nth in range(30)]
    assert true_of(table, 0, numbers[-1]) == {0, 1, 2, 3}
    names.policy(wide, 1)
    known = [number for number in numbers if names.name_of(number)]
    assert known
    for number in known:
        assert true_of(table, 1, number) == {0, 1, 2, 3}


def test_a_policy_that_cannot_be_written_changes_nothing() -> None:
    table = FakeMap()
    names = NameTable(lambda: table)
    names.policy(lists(row("sni", "a.example")), 0)
    names.number(("sni", "a.example"), CLIENT)
    table.broken = True
    with pytest.raises(OSError, match="no memory"):
        names.policy(lists(row("sni", "*.example")), 1)
    table.broken = False
    assert true_of(table, 0, names.number(("sni", "a.example"), CLIENT)) == {0}


LABELS = st.lists(st.sampled_from(("a", "b", "org")), min_size=1, max_size=4).map(".".join)
PATTERNS = st.lists(LABELS | LABELS.map("*.{}".format), min_size=1, max_size=3)


@given(
    policies=st.lists(
        st.lists(PATTERNS.map(lambda patterns: row("sni", *patterns)), max_size=4), min_size=1
    ),
    told=st.lists(LABELS, max_size=12),
    room=st.integers(8, 40),
    limit=st.integers(1, 6),
)
def test_the_map_holds_what_is_true_and_nothing_else(
    policies: list[list[Row]], told: list[str], room: int, limit: int
) -> None:
    table = FakeMap()
    table.room = room
    names = NameTable(lambda: table, limit)
    regions: dict[int, list[Row]] = {}
    for nth, rows in enumerate(policies):
        region = nth % records.REGIONS
        names.policy(lists(*rows), region)
        regions[region] = rows
        for text in told[nth::2]:
            number = names.number(("sni", text), CLIENT)
            assert true_of(table, region, number) == {
                at
                for at, one in enumerate(rows)
                if one.content and name_matches(text, one.content[1])
            }
        for number, at in (struct.unpack("=II", key) for key in table):
            name: Name | None = names.name_of(number)
            assert name is not None
            content = regions[at // records.ROWS_MAX][at % records.ROWS_MAX].content
            assert content is not None
            assert name_matches(name[1], content[1])


# -- shares -------------------------------------------------------------------------------------


def test_a_flood_costs_whoever_makes_it() -> None:
    table: Fair[str] = Fair(10)
    for nth in range(3):
        assert table.touch(f"mine {nth}", CLIENT) == []
    for nth in range(1000):
        assert not [one for one in table.touch(f"theirs {nth}", SERVER) if one.startswith("mine")]
    assert len(table) == 10
    assert all(f"mine {nth}" in table for nth in range(3))
    table.discard("mine 0")
    assert "mine 0" not in table


# -- connections --------------------------------------------------------------------------------


class Kernel:
    """The maps that the inspector reads and writes, and what it made stale."""

    def __init__(self) -> None:
        self.maps = {"names": FakeMap(), "conns": FakeMap()}
        self.stale: list[tuple[int, Tuple]] = []
        self.late = 0
        """The port of a reply that comes just before a name is written."""
        self.inspector = Inspector(
            lambda name: self.maps[name],  # type: ignore[arg-type,return-value]
            self.tell,
            lambda port, flow: self.stale.append((port, flow)),
            self.ports,
        )

    def tell(self, flow: Tuple, content: int) -> bool:
        key, _ = maps.pack_conn(flow)
        value = self.maps["conns"].get(key)
        if value is None:
            return False
        raw = ffi.new("struct hs_conn *")
        ffi.memmove(raw, value, len(value))
        raw.content, raw.policy, raw.undecided = content, 0, 0
        raw.back = self.late or raw.back
        self.maps["conns"].set(key, bytes(ffi.buffer(raw)))
        return True

    def ports(self, conn: Conn) -> set[int]:
        return {conn.origin, conn.back, FW} - {0}

    def knows(self, flow: Tuple, origin: int = CLIENT, back: int = SERVER) -> None:
        raw = ffi.new("struct hs_conn *")
        raw.policy, raw.route, raw.undecided, raw.back = 1, records.NO_ROUTE, 1, back
        setattr(raw, "from", origin)
        key, turned = maps.pack_conn(flow)
        raw.turned = raw.reply = turned
        self.maps["conns"].set(key, bytes(ffi.buffer(raw)))

    def conn(self, flow: Tuple) -> Conn:
        found = maps.read_conn(self.maps["conns"], flow)  # type: ignore[arg-type]
        assert found is not None
        return found

    def told(self, flow: Tuple) -> tuple[str, str] | None:
        return self.inspector.name_of(self.conn(flow).content)


@pytest.fixture
def kernel() -> Kernel:
    made = Kernel()
    made.inspector.policy(lists(row("sni", "*.example.com"), row("dns_name", "*.org")), 0)
    return made


def flow(port: int, proto: int = 6, dport: int = 443) -> Tuple:
    return Tuple(4, proto, bytes((198, 18, 0, 10)), port, bytes((198, 18, 0, 20)), dport)


def content(of: Tuple, data: bytes, sequence: int = 1, asked: int = 1, vm: int = CLIENT) -> Content:
    return Content(vm, asked, of, sequence, data)


def hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def question(name: str) -> bytes:
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"


def test_a_name_in_one_packet(kernel: Kernel) -> None:
    one = flow(4000)
    kernel.knows(one)
    kernel.inspector.saw(content(one, hello("www.example.com")))
    assert kernel.told(one) == ("sni", "www.example.com")
    assert not kernel.conn(one).undecided


def test_a_name_over_several_packets(kernel: Kernel) -> None:
    data = hello("www.example.com")
    parts = [(at, data[at : at + 50]) for at in range(0, len(data), 50)]
    one = flow(4000)
    kernel.knows(one)
    first, *others = parts
    for at, part in [first, *reversed(others)]:
        assert kernel.conn(one).undecided
        kernel.inspector.saw(content(one, part, (1 << 32) - 60 + at & 0xFFFFFFFF))
    assert kernel.told(one) == ("sni", "www.example.com")


def test_both_directions_are_judged_anew_at_the_ports_of_the_connection(kernel: Kernel) -> None:
    """The initiator behind an uplink too; and no more ports than that, however many there are."""
    one = flow(4000, 17, 53)
    kernel.knows(one, origin=UPLINK)
    kernel.inspector.saw(content(one, question("a.org"), vm=UPLINK))
    ports = {UPLINK, SERVER, FW}
    assert sorted(kernel.stale) == sorted(
        (port, way) for port in ports for way in (one, one.reversed())
    )


def test_what_tells_no_name_is_decided_without_one(kernel: Kernel) -> None:
    one, other = flow(4000, 17, 53), flow(4001)
    for each in (one, other):
        kernel.knows(each)
    kernel.inspector.saw(content(one, b"\x00" * 5))
    assert kernel.conn(one).content == records.NO_CONTENT
    data = hello("www.example.com")
    for nth in range(records.ASK_MAX):
        assert kernel.conn(other).undecided
        kernel.inspector.saw(content(other, data[nth : nth + 1], nth, nth + 1))
    assert kernel.conn(other).content == records.UNSEEN_CONTENT  # it may still be any
    assert kernel.inspector.counters() == {"given-up": 1, "pushed-out": 0}


def test_what_comes_before_the_first_byte_decides_nothing(kernel: Kernel) -> None:
    """The end of a hello alone looks like no hello at all."""
    data, one, start = hello("www.example.com"), flow(4000), (1 << 32) - 20
    kernel.knows(one)
    for at in (100, 50):
        part = Content(CLIENT, 1, one, start + at & 0xFFFFFFFF, data[at : at + 50], start)
        kernel.inspector.saw(part)
        assert kernel.conn(one).undecided
    part = Content(CLIENT, 2, one, start, data[:50], start)
    kernel.inspector.saw(part)
    part = Content(CLIENT, 3, one, start + 150 & 0xFFFFFFFF, data[150:], start)
    kernel.inspector.saw(part)
    assert kernel.told(one) == ("sni", "www.example.com")


@pytest.mark.parametrize("places", [(7, 7), (7, 27)])
def test_what_is_said_twice_and_differently_may_have_any_name(
    kernel: Kernel, places: tuple[int, int]
) -> None:
    """Only its receiver knows which of them counts; the same bytes sent again are nothing."""
    data, one, other = hello("www.example.com"), flow(4000), flow(4001)
    first, second = places
    for each in (one, other):
        kernel.knows(each)
        kernel.inspector.saw(Content(CLIENT, 1, each, first, data[:60], 7))
    kernel.inspector.saw(Content(CLIENT, 2, one, second, data[second - 7 :], 7))
    assert kernel.told(one) == ("sni", "www.example.com")
    changed = bytes(30) + hello("www.example.org")[second - 7 + 30 :]
    kernel.inspector.saw(Content(CLIENT, 2, other, second, changed, 7))
    assert kernel.conn(other).content == records.UNSEEN_CONTENT
    assert kernel.inspector.counters() == {"given-up": 1, "pushed-out": 0}


@pytest.mark.parametrize("said", [b"PRI * HTTP/2.0\r\n\r\n", b"\x15\3\1\0\2\1\0"])
def test_what_servers_read_differently_may_have_any_name(kernel: Kernel, said: bytes) -> None:
    one = flow(4000)
    kernel.knows(one)
    kernel.inspector.saw(content(one, said))
    assert kernel.conn(one).content == records.UNSEEN_CONTENT


def test_a_packet_that_comes_in_parts_is_seen_to_its_end(kernel: Kernel) -> None:
    """Though it is the last that is looked at."""
    data, one = hello("www.example.com"), flow(4000)
    kernel.knows(one)
    for at in range(0, len(data), 100):
        rest = max(0, len(data) - at - 100)
        part = Content(CLIENT, records.ASK_MAX, one, 7 + at, data[at : at + 100], 7, rest)
        assert kernel.conn(one).undecided
        kernel.inspector.saw(part)
    assert kernel.told(one) == ("sni", "www.example.com")


def test_a_hello_without_an_end_may_still_have_any_name(kernel: Kernel) -> None:
    """More than anybody looks at, in any parts: nothing is kept of it, and it is not let past."""
    for port, size in ((4000, 2000), (4001, 40)):
        one = flow(port)
        kernel.knows(one)
        data = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(32768)
        for nth in range(inspector.PARTS):
            part = data[nth * size : (nth + 1) * size]
            kernel.inspector.saw(Content(CLIENT, 1, one, 7 + nth * size, part, 7))
        assert kernel.conn(one).content == records.UNSEEN_CONTENT
    far = Content(CLIENT, 1, flow(4002), 7 + contents.LIMIT, b"x", 7)
    kernel.knows(flow(4002))
    for _ in range(100):
        kernel.inspector.saw(far)
    assert kernel.conn(flow(4002)).undecided


def test_a_connection_that_is_forgotten_is_let_be(kernel: Kernel) -> None:
    kernel.inspector.saw(content(flow(4000), hello("www.example.com")))
    assert not kernel.maps["conns"]
    assert not kernel.stale


def test_what_is_decided_stays_so(kernel: Kernel) -> None:
    one = flow(4000)
    kernel.knows(one)
    kernel.inspector.saw(content(one, hello("www.example.com")))
    kernel.inspector.saw(content(one, hello("other.example.com")))
    assert kernel.told(one) == ("sni", "www.example.com")


def test_a_reply_that_comes_while_its_name_is_found_is_judged_again(kernel: Kernel) -> None:
    """The switch judges it without the name, just before the name is written."""
    mine = flow(4000)
    kernel.knows(mine, back=0)
    kernel.late = SERVER
    kernel.inspector.saw(content(mine, hello("www.example.com"), 0))
    assert (SERVER, mine.reversed()) in kernel.stale


def test_a_flood_of_half_names_costs_the_vm_that_sends_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = flow(4000)
    kernel.knows(mine)
    data = hello("www.example.com")
    kernel.inspector.saw(content(mine, data[:100], 0))
    for port in range(inspector.PENDING + 500):
        theirs = flow(port, dport=80)
        kernel.knows(theirs, origin=SERVER)
        kernel.inspector.saw(content(theirs, b"GET / HT", vm=SERVER))
    assert kernel.inspector.counters()["pushed-out"] == 501
    kernel.inspector.saw(content(mine, data[100:], 100, 2))
    assert kernel.told(mine) == ("sni", "www.example.com")


def test_a_flood_of_names_costs_the_vm_that_asks_for_them() -> None:
    table = FakeMap()
    names = NameTable(lambda: table, limit=100)
    names.policy(lists(row("dns_name", "*.org")), 0)
    mine = names.number(("dns_name", "mine.org"), CLIENT)
    for nth in range(1000):
        names.number(("dns_name", f"n{nth}.org"), SERVER)
    assert names.name_of(mine) == ("dns_name", "mine.org")
    assert len(table) == 100


def test_the_limit_is_what_the_map_can_take() -> None:
    """One row for each name at the least."""
    assert nametable.NAMES_MAX < 1 << 16


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=80)), max_size=20))
def test_no_contents_raise(packets: list[Any]) -> None:
    kernel = Kernel()
    kernel.inspector.policy(lists(row("sni", "*.example.com")), 0)
    for nth, (port, data) in enumerate(packets):
        one = flow(port, (6, 17)[port % 2], (443, 53)[port % 2])
        kernel.knows(one)
        kernel.inspector.saw(content(one, data, nth, nth % 9))
