# SPDX-License-Identifier: Apache-2.0
"""Every parser of frames finds the same flow: those of the loaded BPF programs, a port's and a
packet function's. The frames are hypothesis's, run through the programs by BPF_PROG_TEST_RUN.
"""

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from cext._native import ffi, lib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cext.bpf import objects as bpf
from cext.switch.maps import pack_u32, unpack_tuple
from cext.switch.records import Tuple
from help.frames import frames

pytestmark = pytest.mark.root

FLOW, PLAIN, MALFORMED, ORPHAN, GROUP, DEEP, CONFLICT = range(7)
WHOLE, FIRST, LATER = range(3)


@pytest.fixture(scope="module")
def kernel() -> Iterator[bpf.Object]:
    loaded = bpf.Object("parsers")
    yield loaded
    loaded.close()


def ask(kernel: bpf.Object, program: str, frame: bytes) -> Any:
    """What one of the kernel's parsers says (struct hs_told); None if it leaves it to the other."""
    size = len(frame)
    left = lib.hs_bpf_run(kernel.program(program), ffi.NULL, 0, frame, size, ffi.NULL, ffi.NULL)
    assert left in (0, 1), left
    found = kernel.map("told").get(pack_u32(0))
    assert found is not None
    return None if left else ffi.from_buffer("struct hs_told *", found)


def least(frame: bytes) -> int:
    """The shortest frame of its kind that the kernel runs a program on by BPF_PROG_TEST_RUN."""
    return {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], 15)


def by_port(frame: bytes) -> Tuple | None:
    found = ffi.new("struct hs_tuple *")
    parsed = lib.hs_flow_parse(ffi.from_buffer("uint8_t *", frame), len(frame), found)
    return unpack_tuple(found) if parsed == 0 else None


def by_function(frame: bytes) -> Any:
    view = ffi.new("struct hs_view *")
    parsed = lib.hs_view_parse(ffi.from_buffer("uint8_t *", frame), len(frame), view)
    return view if parsed == 0 else None


def agree(kernel: bpf.Object, frame: bytes) -> str:
    """Asserts that all of them agree; a word for what the frame is."""
    told, quick = ask(kernel, "parse", frame), ask(kernel, "quick", frame)
    port, view = by_port(frame), by_function(frame)
    if port is not None:
        assert told.kind in (FLOW, PLAIN)
        assert not told.group
    if quick is not None:
        assert (told.kind, told.error, told.fragment, told.unknown) == (FLOW, 0, 0, 0)
        assert port == unpack_tuple(quick.tuple) == unpack_tuple(told.tuple)
        fields = ("l4", "end", "tcp_flags", "dscp", "group")
        assert [getattr(quick, name) for name in fields] == [getattr(told, name) for name in fields]
    if told.kind in (MALFORMED, DEEP):
        assert view is None
        return "malformed" if told.kind == MALFORMED else "deep"
    if view is None:
        assert jumbo(frame, told), told.kind
        return "jumbo"
    if told.kind == PLAIN:  # of IP, what speaks of neighbours; of the rest, ARP
        assert plain(frame, view), (view.tuple.family, view.tuple.sport)
        return "plain"
    function = unpack_tuple(view.tuple)
    if told.error:
        assert unpack_tuple(told.tuple) == unpack_tuple(view.inner).reversed()
        return "error"
    if view.fragment == LATER:
        assert (told.fragment, view.l4, told.l4) == (LATER, 0, 0)
        known = unpack_tuple(told.tuple)  # with what its first fragment told, if it was seen
        function = function._replace(sport=known.sport, dport=known.dport)
        if known.family == 6 and told.kind != ORPHAN:
            function = function._replace(proto=known.proto)
    assert unpack_tuple(told.tuple) == function
    if function.family:
        assert (told.l4, told.end, told.fragment) == (view.l4, view.end, view.fragment)
        assert (told.tcp_flags, told.dscp) == (view.tcp_flags, view.dscp)
    if port is not None:
        assert (told.kind, port) == (FLOW, function)
    return {FLOW: "flow", ORPHAN: "orphan", GROUP: "group", CONFLICT: "conflict"}[told.kind]


def jumbo(frame: bytes, told: Any) -> bool:
    """Whether it is an IPv6 packet whose length is in an option: to the kernel it is as long as its
    frame, and no packet function takes it."""
    return bool(told.tuple.family == 6 and told.end == len(frame))


def plain(frame: bytes, view: Any) -> bool:
    """Whether it is ARP, or ICMPv6 that speaks of neighbours, routers or listeners."""
    if view.tuple.family == 0:
        return unpack_tuple(view.tuple).sport == 0x0806
    if view.tuple.family != 6 or view.tuple.proto != 58:
        return False
    hops, dst = frame[view.l3 + 7], view.tuple.dst
    if view.type in range(133, 138):
        return bool(hops == 255)
    listeners = view.type in (130, 131, 132, 143)
    return bool(listeners and hops == 1 and frame[0] & 1 and dst[0] == 0xFF)


SEEN: Counter[str] = Counter()


@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**64))
def test_every_parser_finds_the_same_flow(kernel: bpf.Object, seed: int) -> None:
    rng = Random(seed)
    for frame in (frame for _ in range(30) for frame in frames(rng)):
        if len(frame) < least(frame):
            continue
        SEEN[agree(kernel, frame)] += 1


def test_frames_of_every_kind_were_among_them() -> None:
    wanted = {"flow", "orphan", "group", "error", "malformed", "plain", "deep"}
    assert wanted <= {kind for kind, count in SEEN.items() if count >= 5}, SEEN
