# SPDX-License-Identifier: Apache-2.0
"""MAC addresses: the same at every start, others on another machine, another host, another VM."""

from pathlib import Path

import pytest

from hostsim import switch
from hostsim.switch import Mac, mac, machine_id


def test_it_is_the_same_again_and_not_that_of_another() -> None:
    ways = [
        ("edge", Mac.ETH0, 1, b"one"),
        ("edge", Mac.ETH0, 1, b"two"),
        ("lab", Mac.ETH0, 1, b"one"),
        ("edge", Mac.PORT, 1, b"one"),
        ("edge", Mac.ETH0, 258, b"one"),
    ]
    made = [mac(*way) for way in ways]
    assert made == [mac(*way) for way in ways]
    assert len(set(made)) == len(ways)
    assert made[4].endswith(":01:02")


def test_it_is_a_local_unicast_address_that_tells_no_machine_id() -> None:
    for kind in Mac:
        first = int(mac("edge", kind, 1, b"0123456789abcdef")[:2], 16)
        assert (first & 1, first & 2) == (0, 2)
    assert b"0123456789abcdef".hex()[:6] not in mac("edge", Mac.ETH0, 1, b"0123456789abcdef")


def test_a_machine_without_a_machine_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(switch, "MACHINE_ID", tmp_path / "machine-id")
    assert machine_id() == b""
    (tmp_path / "machine-id").write_text("0123\n")
    assert machine_id() == b"0123"
