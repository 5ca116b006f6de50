# SPDX-License-Identifier: Apache-2.0
"""What the receiver's stack accepts, the policy has judged.

Frames of every kind go from one endpoint to another that listens to everything, past a policy that
drops some packets and sends others through a chain: of a VM that swallows them, of two routers
with a direct link between them, or of two packet functions with a ring. The two of a chain each
take one from the TTL. Each packet that the receiver's kernel hands to a socket must be one that the
policy lets through, by the same functions that `explain` uses, and its TTL must be that of the way
that the policy has for it: whatever its frames looked like. Of a datagram, all fragments that come
to the receiver have come one way.

HOSTSIM_FRAMES: how many packets to send with each policy and path. If it is not given: 5,000 with
each policy to the VM that swallows, and 4,000 with one policy along each of the other paths.
"""

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.switch.records import Lists, Tuple
from help import frames as made_of
from help.chain import Chain, chained, route, vm
from help.frames import ICMP, ICMPV6, IPV6, TPIDS
from help.functions import put
from help.net import ENDS
from help.receiver import FENCE, Ear, Wire, of_listeners, of_neighbours, swallows, told
from hostsim.routing import policy
from hostsim.routing.policy import First

pytestmark = pytest.mark.root

ASKED = os.environ.get("HOSTSIM_FRAMES")
PACKETS, ALONG = int(ASKED or 5000), int(ASKED or 4000)
BATCH = 64
TTL = 64
"""Of what is sent."""
MEMBERS = {
    "hole": ('[[vm]]\nname = "hole"\n', "hole"),
    "veth": ('[[vm]]\nname = "fw"\n[[vm]]\nname = "ids"\n', "fw ids"),
    "ring": (vm("one", "marking:marks") + vm("two", "marking:marks"), "one two"),
}
"""Chains: who is in them, and in which order. The last two are named after their path."""
FENCED = route(f"proto = {FENCE}", "hole")
POLICIES = {
    "ports": """
[[filter]]
match = { proto = "udp", dport = 53 }
[[filter]]
match = { proto = "icmp", dst = "198.18.0.0/24" }
[[filter]]
match = { proto = "icmpv6", dst = "fd00:18::20/128" }
[[filter]]
match = { proto = "udp", dport = 5000, dst = ["224.0.0.0/4", "255.255.255.255/32", "ff00::/8"] }
[[route]]
match = { proto = "udp", dport = 5000 }
through = ["hole"]
[[route]]
match = { proto = "tcp", dport = [80, 53] }
through = ["hole"]
[[route]]
match = { proto = 47 }
through = ["hole"]
""",
    "addresses": """
[[filter]]
match = { proto = 47 }
[[filter]]
match = { proto = "udplite", from = "client" }
[[filter]]
match = { dst = "224.0.0.251/32" }
[[route]]
match = { proto = "udp", dst = ["198.18.0.20/32", "fd00:18::20/128"] }
through = ["hole"]
[[route]]
match = { proto = "sctp", from = "client" }
through = ["hole"]
""",
    "tags": """
[[filter]]
match = { vlan = 7 }
[[filter]]
match = { ethertype = 0x8100 }
[[filter]]
match = { ethertype = 0x88a8, vlan = 7 }
[[filter]]
match = { proto = "udp", dport = [53, 80] }
[[route]]
match = { proto = "tcp" }
through = ["hole"]
[[route]]
match = { vlan = 9 }
through = ["hole"]
""",
}


def judged(lists: Lists, flow: Tuple, flags: int, origin: int) -> tuple[str | None, bool]:
    """Why the policy does not let such a packet through at all, None if it does; and whether it has
    a chain for it, if it came in a frame to one host."""
    first = First(flow, flags, 0, origin)
    found = policy.first_match(lists.filters, first)
    if found is not None:
        return f"filter {lists.filters[found].route}", False
    return None, policy.judge(lists.routes, first).route is not None


def about(flow: Tuple, body: bytes) -> Tuple | None:
    """Of an ICMP error to the sender of what it quotes: the flow that it is about, turned round."""
    kinds = {4: (ICMP, (3, 11, 12)), 6: (ICMPV6, range(128))}[flow.family]
    least = {4: 8 + 28, 6: 8 + 48}[flow.family]
    if flow.proto != kinds[0] or len(body) < least or body[0] not in kinds[1]:
        return None
    inner = body[8:]
    if flow.family == 4:
        header = (inner[0] & 15) * 4
        found, _, _ = told(4, inner[9], inner[12:16], inner[16:20], inner[header:] + bytes(14))
    else:
        found, _, _ = told(6, inner[6], inner[8:24], inner[24:40], inner[40:] + bytes(14))
    return found.reversed() if found.src == flow.dst else None


def honest(frame: bytes) -> bool:
    """Whether the frame's hop limit is the one that is sent: no checksum keeps IPv6's."""
    at = 12
    while frame[at : at + 2] in TPIDS:
        at += 4
    kind = frame[at : at + 2]
    return kind != IPV6.to_bytes(2, "big") or frame[at + 9 : at + 10] in (b"", bytes([TTL]))


class Ground(Wire):
    """A wire under a policy. along: by which chain."""

    def __init__(self, chain: Chain, along: str) -> None:
        net = chain.net
        super().__init__(net)
        numbers = {name: vm.index for name, vm in net.vms.items()}
        spec = net.spec
        self.chain, self.along = chain, along
        self.lists = policy.compile_lists(spec.routes, spec.filters, spec.mirrors, numbers)
        self.client = net.vms["client"].index
        self.accepted: Counter[int] = Counter()
        self.ear = Ear(net, "server")
        self.pieces = 0
        self.known: set[object] = set()  # datagrams, of which fragments were sent

    def close(self) -> None:
        self.ear.close()
        super().close()

    def serve(self) -> None:
        """What the daemon does."""
        self.net.pump()
        self.chain.sync()

    def hold(self, several: list[bytes]) -> None:
        """Send them; everything that is received must be what the policy lets through, the way that
        it has for it."""
        several = [frame for frame in several if len(frame) >= 14 and honest(frame)]
        given = self.send(several, self.serve)
        self.one_way(several)
        for one in given:
            flow = one.flow
            if flow.src not in (self.ends.src4, self.ends.src6):
                continue
            if of_neighbours(one) or of_listeners(one):  # the client's own kernel speaks of those
                continue
            told = [judged(self.lists, flow, one.flags, self.client)]
            other = about(flow, one.body)
            if other is not None:
                told.append(judged(self.lists, other, 16, self.client))
            why = [refused for refused, _ in told if refused is not None]
            ways = {self.hops(chain) for refused, chain in told if refused is None}
            if policy.to_group(flow):
                ways.add(TTL)  # in a frame to a group, which no route is for
            if flow.proto == ICMPV6:  # some had another hop limit (help/frames.py)
                ways = {way + first - TTL for way in ways if way for first in (1, TTL, 255)}
            sent = [frame.hex() for frame in several]
            assert one.hops in ways, (why, ways, flow, one.flags, one.hops, one.body.hex(), sent)
            self.accepted[one.hops] += 1

    def one_way(self, several: list[bytes]) -> None:
        """Of the datagrams that these frames are the first ones of, but for those to groups: all
        fragments that came have come one way. An older one may be forgotten meanwhile."""
        ways: dict[object, set[int]] = defaultdict(set)
        for frame in self.ear.all(tagged=False):
            found = made_of.datagram(frame) if frame[12:14] not in TPIDS else None
            if found is not None and not group(found[0][2]):
                ways[found[0]].add(found[1])
        for key in ways.keys() - self.known:
            sent = [one.hex() for one in several]
            assert len(ways[key]) == 1, (key, ways[key], sent)
            self.pieces += 1
        self.known |= {found[0] for frame in several if (found := made_of.datagram(frame))}

    def hops(self, chain: bool) -> int:
        """The TTL of what has come through the chain, or by the bridge alone; 0: none does."""
        if not chain:
            return TTL
        return 0 if self.along == "hole" else TTL - 2


def group(address: bytes) -> bool:
    return address[0] >= 0xE0 if len(address) == 4 else address[0] == 0xFF


CASES = [(along, name) for along in MEMBERS for name in sorted(POLICIES)]
ALWAYS = {("veth", "ports"), ("ring", "addresses"), *(("hole", name) for name in POLICIES)}


@pytest.fixture(params=CASES if ASKED else [one for one in CASES if one in ALWAYS], ids="-".join)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    along, name = request.param
    members, through = MEMBERS[along]
    text = POLICIES[name] + (FENCED if along != "hole" else "")
    text = text.replace('["hole"]', str(through.split()).replace("'", '"'))
    put("marking", tmp_path)
    with chained(ENDS + members + text, tmp_path) as chain:
        if along == "hole":
            swallows(chain.net, "hole")
        with contextlib.closing(Ground(chain, along)) as made:
            yield made


@pytest.mark.timeout(60 + (PACKETS // 100))
def test_the_receiver_is_given_only_what_the_policy_lets_through(ground: Ground) -> None:
    packets = PACKETS if ground.along == "hole" else ALONG

    @settings(max_examples=max(1, packets // BATCH), deadline=None, database=None)
    @given(st.integers(0, 2**64))
    def run(seed: int) -> None:
        rng = Random(seed)
        several = [made_of.frames(rng, ground.ends) for _ in range(BATCH)]
        ground.hold([frame for packet in several for frame in packet])

    run()
    assert ground.accepted[TTL] > packets // 50
    seldom = packets // 400  # a chain gets some 2 in 100, and a direct link or ring as few
    assert ground.pieces > seldom
    if ground.along != "hole":
        assert ground.accepted[TTL - 2] > seldom
        rows = ground.net.dataplane.report.verify()
        by = {path: sum(row[path] for row in rows) for path in ("switch", "veth", "ring")}
        assert by[ground.along] > seldom, by


def test_an_error_message_that_quotes_another_hosts_packet_is_judged_by_itself(
    tmp_path: Path,
) -> None:
    """The quoted flow goes by the bridge, ICMP through the chain: a quote must not lend its way."""
    routes = route('proto = "icmp"', "hole") + route('proto = "icmpv6"', "hole")
    with chained(ENDS + MEMBERS["hole"][0] + routes, tmp_path) as chain:
        swallows(chain.net, "hole")
        with contextlib.closing(Ground(chain, "hole")) as ground:
            ends = ground.ends
            other4, other6 = bytes((198, 18, 0, 77)), ends.dst6[0][:-1] + b"\x77"
            for src, dst, other in (
                (ends.src4, ends.dst4[0], other4),
                (ends.src6, ends.dst6[0], other6),
            ):
                six = len(src) == 16
                make = made_of.ipv6 if six else made_of.ipv4
                kind, proto = (b"\x86\xdd", ICMPV6) if six else (b"\x08\0", ICMP)
                head = ends.mac + ends.here + kind
                ports, back = bytes((0x9C, 0x40, 0, 7, 0, 8, 0, 0)), bytes((0, 7, 0x9C, 0x40))
                given = []
                for quoted in (other, dst):
                    known = make(src, quoted, 17, made_of.pseudo(src, quoted, 17, ports, 6))
                    about_it = make(quoted, src, 17, back + bytes((0, 8, 0, 0)))
                    error = bytes((1 if six else 3, 0)) + bytes(6) + about_it
                    at = made_of.checksum(error)
                    error = error[:2] + at.to_bytes(2, "big") + error[4:]
                    if six:
                        error = made_of.pseudo(src, dst, proto, error, 2)
                    sent = [head + known, head + make(src, dst, proto, error)]
                    found = ground.send(sent)
                    given.append([one.body for one in found if one.body == sent[1][-len(error) :]])
                assert [len(one) for one in given] == [0, 1]


def test_what_is_no_error_message_goes_with_nobody_elses_flow(tmp_path: Path) -> None:
    """ICMPv6 in IPv4, and ICMP in IPv6, that quote a flow which goes by the bridge."""
    routes = route("dscp = 46", "hole")
    with chained(ENDS + MEMBERS["hole"][0] + routes, tmp_path) as chain:
        swallows(chain.net, "hole")
        with contextlib.closing(Ground(chain, "hole")) as ground:
            ends = ground.ends
            for six, src, dst in ((0, ends.src4, ends.dst4[0]), (1, ends.src6, ends.dst6[0])):
                make = made_of.ipv6 if six else made_of.ipv4
                kind, proto = (b"\x86\xdd", ICMP) if six else (b"\x08\0", ICMPV6)
                head = ends.mac + ends.here + kind
                ports = bytes((0x9C, 0x40, 0, 7, 0, 8, 0, 0))
                datagram = made_of.pseudo(src, dst, 17, ports, 6)
                quoted = make(dst, src, 17, bytes((0, 7, 0x9C, 0x40, 0, 8, 0, 0)))
                error = bytes((3 if six else 1, 0)) + bytes(6) + quoted
                frames = [make(src, dst, 17, datagram), make(src, dst, proto, error, tos=46 << 2)]
                given = ground.send([head + one for one in frames])
                found = [one.flow.proto for one in given if one.flow.proto in (17, proto)]
                assert found == [17]  # and what neighbours ask
