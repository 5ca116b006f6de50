# SPDX-License-Identifier: Apache-2.0
"""Rings between packet functions: every packet is accounted for, in both memory modes; what a full
ring does; rules that age; functions that take packets and lie."""

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cext.ns.netns import socket_at
from help.chain import SIZE, Chain, chained, route, vm
from help.functions import put
from help.net import ENDS
from help.programs import program
from help.waiting import until
from hostsim.bench.chain import counts_of
from hostsim.nf import frames, functions
from hostsim.nf.runner import RING
from hostsim.routing import dataplane, verify

pytestmark = pytest.mark.root

FLOW = "udp:198.18.0.10:4000>198.18.0.20:7"
MODES = pytest.mark.parametrize("mode", ["isolated", "shared"])


def host(folder: Path, mode: str = "isolated", last: str = "forward", more: str = "") -> str:
    put("odd", folder)
    chain = route('proto = "udp"', "one two three", f'ring = "{mode}"\n{more}')
    tcp = route('proto = "tcp"', "one two three", f'ring = "{mode}"\n{more}')
    return ENDS + vm("one") + vm("two") + vm("three", last) + chain + tcp


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Chain]:
    """By the keyword arguments of `host`."""
    arguments: dict[str, Any] = getattr(request, "param", {})
    with chained(host(tmp_path, **arguments), tmp_path) as chain:
        yield chain


def at_rest(chain: Chain, sent: int) -> dict[str, Any]:
    """The row of `two` once all that was sent is where it goes to, or has the name of its loss;
    empty before."""
    drops = chain.net.dataplane.report.kernel_drops()
    assert drops is not None
    names = ("function-full", "CPU_BACKLOG")
    lost = sum(found.get(name, 0) for found in drops.values() for name in names)
    one, two = chain.row("one"), chain.row("two")
    return two if one["sent"] == sent - lost and one["missing"] == two["missing"] == 0 else {}


def by_ring(chain: Chain, port: int = 7) -> None:
    """Let a flow have its rules: five packets by the switch, and five by ring."""

    def ready() -> bool:
        chain.sync()
        hops = chain.net.flow(f"udp:198.18.0.10:4000>198.18.0.20:{port}")["hops"]
        return all(hop["path"] == "ring" for hop in hops[:-1])

    chain.send(port, 5)
    until(ready)
    chain.send(port, 5)
    chain.sync()


@pytest.mark.parametrize("made", [{"mode": "isolated"}, {"mode": "shared"}], indirect=True)
def test_every_packet_by_ring_is_shown_and_accounted_for(made: Chain) -> None:
    by_ring(made)
    before = made.net.flow(FLOW)["hops"]
    made.send(7, 700)  # which may still be on their way
    until(lambda: made.net.flow(FLOW)["hops"][-1]["packets"] >= 710, 20, "the last one is there")
    hops = made.net.flow(FLOW)["hops"]
    assert [hop["path"] for hop in hops] == ["ring", "ring", "switch"]
    for old, new in zip(before[:2], hops[:2], strict=True):
        assert new["paths"]["ring"]["packets"] - old["paths"]["ring"]["packets"] == 700
        assert new["paths"]["ring"]["bytes"] - old["paths"]["ring"]["bytes"] == 700 * SIZE
        assert new["packets"] == 710
    rows = made.net.settled()
    assert all(row["ring"] >= 700 for row in rows if row["vm"] in ("one", "two"))
    assert (made.row("three")["switch"], made.row("three")["ring"]) == (710, 0)
    rules = [rule for rule in made.net.dataplane.report.rules() if rule["key"] == FLOW]
    assert {(rule["vm"], rule["to"], rule["path"]) for rule in rules} == {
        ("one", "two", "ring"),
        ("two", "three", "ring"),
    }
    for rule in rules:
        assert rule["packets"] >= 700
        assert 0 <= rule["idle_s"] < 5
        assert rule["epoch"] == made.net.dataplane.epoch


@pytest.mark.parametrize(
    "made",
    [{"mode": mode, "last": "odd:thief"} for mode in ("isolated", "shared")],
    indirect=True,
)
def test_packets_that_vanish_in_a_function_are_missing(made: Chain) -> None:
    by_ring(made)
    made.send(7, 100)
    until(lambda: sum(made.row("two")[part] for part in ("ring", "missing")) == 105)  # 5: by_ring
    row = made.row("two")
    assert row["missing"] > 0
    assert row["ring"] == counts_of(made.functions)["three"]["ring_in"]
    assert made.row("one")["missing"] == 0


@pytest.mark.parametrize(
    "made", [{"last": "odd:asleep", "more": 'on_full = "drop"'}], indirect=True
)
def test_a_full_ring_drops_what_it_has_no_room_for(made: Chain) -> None:
    by_ring(made)
    for _ in range(3):  # as many at once as fit the sockets' rings
        made.send(7, 500)
    room = frames.RING
    sent = until(lambda: (row := made.row("two"))["sent"] == 1510 and row)
    assert sent["drops"] == {"full-ring": 1505 - room}
    assert sent["missing"] == room  # they wait in the ring, and nobody has taken them


@pytest.mark.parametrize(
    ("made", "drops"),
    [
        ({"mode": mode, "last": "odd:slow", "more": f'on_full = "{full}"'}, full == "drop")
        for mode in ("isolated", "shared")
        for full in ("drop", "wait")
    ],
    indirect=["made"],
)
def test_a_route_says_whether_a_full_ring_is_waited_for(made: Chain, drops: bool) -> None:
    by_ring(made)
    before = counts_of(made.functions)["three"]["ring_in"]
    lost = 0
    for turn in range(1, 6):  # a busy machine's sockets lose some, and the ring is not full
        made.send(7, 1800)
        row = until(partial(at_rest, made, 10 + turn * 1800))
        lost = row["drops"].get("full-ring", 0)
        if lost or (not drops and row["sent"] - 10 > frames.RING):
            break
    counted = counts_of(made.functions)
    assert counted["two"]["full_ring"] == lost
    assert counted["three"]["ring_in"] - before == row["sent"] - 10 - lost
    assert row["sent"] - 10 > frames.RING
    assert (lost > 0) is drops


def test_what_a_function_is_too_slow_to_take_has_a_name(tmp_path: Path) -> None:
    put("odd", tmp_path)
    text = ENDS + vm("one", "odd:asleep") + route('proto = "udp"', "one")
    with chained(text, tmp_path) as made:
        for _ in range(4):
            made.send(7, 1000)
        report = made.net.dataplane.report
        (row,) = until(lambda: [row for row in report.verify() if row["key"] == verify.UNREAD])
        drops = report.kernel_drops()
        assert drops is not None
        lost = drops["one"]["function-full"]
        assert 4000 - 2 * RING < lost < 4000
        assert (row["vm"], row["drops"], row["missing"]) == ("one", {"function-full": lost}, 0)
        made.net.settled()


PROTOCOL = 253
"""For experiments (RFC 3692); it has no ports."""


def test_a_protocol_without_ports_gets_its_ring(tmp_path: Path) -> None:
    text = ENDS + vm("one") + vm("two") + route(f"proto = {PROTOCOL}", "one two")
    with chained(text, tmp_path) as made:
        client, key = made.net.vms["client"], f"{PROTOCOL}:198.18.0.10>198.18.0.20"
        with socket_at(client.netns_fd, socket.AF_INET, socket.SOCK_RAW, PROTOCOL) as sock:

            def send(count: int) -> None:
                for _ in range(count):
                    sock.sendto(b"what", ("198.18.0.20", 0))

            def has_ring() -> bool:
                send(5)
                made.sync()
                return any(rule["key"] == key for rule in made.net.dataplane.report.rules())

            until(has_ring, 30)
            send(50)
        until(
            lambda: any(
                row["vm"] == "one" and row["key"] == key and row["ring"] >= 50
                for row in made.net.dataplane.report.verify()
            ),
            30,
        )
        made.net.settled()


def test_rules_and_counts_of_idle_flows_go(made: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataplane, "FLOW_IDLE", 0.3)
    monkeypatch.setattr(functions, "AGING", 0.05)
    by_ring(made)
    made.send(7, 50)
    assert len(made.net.dataplane.report.rules()) >= 2

    def aged() -> bool:
        made.sync()
        return not made.net.dataplane.report.rules()

    until(aged)
    for name in ("one", "two"):  # 10: by_ring; and errors that came back
        (row,) = [row for row in made.net.dataplane.report.verify() if row["vm"] == name]
        assert row["sent"] >= 60
        assert (row["key"], row["missing"]) == ("ended flows", 0)
    made.send(7, 5)
    assert made.row("one") | {"key": ""} == {
        "vm": "one", "key": "", "sent": 5, "switch": 5, "veth": 0, "ring": 0, "drops": {},
        "beside": 0, "missing": 0,
    }  # fmt: skip
    made.sync()
    made.send(7, 20)
    made.net.settled()
    assert made.row("one")["ring"] == 20


def test_a_flow_that_goes_by_ring_only_is_not_idle(
    made: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "AGING", 0.05)
    by_ring(made)
    monkeypatch.setattr(dataplane, "FLOW_IDLE", 2.0)
    started = made.net.flow(FLOW)["hops"][0]["paths"]["switch"]["packets"]
    for _ in range(12):  # each takes a python3's start: longer than FLOW_IDLE in all
        made.send(7, 5)
        made.sync()
        made.net.dataplane.tick()
    hops = made.net.flow(FLOW)["hops"]
    assert hops[0]["path"] == "ring"
    assert hops[0]["paths"]["switch"]["packets"] == started
    assert hops[0]["paths"]["ring"]["packets"] == 65


def test_fragments_are_accounted_for(made: Chain) -> None:
    made.net.run("client", "ping", "-q", "-c", "1", "-W", "2", "198.18.0.20")
    by_ring(made)
    made.net.run("client", *program("udp", "send", "198.18.0.20", 7, 10, 4000, 4000))
    made.net.settled()
    assert made.row("one")["switch"] >= 30


def test_a_kernel_stack_neighbour_cannot_get_past_a_function(tmp_path: Path) -> None:
    """A direct link would hand its packets to the kernel of the function's VM."""
    mixed = route('proto = "udp"', "plain one", 'bypass = "auto"')
    with chained(ENDS + '[[vm]]\nname = "plain"\n' + vm("one") + mixed, tmp_path) as chain:
        for _ in range(3):
            chain.send(7, 10)
            chain.net.pump()
            chain.sync()
        (hop, _) = chain.net.flow(FLOW)["hops"]
        assert (hop["path"], hop["packets"]) == ("switch", 30)
        assert "one is a packet function" in hop["reason"]
        assert counts_of(chain.functions)["one"]["eth0_in"] >= 30
        chain.net.settled()


def runs(chain: Chain) -> bool:
    """Whether `one` does, after another look."""
    chain.sync()
    return chain.functions.process("one") is not None


def test_a_function_that_cannot_be_loaded_any_more_runs_until_it_ends(tmp_path: Path) -> None:
    """The processes that wait for its end do not stay; they are not tried without end either."""
    broken = tmp_path / "broken"
    put("fragile", tmp_path)
    share = f'share = ["{tmp_path}:ro"]\n'  # so that the VM sees at once what changes there
    text = ENDS + vm("one", "fragile:fragile") + share + route('proto = "udp"', "one")
    with chained(text, tmp_path) as chain:
        first = chain.functions.process("one")
        assert first is not None

        def waits() -> bool:
            chain.sync()
            return (tmp_path / "one.log").read_text().count("loaded") == 2

        until(waits)
        broken.touch()
        first.kill()
        until(lambda: first.poll() is not None)
        until(partial(runs, chain))  # the one that waited had loaded it
        second = chain.functions.process("one")
        assert second is not first
        for _ in range(10):
            chain.send(7, 3)
            chain.sync()
        assert chain.functions.process("one") is second
        log = (tmp_path / "one.log").read_text()
        assert 1 <= log.count("AssertionError") <= 2
        assert second is not None
        second.kill()
        until(lambda: second.poll() is not None)
        chain.sync()
        assert chain.functions.process("one") is None
        broken.unlink()
        until(partial(runs, chain))
        chain.send(7, 10)
        assert chain.row("one")["missing"] == 0
