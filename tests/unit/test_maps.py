# SPDX-License-Identifier: Apache-2.0
"""The data plane's keys, as Python writes them."""

import pytest
from cext._native import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

from cext.switch.maps import pack_conn, pack_tuple, picker
from hostsim import keys


@pytest.mark.parametrize(
    "key",
    [
        "tcp:198.18.0.10:40000>198.18.0.20:80",
        "udp:198.18.0.200:1>198.18.0.3:65535",
        "udp:198.18.0.10:5>198.18.0.10:4",  # only the ports tell the ends apart
        "tcp:[fd00::1]:1>[fd00::2:1]:1",
        "icmp:198.18.0.20>198.18.0.10",
    ],
)
def test_a_connection_has_one_key(key: str) -> None:
    flow = keys.parse_key(key)
    forward, backward = pack_conn(flow), pack_conn(flow.reversed())
    assert forward[0] == backward[0]
    assert forward[1] != backward[1]
    assert forward[0] == pack_tuple(flow.reversed() if forward[1] else flow)


def test_a_flow_to_itself_is_not_turned() -> None:
    flow = keys.parse_key("udp:198.18.0.10:9>198.18.0.10:9")
    assert pack_conn(flow) == pack_conn(flow.reversed()) == (pack_tuple(flow), False)


@given(
    entries=st.lists(
        st.tuples(st.sampled_from((0, 1, 2, 3, lib.HS_VM_MAX, lib.HS_VM_MAX + 1, 1 << 31)),
                  st.integers(0, 2)),
        max_size=40,
    ),
    wanted=st.sets(st.sampled_from((1, 2, lib.HS_VM_MAX))),
)  # fmt: skip
def test_a_page_is_picked_over(entries: list[tuple[int, int]], wanted: set[int]) -> None:
    """What is left is of the VMs that are wanted, in its order, each key with its own value."""
    keys_, values = (ffi.new(f"struct {name}[]", 40) for name in ("hs_key", "hs_flow"))
    for at, (vm, packets) in enumerate(entries):
        keys_[at].vm, values[at].packets, values[at].bytes = vm, packets, at
        keys_[at].tuple.sport = at
    left = picker(wanted)(keys_, values, len(entries))
    found = [(keys_[at].vm, keys_[at].tuple.sport, values[at].bytes) for at in range(left)]
    assert found == [
        (vm, at, at) for at, (vm, packets) in enumerate(entries) if vm in wanted and packets
    ]
