# SPDX-License-Identifier: Apache-2.0
"""A policy, a wire under it, and what the receiver at its end may be given.

Each packet that the receiver's kernel hands to a socket must be one that the policy lets through,
by the same functions that `explain` uses, and its TTL must be that of the way that the policy has
for it: the two VMs of a chain each take one. Of a datagram, all fragments that come to the receiver
have come one way.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from cext.switch.records import Lists, Tuple
from help import frames as made_of
from help.chain import Chain, chained, route, vm
from help.frames import ICMP, ICMPV6, IPV6, TCP, TPIDS
from help.functions import put
from help.net import ENDS
from help.receiver import FENCE, Ear, Wire, of_listeners, of_neighbours, swallows, told
from hostsim.routing import policy
from hostsim.routing.policy import First

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
        ways: dict[tuple[int, bytes, bytes, int], set[int]] = defaultdict(set)
        for frame in self.ear.all(tagged=False):
            found = made_of.datagram(frame) if frame[12:14] not in TPIDS else None
            if found is not None and not group(found[0][2]):
                ways[found[0]].add(found[1])
        for key in ways.keys() - self.known:
            sent = [one.hex() for one in several]
            assert len(ways[key]) == 1, (key, ways[key], sent)
            self.pieces += 1
            whole = {frame for frame in several if made_of.datagram(frame)}
            assert ways[key] <= self.ways_of(key, whole), (key, ways[key], sent)
        self.known |= {found[0] for frame in several if (found := made_of.datagram(frame))}

    def ways_of(self, key: tuple[int, bytes, bytes, int], several: Collection[bytes]) -> set[int]:
        """The TTLs that a datagram's fragments may come with, by its first fragments."""
        ways, found = set(), False
        for frame in several:
            told_of, begun = made_of.datagram(frame), made_of.first(frame)
            if told_of is None or told_of[0] != key or begun is None:
                continue
            proto, body = begun
            if len(body) < {TCP: 20}.get(proto, 8):
                return {0, TTL, TTL - 2}  # it is dropped, and the others are without a first
            found = True
            flow, flags, _ = told(len(key[1]) // 12 * 2 + 4, proto, key[1], key[2], body)
            refused, chain = judged(self.lists, flow, flags, self.client)
            if refused is None:
                ways.add(self.hops(chain))
        return ways if found else {0, TTL, TTL - 2}

    def hops(self, chain: bool) -> int:
        """The TTL of what has come through the chain, or by the bridge alone; 0: none does."""
        if not chain:
            return TTL
        return 0 if self.along == "hole" else TTL - 2


def group(address: bytes) -> bool:
    return address[0] >= 0xE0 if len(address) == 4 else address[0] == 0xFF


@contextlib.contextmanager
def played(along: str, name: str, folder: Path) -> Iterator[Ground]:
    """A wire under a policy of POLICIES, along one of MEMBERS."""
    members, through = MEMBERS[along]
    text = POLICIES[name] + (FENCED if along != "hole" else "")
    text = text.replace('["hole"]', str(through.split()).replace("'", '"'))
    put("marking", folder)
    with chained(ENDS + members + text, folder) as chain:
        if along == "hole":
            swallows(chain.net, "hole")
        with contextlib.closing(Ground(chain, along)) as made:
            yield made
