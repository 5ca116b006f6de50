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
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from help import frames as made_of
from help.chain import chained, route
from help.frames import ICMP, ICMPV6
from help.ground import BATCH, MEMBERS, POLICIES, TTL, Ground, played
from help.net import ENDS
from help.receiver import swallows

pytestmark = pytest.mark.root

ASKED = os.environ.get("HOSTSIM_FRAMES")
PACKETS, ALONG = int(ASKED or 5000), int(ASKED or 4000)
CASES = [(along, name) for along in MEMBERS for name in sorted(POLICIES)]
ALWAYS = {("veth", "ports"), ("ring", "addresses"), *(("hole", name) for name in POLICIES)}


@pytest.fixture(params=CASES if ASKED else [one for one in CASES if one in ALWAYS], ids="-".join)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    along, name = request.param
    with played(along, name, tmp_path) as made:
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
