# SPDX-License-Identifier: Apache-2.0
"""Flows that are asked for in part."""

import pytest

from hostsim.keys import parse_key
from hostsim.routing.only import Only

KEYS = [
    "tcp:198.18.0.10:40000>198.18.0.20:80",
    "tcp:198.18.0.10:40001>198.18.0.20:443",
    "udp:[fd00::1]:5>[fd00::2]:53",
]


@pytest.mark.parametrize(
    ("match", "found"),
    [
        ("", KEYS),
        ("198.18.0.20:80", KEYS[:1]),
        ("[fd00::2]", KEYS[2:]),
        ("tcp:*", KEYS[:2]),
        ("*:4000?>*", KEYS[:2]),
        ("tcp:*:53", []),
    ],
)
def test_match(match: str, found: list[str]) -> None:
    only = Only(match)
    assert only.rows({"key": key} for key in KEYS) == [{"key": key} for key in found]
    keys = only.of(map(parse_key, KEYS))
    assert keys == ({parse_key(key) for key in found} if match else None)


def test_limit() -> None:
    assert Only(limit=2).rows({"key": key} for key in KEYS) == [{"key": key} for key in KEYS[:2]]
    assert Only(limit=0).of(map(parse_key, KEYS)) == set()
    twice = [parse_key(key) for key in KEYS for _ in range(2)]
    assert Only(limit=2).of(twice) == {parse_key(key) for key in KEYS[:2]}
    assert Only("udp", 5).of(twice) == {parse_key(KEYS[2])}
