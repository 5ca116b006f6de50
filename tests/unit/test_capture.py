# SPDX-License-Identifier: Apache-2.0
"""What a capture writes: blocks that tshark reads, and what they say of a packet."""

import os
import subprocess
from pathlib import Path

import pytest

from cext.sight.records import ARRIVES, LEAVES, LOST, RING, STRAIGHT, UNSENT, UNSENT_REASONS, Sight
from cext.sight.write import packet_id
from cext.switch.records import ACCOUNT_COUNTS, NO_ROUTE
from help import packets
from hostsim.capture import capture, pcapng, source, story, trace
from hostsim.errors import HostsimError
from hostsim.hostfile import matches
from hostsim.keys import parse_key

NAMES = {1: "fw", 2: "ids"}
FLOW = parse_key("udp:198.18.0.10:4000>198.18.0.20:9")
IP = bytes.fromhex("450000200001400040110000c612000ac6120014") + bytes.fromhex(
    "0fa00009000c0000abcd"
)
FRAME = bytes(12) + b"\x08\x00" + IP


def sight(place: int, **more: int) -> Sight:
    values = {"time": 1, "verdict": 7 << 32, "vm": 1, "length": 46, "reason": 0, "to": 0}
    values |= {"route": 0, **more}
    return Sight(flow=FLOW, place=place, reply=False, frame=FRAME, **values)


@pytest.mark.parametrize(
    ("seen", "interface", "text"),
    [
        (sight(LEAVES), "fw eth0", "fw eth0 KEY route 0 epoch 7"),
        (sight(STRAIGHT, to=2), "fw→ids veth", "fw → ids veth KEY route 0 epoch 7"),
        (sight(ARRIVES, route=NO_ROUTE), "switch", "fw switch KEY epoch 7"),
        (sight(RING, to=2), "fw→ids ring", "fw → ids ring KEY route 0 epoch 7"),
        (sight(UNSENT, reason=2, to=2), "drop", "fw drop KEY route 0 epoch 7 dropped: full-ring"),
        (sight(LOST, reason=3), "drop", "fw drop KEY route 0 epoch 7 dropped: NO_SOCKET"),
        (sight(LOST, reason=9), "drop", "fw drop KEY route 0 epoch 7 dropped: reason-0x9"),
    ],
)
def test_the_story_of_a_packet(seen: Sight, interface: str, text: str) -> None:
    told = story.tell(seen, NAMES, {3: "NO_SOCKET"})
    assert told.interface == interface
    assert told.text() == text.replace("KEY", "udp:198.18.0.10:4000>198.18.0.20:9")


def test_a_router_does_not_change_the_packets_id() -> None:
    routed = bytearray(FRAME)
    routed[0] = 2  # to another station
    routed[14 + 8] -= 1  # TTL
    routed[14 + 10] += 1  # the header's sum
    assert packet_id(bytes(routed)) == packet_id(FRAME)
    assert packet_id(FRAME[:-1] + b"x") != packet_id(FRAME)
    assert packet_id(b"") == packet_id(bytes(12))


def file_of(*blocks: bytes) -> bytes:
    return b"".join((pcapng.section("test"), pcapng.interface("fw eth0", "x", 100), *blocks))


def packet(number: int) -> bytes:
    options = (pcapng.comment(f"no {number}"), pcapng.custom("path=veth"))
    return packets.packet(0, 1_700_000_000_000_000_000 + number, FRAME, 60, number, options)


def read(data: bytes, folder: Path, *fields: str) -> "subprocess.CompletedProcess[str]":
    file = folder / "x.pcapng"
    file.write_bytes(data)
    words = [word for field in fields for word in ("-e", field)]
    command = ("tshark", "-r", str(file), "-T", "fields", *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_tshark_reads_it(tmp_path: Path) -> None:
    data = file_of(packet(1), packet(2), pcapng.statistics(0, 1, 9, 7))
    done = read(data, tmp_path, "frame.interface_name", "frame.comment", "udp.dstport", "frame.len")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fw eth0\tno 1\t9\t60\nfw eth0\tno 2\t9\t60\n"


def test_a_full_disk_leaves_whole_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "full.pcapng"
    room = len(file_of(packet(1))) + 20
    really = os.write

    def write(fd: int, data: memoryview) -> int:
        left = room - os.fstat(fd).st_size
        if left <= 0:
            raise OSError(28, "No space left on device")
        return really(fd, data[:left])

    monkeypatch.setattr(os, "write", write)
    with open(file, "wb") as out:
        full = capture.Out(out.fileno(), "full.pcapng")
        full.put(file_of())
        with pytest.raises(HostsimError, match=r"capture -w full.pcapng: No space left on device"):
            full.put(packet(1) + packet(2))
    assert file.read_bytes() == file_of(packet(1))


def test_a_match_is_a_host_files() -> None:
    for text in ('{ proto = "udp", dport = 9 }', 'proto = "udp", dport = 9', None):
        assert source.parse_match(text)(sight(LEAVES)), text
    assert not source.parse_match('{ proto = "tcp" }')(sight(LEAVES))
    assert not source.parse_match('proto = "udp", dport = 10')(sight(LEAVES))


@pytest.mark.parametrize("text", ["", "{", "x", "colour = 1", 'proto = "nope"', "dscp = 1", "\x00"])
def test_a_match_that_is_none(text: str) -> None:
    with pytest.raises(HostsimError) as refused:
        source.parse_match(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", source.NOT_LOOKED_AT)
def test_a_match_of_what_a_capture_does_not_look_at_is_refused(key: str) -> None:
    """It would let nothing by, or too much."""
    assert key in matches.MATCH_KEYS
    with pytest.raises(HostsimError, match=f"capture --match: {key}: not looked at"):
        source.parse_match(f'proto = "tcp", {key} = "x"')


def test_losses_have_the_names_that_verify_has() -> None:
    assert set(UNSENT_REASONS.values()) == set(ACCOUNT_COUNTS[5:])


def seen(time: int, ident: int, **more: int) -> story.Seen:
    told = story.tell(sight(LEAVES, **more), NAMES, {})
    return story.Seen(told, time, ident, FRAME, len(FRAME))


def test_the_first_packet_that_sets_out_is_traced() -> None:
    ways = trace.Ways(since=100)
    ways.add([seen(90, 1), seen(130, 1, vm=2), seen(150, 3)])  # 1 was under way already
    ways.add([seen(140, 2, vm=2), seen(120, 2), seen(200, 2)])  # other CPUs; the same bytes again
    way = ways.first()
    assert [(one.time, one.story.vm) for one in way] == [(120, "fw"), (140, "ids")]
    assert [row["us"] for row in trace.rows(way)] == [0, 0.02]
    assert trace.lines(way)[1].split() == ["0.0", "us", "fw", "eth0", "route", "0", "epoch", "7"]
    assert trace.Ways(since=100).first() == []


@pytest.mark.parametrize(
    ("flow", "fits"),
    [
        ("udp:198.18.0.10:4000>198.18.0.20:9", True),
        ("udp:198.18.0.10:*>198.18.0.20:9", True),
        ("udp:198.18.0.10:4001>198.18.0.20:9", False),
        ("udp:[*", False),
    ],
)
def test_a_trace_is_of_a_flow_or_of_a_pattern(flow: str, fits: bool) -> None:
    assert trace.wanted(flow)(sight(LEAVES)) is fits


def test_a_trace_of_no_flow() -> None:
    with pytest.raises(HostsimError, match="is not a flow"):
        trace.wanted("198.18.0.10")
