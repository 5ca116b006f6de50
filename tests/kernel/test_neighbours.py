# SPDX-License-Identifier: Apache-2.0
"""A host of many that all talk has room in the kernel's table of neighbours, whatever its limit."""

import json
from pathlib import Path

import pytest

from help.net import endpoint, made
from help.waiting import until
from netns import neighbours

pytestmark = pytest.mark.root

THREE = "".join(
    endpoint(name, f"198.18.0.{nth}/24", f"fd00:18::{nth}/64")
    for nth, name in enumerate(("one", "two", "three"), start=1)
)


def known(net: object, vm: str) -> dict[str, dict[str, object]]:
    rows = json.loads(net.ip(vm, "-j", "neigh", "show"))  # type: ignore[attr-defined]
    return {row["dst"]: row for row in rows if not row["dst"].startswith("fe80")}


@pytest.mark.parametrize("room", [0, 1000], ids=["no-room", "room"])
def test_they_are_told_if_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(neighbours, "room", lambda: room)
    with made("hsneigh", THREE, tmp_path) as net:
        for vm in net.vms:
            others = {
                str(a.ip): one.mac
                for name, one in net.vms.items()
                if name != vm
                for a in one.spec.addresses
            }
            rows = known(net, vm)
            if room:
                assert not any("extern_learn" in row for row in rows.values())
            else:
                told = {key: row["lladdr"] for key, row in rows.items() if "extern_learn" in row}
                assert told == others
                for ip in ("ipv4", "ipv6"):
                    file = f"/proc/sys/net/{ip}/neigh/eth0/base_reachable_time_ms"
                    assert net.run(vm, "cat", file).split() == [str(neighbours.REACHABLE)]
        for target in ("198.18.0.2", "fd00:18::2", "198.18.0.3", "fd00:18::3"):
            net.ping(3, target, "one")


def test_what_is_told_is_no_more_than_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes another MAC address, and says so, is heard."""
    monkeypatch.setattr(neighbours, "room", lambda: 0)
    with made("hsneigh", THREE, tmp_path) as net:
        net.ping(1, "198.18.0.2", "one")
        net.ip("two", "link", "set", "eth0", "address", "02:00:00:00:00:99")
        net.run("two", "ping", "-c1", "-W5", "198.18.0.1", check=False)
        until(lambda: known(net, "one")["198.18.0.2"]["lladdr"] == "02:00:00:00:00:99", 20)


def test_the_limit_is_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert neighbours.room() == int(neighbours.LIMIT.read_text())
    monkeypatch.setattr(neighbours, "LIMIT", tmp_path / "none")  # in another namespace
    assert neighbours.room() == neighbours.STOCK
