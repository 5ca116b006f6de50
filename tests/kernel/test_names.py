# SPDX-License-Identifier: Apache-2.0
"""A packet that the switch loses has one name: what `status` counts, what `verify` says of its
flow, and what a capture says of the packet.
"""

import contextlib
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest
from cext._native import ffi

from cext.ns.netns import socket_at
from cext.sight.records import LOST, Sight
from cext.sight.sight import Sights
from cext.switch import maps, records
from cext.switch.drops import reasons
from help.frames import MF, UDP, ipv4
from help.net import ENDS, Net, made
from help.receiver import Wire
from help.waiting import until
from hostsim.capture.story import tell

pytestmark = [pytest.mark.root, pytest.mark.stock]

HOST = (
    ENDS
    + """
[[endpoint]]
name = "far"
address = "198.18.0.30/24"
[[vm]]
name = "fw"
[[vm]]
name = "dead"
[[link]]
of = "far"
direction = "in"
loss = 1
[[filter]]
match = { proto = "udp", dport = 9 }
[[route]]
match = { proto = "udp", dport = 80 }
through = ["fw"]
[[route]]
match = { proto = "udp", dport = 81 }
through = ["dead"]
[[route]]
match = { proto = "udp", dport = 82, vlan = 7 }
through = ["fw"]
"""
)
EVERYBODY = b"\xff" * 6
SERVER, FAR = bytes([198, 18, 0, 20]), bytes([198, 18, 0, 30])
IN_VLAN = b"\x81\0\0\x07"
OF_A_FLOW = ("filter", "unicast-in-group", "vm-gone", "malformed", "link-loss")
OF_NONE = ("orphan-fragment", "fragment-conflict", "deep-tags", "spoofed")
"""Here: of no flow that the program at the kernel's drops can tell at a look."""
TIMES = 3


def datagram(port: int, sport: int = 4000) -> bytes:
    return struct.pack("!HHHH", sport, port, 16, 0) + bytes(8)


def frames(net: Net, wire: Wire, behind: bytes = b"") -> dict[str, list[bytes]]:
    """By the name that it should get, what is lost for one reason: of each the last frame. behind:
    these tags."""
    ends, mac = wire.ends, wire.ends.mac

    def frame(
        to: bytes, payload: bytes, dst: bytes = SERVER, tags: bytes = behind, **lies: int
    ) -> bytes:
        return to + ends.here + tags + b"\x08\0" + ipv4(ends.src4, dst, UDP, payload, **lies)

    claim = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + ends.here + SERVER + mac + ends.src4
    far = bytes.fromhex(net.vms["far"].mac.replace(":", ""))
    first = frame(mac, datagram(7), frag=MF, ident=7)
    return {
        "filter": [frame(mac, datagram(9))],
        "unicast-in-group": [frame(EVERYBODY, datagram(80))],
        "vm-gone": [frame(mac, datagram(81))],
        "malformed": [frame(mac, datagram(7), total=1400)],
        "orphan-fragment": [frame(mac, bytes(16), frag=8, ident=99)],
        "fragment-conflict": [first, frame(mac, datagram(70), frag=MF, ident=7)],
        "deep-tags": [frame(mac, datagram(7), tags=b"\x81\0\0\0" * 12)],
        "spoofed": [EVERYBODY + ends.here + b"\x08\x06" + claim],
        "link-loss": [frame(far, datagram(7), dst=FAR)],
        "no-share": [frame(mac, datagram(82))],
    }


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with made("names", HOST, tmp_path_factory.mktemp("names")) as net:
        net.dataplane.vm_gone("dead")
        yield net


@pytest.fixture(scope="module")
def wire(net: Net) -> Iterator[Wire]:
    wire = Wire(net)
    yield wire
    wire.close()


def counted(net: Net) -> Counter[str]:
    """Of the switch's losses, how many by name, as `status` has them."""
    found = Counter(net.dataplane.report.counters())
    found.update((net.dataplane.report.kernel_drops() or {})[""])
    return found


def in_books(net: Net, proto: str = "udp") -> Counter[str]:
    """The same of what the client sends here, as `verify` has it."""
    found: Counter[str] = Counter()
    for row in net.settled():
        if row["vm"] == "client" and row["key"].startswith(f"{proto}:198.18.0.10:4000>"):
            found.update(row["drops"])
    return found


@contextlib.contextmanager
def captured(net: Net) -> Iterator[list[Sight]]:
    """What is lost of what the client sends meanwhile; whole once the block has ended."""
    around = net.dataplane.sight()
    found: list[Sight] = []
    sights = Sights(
        around["flows"], around["homes"], [net.vms[vm].index for vm in ("client", "far")]
    )
    with contextlib.closing(sights):
        yield found
        found += (one for one in sights.take(0) if one.place == LOST)


@pytest.mark.parametrize("name", [*OF_A_FLOW, *OF_NONE])
def test_a_loss_has_one_name(net: Net, wire: Wire, name: str) -> None:
    *before, last = frames(net, wire)[name]
    if before:
        wire.send(before)
    status, books = counted(net), in_books(net)
    with captured(net) as lost:
        wire.send([last] * TIMES)
        until(lambda: counted(net)[name] >= status[name] + TIMES, 20, name)
        if name in OF_A_FLOW:
            until(lambda: (in_books(net) - books)[name] == TIMES, 20, f"{name} in verify")
    assert in_books(net) - books == ({name: TIMES} if name in OF_A_FLOW else {})
    own = [one for one in lost if name in OF_NONE or (one.flow and one.flow.src == wire.ends.src4)]
    told = [tell(one, {}, reasons()).drop for one in own]
    assert [drop for drop in told if drop == name] == [name] * TIMES, told


@pytest.fixture
def no_room(net: Net) -> Iterator[None]:
    """The client has as many connections as it may have."""
    shares = net.dataplane.report._map("shares")
    keys = [maps.pack_u32(number) for number in (0, net.vms["client"].index)]
    before = [shares.get(key) for key in keys]
    full = ffi.new("struct hs_entries *", (0, records.CONNS_MAX))
    for key in keys:
        shares.set(key, bytes(ffi.buffer(full)))
    yield
    for key, value in zip(keys, before, strict=True):
        shares.set(key, value or bytes(ffi.sizeof(full[0])))


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("name", ["malformed", "link-loss", "no-share"])
def test_a_loss_in_a_vlan_is_not_the_untagged_flows(net: Net, wire: Wire, name: str) -> None:
    (frame,) = frames(net, wire, IN_VLAN)[name]
    status, books, beside = counted(net), in_books(net, "udp@7"), in_books(net)
    with captured(net) as lost:
        for _ in range(TIMES):
            wire.sender.send(frame)
        until(lambda: counted(net)[name] >= status[name] + TIMES, 20, name)
        until(lambda: (in_books(net, "udp@7") - books)[name] == TIMES, 20, f"{name} in verify")
    assert in_books(net) == beside
    keys = [one.flow.vlan for one in lost if one.flow and one.flow.src == wire.ends.src4]
    assert keys == [7] * TIMES


def test_what_is_of_no_flow_stands_for_nothing_that_is_missing(net: Net, wire: Wire) -> None:
    """A VM of a chain sends what the switch refuses, and nobody counts; then packets of its flow
    vanish, as the classifier is not there. Last in this module: it stays away."""
    before, mac = counted(net)["spoofed"], bytes.fromhex(net.vms["fw"].mac.replace(":", ""))
    claim = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + mac + SERVER + wire.ends.mac + SERVER
    with socket_at(net.vms["fw"].netns_fd, socket.AF_PACKET, socket.SOCK_RAW) as own:
        own.bind(("eth0", 0))
        for _ in range(9):
            own.send(EVERYBODY + mac + b"\x08\x06" + claim)
    until(lambda: counted(net)["spoofed"] == before + 9)
    net.unguarded("fw")
    taken = ("tc", "-n", net.switch.netns, "filter", "del", "dev", "fw", "ingress")
    subprocess.run(taken, check=True)
    packet = ipv4(wire.ends.src4, SERVER, UDP, datagram(80))
    wire.send([wire.ends.mac + wire.ends.here + b"\x08\0" + packet] * TIMES)

    def missing() -> list[int]:
        rows = net.dataplane.report.verify()
        return [row["missing"] for row in rows if (row["vm"], row["key"][-3:]) == ("fw", ":80")]

    until(lambda: missing() == [TIMES])
