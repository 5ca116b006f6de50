# SPDX-License-Identifier: Apache-2.0
"""What the receiver's stack accepts, the policy has judged.

Frames of every kind go from one endpoint to another that listens to everything, past a policy that
drops some packets and sends others to a VM that swallows them. Each packet that the receiver's
kernel hands to a socket must be one that the policy lets through by the bridge, by the same
functions that `explain` uses: whatever its frames looked like.

HOSTSIM_FRAMES: how many packets to send with each policy; 5,000 if it is not given.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.switch.records import Lists, Tuple
from help import frames as made_of
from help.frames import ICMP, ICMPV6
from help.net import ENDS, Net, made
from help.receiver import Wire, swallows, told
from hostsim.routing import policy
from hostsim.routing.policy import First

pytestmark = pytest.mark.root

PACKETS = int(os.environ.get("HOSTSIM_FRAMES", "5000"))
BATCH = 64
NEIGHBOURS = {*range(130, 138), 143}
"""The types of ICMPv6 that are bridged plainly, always: of neighbours, routers and listeners."""
HOLE = """
[[vm]]
name = "hole"
"""
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


def refused(lists: Lists, flow: Tuple, flags: int, origin: int) -> str | None:
    """Why the policy does not let such a packet through by the bridge; None if it does."""
    first = First(flow, flags, 0, origin)
    found = policy.first_match(lists.filters, first)
    if found is not None:
        return f"filter {lists.filters[found].route}"
    route = None if policy.to_group(flow) else policy.judge(lists.routes, first).route
    return None if route is None else f"route {route}"


def about(flow: Tuple, body: bytes) -> Tuple | None:
    """Of an ICMP error: the flow that it is about, turned round."""
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
    return found.reversed()


class Ground(Wire):
    """A wire under a policy."""

    def __init__(self, net: Net) -> None:
        super().__init__(net)
        numbers = {name: vm.index for name, vm in net.vms.items()}
        spec = net.spec
        self.lists = policy.compile_lists(spec.routes, spec.filters, spec.mirrors, numbers)
        self.client = net.vms["client"].index
        self.accepted = 0

    def hold(self, several: list[bytes]) -> None:
        """Send them; everything that is received must be what the policy lets through."""
        for flow, flags, body in self.send(several):
            if flow.src not in (self.ends.src4, self.ends.src6):
                continue
            if flow.family == 6 and flow.proto == ICMPV6 and body[0] in NEIGHBOURS:
                continue
            why = refused(self.lists, flow, flags, self.client)
            other = about(flow, body)
            if why and other is not None:
                why = refused(self.lists, other, 16, self.client)
            assert why is None, (why, flow, flags, body[:40].hex(), [f.hex() for f in several])
            self.accepted += 1


@pytest.fixture(params=sorted(POLICIES))
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    with made("recv", ENDS + HOLE + POLICIES[request.param], tmp_path) as net:
        swallows(net, "hole")
        ground = Ground(net)
        yield ground
        ground.close()


def test_the_receiver_is_given_only_what_the_policy_lets_through(ground: Ground) -> None:
    @settings(max_examples=max(1, PACKETS // BATCH), deadline=None, database=None)
    @given(st.integers(0, 2**64))
    def run(seed: int) -> None:
        rng = Random(seed)
        several = [made_of.frames(rng, ground.ends) for _ in range(BATCH)]
        ground.hold([frame for packet in several for frame in packet if len(frame) >= 14])
        ground.net.pump()

    run()
    assert ground.accepted > PACKETS // 50
