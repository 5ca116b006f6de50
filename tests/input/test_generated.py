# SPDX-License-Identifier: Apache-2.0
"""Devices nobody would think of (help/programs/generated.py), in mirror mode: each is taken whole,
so that the clone in an OS is what the device is, or it is named with the reason.

`--generated N` sets how many, by 25 (default 75; a thousand take minutes), `--generated-from N`
which is the first.
"""

import fcntl
import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from help.cli import ask, host
from help.programs import program
from help.rig import DEADLINE
from help.waiting import becomes, until

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(2400)]

EACH = 25
HOST = """
[host]
name = "generated"
[[vm]]
name = "work"
[vm.os]
[[device]]
match = { phys = "generated/*" }
mode = "mirror"
"""
GET_BITS, GET_PROPERTIES, GET_ID = 0x80604520, 0x80084509, 0x80084502
GET_NAME, GET_PHYS, GET_AXIS = 0x80504506, 0x80504507, 0x80184540
ABS = 3
KINDS = (0, 1, 2, 3, 4, 5, 17, 18, 21)  # of which the kernel tells the codes
NAME_MAX = 79  # uinput's 80 bytes, of which one ends it


def described(node: str) -> dict[str, Any]:
    """All that a device says it is, but for where its axes are."""
    with Path(node).open("rb", buffering=0) as file:
        fd = file.fileno()
        bits = {kind: fcntl.ioctl(fd, GET_BITS + kind, bytes(96)) for kind in KINDS}
        codes = [code for code in range(64) if bits[ABS][code // 8] >> code % 8 & 1]
        axes = {code: fcntl.ioctl(fd, GET_AXIS + code, bytes(24)) for code in codes}
        return {
            "bits": bits,
            "properties": fcntl.ioctl(fd, GET_PROPERTIES, bytes(8)),
            "id": fcntl.ioctl(fd, GET_ID, bytes(8)),
            "name": fcntl.ioctl(fd, GET_NAME, bytes(80)).rstrip(b"\0")[:NAME_MAX],
            "phys": fcntl.ioctl(fd, GET_PHYS, bytes(80)).rstrip(b"\0"),
            "ranges": {code: struct.unpack("6i", axis)[1:] for code, axis in axes.items()},
        }


def unlike(clone: dict[str, Any], device: dict[str, Any]) -> dict[str, Any]:
    """In what the two differ: both, by name; of axes, by code."""
    pairs = {name: (clone[name], value) for name, value in device.items()}
    found: dict[str, Any] = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if "ranges" in found:
        one, other = found["ranges"]
        codes = [code for code in {*one, *other} if one.get(code) != other.get(code)]
        found["ranges"] = {code: (one.get(code), other.get(code)) for code in codes}
    return found


def settled(nodes: list[str]) -> list[dict[str, Any]]:
    """What the host says of these nodes, once it says something of each."""

    def said() -> bool:
        return {one["node"] for one in ask("devices")} >= set(nodes)

    until(said, DEADLINE, "each is taken or named")
    return [one for one in ask("devices") if one["node"] in nodes]


def test_devices_are_taken_whole_or_named(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    count, first = (
        int(pytestconfig.getoption(name)) // EACH for name in ("--generated", "--generated-from")
    )
    taken = named = 0
    with host(HOST, tmp_path):
        root = f"/proc/{next(vm['pid'] for vm in ask('status')['vms'])}/root"
        for batch in range(first, first + count):
            hands = subprocess.Popen(
                program("generated", batch, EACH), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert hands.stdout is not None
            nodes = json.loads(hands.stdout.readline())
            for one in settled(nodes):
                if one.get("why"):
                    named += 1
                    continue
                clone = described(f"{root}{one['states']['work']['node']}")
                device = described(one["node"])
                assert unlike(clone, device) == {}, (batch, one["name"])
                taken += 1
            hands.communicate()
            becomes(lambda: ask("devices"), [], DEADLINE, "they are gone")
    assert taken + named == count * EACH
    print(f"{taken} taken whole, {named} named")
    assert taken > named, "most devices can be cloned"
