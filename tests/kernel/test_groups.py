# SPDX-License-Identifier: Apache-2.0
"""Frames that do not look like what they are: packets to one host in frames to a group, behind
priority tags, in fragments; and packets to groups, which filters and mirrors can name. Each is
judged as what its receiver takes it for, or dropped by a name of its own.
"""

import socket
import struct
from collections.abc import Iterator

import pytest

from cext.ns.netns import socket_at
from cext.switch.records import Tuple
from help.frames import MF, UDP, ipv4
from help.net import ENDS, made
from help.receiver import Wire, swallows
from help.waiting import until

pytestmark = pytest.mark.root

HOST = (
    ENDS
    + """
[[vm]]
name = "hole"
[[vm]]
name = "copy"
[[filter]]
match = { proto = "udp", dport = 9, dst = "198.18.0.0/24" }
[[filter]]
match = { proto = "udp", dport = 11, src = "198.18.0.10/32" }
[[filter]]
match = { dst = ["224.0.0.251/32", "ff02::fb/128"], proto = "sctp" }
[[mirror]]
match = { dst = "255.255.255.255/32" }
to = "copy"
[[route]]
match = { proto = "udp", dport = 80 }
through = ["hole"]
[[route]]
match = { proto = "udplite" }
through = ["hole"]
"""
)
EVERYBODY, MULTICAST = b"\xff" * 6, bytes.fromhex("01005e0000fb")
SERVER, GROUP, ALL = bytes([198, 18, 0, 20]), bytes([224, 0, 0, 251]), b"\xff" * 4
Q, AD = b"\x81\0\x20\0", b"\x88\xa8\0\0"  # priority tags


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with made("groups", HOST, tmp_path_factory.mktemp("groups")) as net:
        swallows(net, "hole")
        wire = Wire(net)
        yield wire
        wire.close()


COUNTED = (
    "malformed",
    "orphan-fragment",
    "vm-gone",
    "filter",
    "stale",
    "forged",
    "mirrored",
    "deep-tags",
    "unicast-in-group",
    "fragment-conflict",
)


def datagram(port: int, size: int = 8, sport: int = 4000) -> bytes:
    return struct.pack("!HHHH", sport, port, 8 + size, 0) + bytes(size)


def frame(
    wire: Wire,
    to: bytes,
    dst: bytes,
    payload: bytes,
    tags: bytes = b"",
    proto: int = UDP,
    **lies: int,
) -> bytes:
    packet = ipv4(wire.ends.src4, dst, proto, payload, **lies)
    return to + wire.ends.here + tags + b"\x08\0" + packet


def sent(wire: Wire, *several: bytes) -> tuple[list[Tuple], dict[str, int]]:
    """The flows of what the server was given, and what was counted meanwhile, by name."""
    before = wire.net.dataplane.report.counters()
    found = [one.flow for one in wire.send(list(several)) if one.flow.src == wire.ends.src4]
    after = wire.net.dataplane.report.counters()
    changed = {name: after[name] - before[name] for name in COUNTED if after[name] > before[name]}
    return found, changed


@pytest.mark.parametrize("to", [EVERYBODY, MULTICAST], ids=["broadcast", "multicast"])
def test_a_packet_to_one_host_is_judged_whatever_its_frame_says(wire: Wire, to: bytes) -> None:
    assert sent(wire, frame(wire, to, SERVER, datagram(9))) == ([], {"filter": 1})
    assert sent(wire, frame(wire, to, SERVER, datagram(80))) == ([], {"unicast-in-group": 1})
    found, counted = sent(wire, frame(wire, to, SERVER, datagram(7)))
    assert ([flow.dport for flow in found], counted) == ([7], {})
    wire.net.settled()


@pytest.mark.parametrize(
    "tags",
    [Q, AD, Q + Q, AD + Q, Q + AD + Q, Q * 8],
    ids=["802.1Q", "802.1ad", "two", "ad and Q", "three", "eight"],
)
def test_a_priority_tag_hides_nothing(wire: Wire, tags: bytes) -> None:
    mac = wire.ends.mac
    assert sent(wire, frame(wire, mac, SERVER, datagram(9), tags)) == ([], {"filter": 1})
    assert sent(wire, frame(wire, mac, SERVER, datagram(80), tags)) == ([], {})
    found, counted = sent(wire, frame(wire, mac, SERVER, datagram(7), tags))
    assert ([flow.dport for flow in found], counted) == ([7], {})
    in_group = frame(wire, EVERYBODY, SERVER, datagram(9), tags)
    assert sent(wire, in_group) == ([], {"filter": 1})


def test_what_is_behind_too_many_tags_is_dropped_by_name(wire: Wire) -> None:
    deep = frame(wire, wire.ends.mac, SERVER, datagram(7), Q * 10)
    assert sent(wire, deep) == ([], {"deep-tags": 1})


def test_a_filter_holds_for_groups_and_can_name_one(wire: Wire) -> None:
    everybody = sent(wire, frame(wire, EVERYBODY, ALL, datagram(11)))
    assert everybody == ([], {"filter": 1, "mirrored": 1})
    assert sent(wire, frame(wire, MULTICAST, GROUP, datagram(11))) == ([], {"filter": 1})
    sctp = frame(wire, MULTICAST, GROUP, datagram(9), proto=132)
    assert sent(wire, sctp) == ([], {"filter": 1})
    found, counted = sent(wire, frame(wire, MULTICAST, GROUP, datagram(80)))
    assert ([flow.dport for flow in found], counted) == ([80], {})


def test_a_mirror_can_name_a_group(wire: Wire) -> None:
    copy = wire.net.vms["copy"]
    with socket_at(copy.netns_fd, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ear:
        ear.bind(("eth0", 3))
        ear.setblocking(False)
        wanted = frame(wire, EVERYBODY, ALL, datagram(12))
        _, counted = sent(wire, wanted)
        found: list[bytes] = []

        def twice() -> bool:
            """By the mirror, and as everybody."""
            try:
                found.append(ear.recv(2048))
            except BlockingIOError:
                return False
            return found.count(wanted) == 2

        until(twice)
    assert counted == {"mirrored": 1}


def test_frames_to_link_local_groups_go_from_end_to_end(wire: Wire) -> None:
    ends = [0x00, 0x02, 0x03, 0x0D, 0x0E, 0x21]  # STP, LACP, 802.1X, PTP, LLDP, GVRP
    groups = [bytes.fromhex("0180c20000") + bytes([end]) for end in ends]
    server = wire.net.vms["server"]
    with socket_at(server.netns_fd, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ear:
        ear.bind(("eth0", 3))
        sent(wire, *(to + wire.ends.here + b"\x88\xcc" + bytes(46) for to in groups))
        ear.setblocking(False)
        found: set[bytes] = set()
        while groups_left := set(groups) - found:
            try:
                found.add(ear.recv(2048)[:6])
            except BlockingIOError:
                break
    assert not groups_left, groups_left


def fragments(
    wire: Wire, port: int, ident: int, proto: int = UDP, to: bytes | None = None
) -> list[bytes]:
    """A datagram in three. to: the MAC address, if not the server's."""
    whole = datagram(port, 40)
    return [
        frame(
            wire,
            to or wire.ends.mac,
            SERVER,
            whole[at : at + 16],
            proto=proto,
            ident=ident,
            frag=at // 8 | (MF if at < 32 else 0),
        )
        for at in (0, 16, 32)
    ]


def test_fragments_take_the_way_of_their_first(wire: Wire) -> None:
    found, counted = sent(wire, *fragments(wire, 7, 1))
    assert ([flow.dport for flow in found], counted) == ([7], {})
    assert sent(wire, *fragments(wire, 9, 2)) == ([], {"filter": 3})


def test_a_fragment_before_its_first_is_judged_by_its_addresses(wire: Wire) -> None:
    """No match of SCTP at the server has to know ports; UDP has some."""
    found, counted = sent(wire, *fragments(wire, 7, 3, proto=132)[::-1])
    assert ([flow.proto for flow in found], counted) == ([132], {})
    assert sent(wire, *fragments(wire, 7, 5, proto=136)[::-1]) == ([], {})  # into the hole
    came = sent(wire, *fragments(wire, 7, 4)[::-1])[0]
    came += [] if came else until(lambda: sent(wire)[0], 20, "they wait for it")
    assert [flow.dport for flow in came] == [7]
    counters = wire.net.dataplane.report.counters
    before = counters()["orphan-fragment"]
    assert sent(wire, *fragments(wire, 7, 6)[1:])[0] == []
    until(lambda: counters()["orphan-fragment"] == before + 2, 20, "they wait in vain")


@pytest.mark.stock
def test_a_fragment_before_its_first_gets_past_no_route_in_a_frame_to_a_group(wire: Wire) -> None:
    """No flow is charged for those before it."""
    split = fragments(wire, 7, 8, proto=136, to=EVERYBODY)
    assert sent(wire, *split[::-1]) == ([], {"unicast-in-group": 3})
    later = fragments(wire, 7, 9, proto=136, to=EVERYBODY)[1:]
    assert sent(wire, *later, fragments(wire, 7, 9, proto=136)[0]) == ([], {"unicast-in-group": 2})
    found, counted = sent(wire, *fragments(wire, 7, 10, proto=132, to=EVERYBODY)[::-1])
    assert ([flow.proto for flow in found], counted) == ([132], {})


def test_a_second_first_fragment_with_other_ports_is_dropped(wire: Wire) -> None:
    first, *later = fragments(wire, 9, 6)
    forged = fragments(wire, 7, 6)[0]
    assert sent(wire, first, forged, *later) == ([], {"filter": 3, "fragment-conflict": 1})


def test_nothing_is_read_behind_the_end(wire: Wire) -> None:
    """The ports of a datagram that is cut short are padding."""
    short = frame(wire, wire.ends.mac, SERVER, datagram(7), total=20 + 4)
    assert sent(wire, short) == ([], {"malformed": 1})
