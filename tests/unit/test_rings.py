# SPDX-License-Identifier: Apache-2.0
"""Who has rings and who shares memory; what ports counted, held against each other."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cext.port.port import Port
from cext.port.rules import Rules, flow_of
from cext.port.tally import Tally
from cext.switch.records import STEER, Account, Flow, Verdict
from hostsim.bench.chain import packet
from hostsim.hostfile.file import parse
from hostsim.keys import parse_key
from hostsim.model import RouteSpec
from hostsim.nf import rings
from hostsim.routing import flows, verify
from hostsim.routing.accounts import Books, Snapshot

HEAD = '[host]\nname = "r"\n' + "".join(f'[[vm]]\nname = "{one}"\nnf = "count"\n' for one in "abcd")
NUMBERS = {"a": 1, "b": 2, "c": 3}  # d has none
KEY = parse_key("udp:198.18.0.10:4000>198.18.0.20:7")


def routes(*tables: str) -> tuple[RouteSpec, ...]:
    text = "".join(f'[[route]]\nmatch = {{ proto = "udp" }}\n{one}\n' for one in tables)
    return parse(HEAD + text, Path("r.toml")).routes


def test_neighbours_in_routes_have_rings() -> None:
    plan = rings.plan(
        routes(
            'through = ["a", "b", "d"]',
            'through = ["b", "c"]\nbypass = "never"',
            'through = ["b", "a"]\nring = "isolated"',
        ),
        NUMBERS,
    )
    assert plan.pairs == {frozenset((1, 2))}
    assert plan.groups == ()


def test_shared_rings_join_functions_into_groups() -> None:
    plan = rings.plan(
        routes('through = ["c", "b"]\nring = "shared"', 'through = ["a", "b"]\nring = "shared"'),
        NUMBERS,
    )
    assert plan.groups == ((1, 2, 3),)
    assert plan.shared(frozenset((1, 2)))
    assert not plan.shared(frozenset((1, 4)))


def test_who_has_no_shared_ring_with_whom_shares_no_memory() -> None:
    """Two chains that do not meet are two groups; a function of neither is in none."""
    text = '[host]\nname = "r"\n'
    text += "".join(f'[[vm]]\nname = "{one}"\nnf = "count"\n' for one in "abcde")
    for through in ('"a", "b"', '"c", "d"', '"b", "e"'):
        ring = "isolated" if "e" in through else "shared"
        text += f'[[route]]\nmatch = {{ proto = "udp" }}\nthrough = [{through}]\nring = "{ring}"\n'
    plan = rings.plan(
        parse(text, Path("r.toml")).routes, dict(zip("abcde", range(1, 6), strict=True))
    )
    assert plan.groups == ((1, 2), (3, 4))
    assert not plan.shared(frozenset((2, 3)))
    assert not plan.shared(frozenset((2, 5)))


@given(st.lists(st.frozensets(st.integers(1, 9), min_size=2, max_size=2), max_size=9))
def test_groups_are_what_hangs_together(pairs: list[frozenset[int]]) -> None:
    """Whoever is reached from one over shared rings is in its group, and nobody else."""
    groups = rings._groups(pairs)
    assert sorted(one for group in groups for one in group) == sorted(frozenset().union(*pairs))
    for group in groups:
        found = {group[0]}
        for _ in pairs:
            found = found.union(*(pair for pair in pairs if pair & found))
        assert found == set(group)


def account(vm: int, *counts: int, peer: int = 0, sequence: int = 2) -> Account:
    return Account(vm, KEY, peer, sequence, 0, counts + (0,) * (8 - len(counts)))


def view(ports: Snapshot) -> flows.View:
    names = {1: "a", 2: "b", 3: "c"}
    return flows.View((), NUMBERS, names, frozenset(names), frozenset(), 1, 0, ports=ports)


def row(
    vm: int, ports: Snapshot, arrived: int = 0, queue: dict[int, int] | None = None
) -> dict[str, object]:
    seen = [Flow(vm, KEY, Verdict(1, 0, STEER, 2), arrived, 0, 0, 0, False, 0, 0, 0)]
    (found,) = verify.check(seen, (), verify.Losses(queue or {}), view(ports))
    return found


def snapshot(*accounts: Account, **more: dict[int, int]) -> Snapshot:
    books = Books()
    books.died = more.get("died", {})
    other = {vm: (0, n, 0, n, 0, 0, 0, 0) for vm, n in more.get("other", {}).items()}
    return books.snapshot(accounts, other)


def test_sent_is_switch_and_ring_and_drops() -> None:
    sent = account(1, 10, 6, 600, 3, 300, 1)
    ports = snapshot(sent, account(2, 0, 6, 600, peer=1))
    assert row(1, ports, arrived=3) == {
        "vm": "a", "key": "udp:198.18.0.10:4000>198.18.0.20:7", "sent": 10, "switch": 3, "veth": 0,
        "ring": 6, "drops": {"full-ring": 1}, "beside": 0, "missing": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "queue", "missing", "drops"),
    [
        ({}, {}, 4, {}),
        ({"died": {1: 3}}, {}, 1, {"function-died": 3}),
        ({}, {1: 2}, 2, {"queue-full": 2}),
        ({"died": {2: 9}}, {}, 4, {}),  # another VM's
        ({"other": {2: 4}}, {}, 0, {}),  # the receiver had no place to count them
    ],
)
def test_what_nobody_has_is_missing(
    more: dict[str, dict[int, int]], queue: dict[int, int], missing: int, drops: dict[str, int]
) -> None:
    ports = snapshot(account(1, 10, 10), account(2, 0, 6, peer=1), **more)
    found = row(1, ports, queue=queue)
    assert (found["missing"], found["drops"]) == (missing, drops)


def test_more_than_was_sent_is_missing_too() -> None:
    ports = snapshot(account(1, 10, 10), account(2, 0, 12, peer=1))
    assert row(1, ports)["missing"] == -2


def test_fragments_that_only_the_switch_can_tell_were_sent() -> None:
    ports = snapshot(account(1, 10, 0, 0, 10), other={1: 5})
    found = row(1, ports, arrived=14)
    assert (found["sent"], found["missing"]) == (14, 0)


def test_what_was_forgotten_counts_no_more() -> None:
    books = Books()
    books.forget([account(1, 10, 10)])
    assert books.snapshot([account(1, 12, 11)], {}).sent[(1, KEY)].sent == 2
    assert books.snapshot([account(1, 12, 11, sequence=4)], {}).sent[(1, KEY)].sent == 12
    books.prune([])
    assert books.snapshot([account(1, 12, 11)], {}).sent[(1, KEY)].sent == 12


def test_a_port_counts_by_flow_and_says_why_it_lost() -> None:
    port, rules, tally = Port(64), Rules(64), Tally(1, 64)
    port.rules(rules.fd, rules.entries)
    port.tally(tally.fd, tally.entries)
    port.send(port.make(packet(), packet(), b"no flow at all"))
    (found,) = tally.read()
    assert found == tally.find(found.flow)
    assert flow_of(packet()) is not None
    assert (found.sent, found.ring, found.eth0) == (2, (0, 0), (0, 0))
    assert found.drops == {"full-eth0": 2}
    assert tally.other()[0] == 1
    assert tally.find(found.flow, 5) is None
    port.close()
    rules.close()
    tally.close()


def test_a_table_that_is_full_counts_the_others_together() -> None:
    port, tally = Port(64), Tally(1, 16)
    port.tally(tally.fd, tally.entries)
    for number in range(100):
        data = bytearray(packet())
        data[34:36] = number.to_bytes(2, "big")
        port.send(port.make(bytes(data)))
    assert len(list(tally.read())) == 16
    assert tally.other()[0] == 84
    port.close()
    tally.close()


def test_what_a_vm_cannot_mean_is_left_out() -> None:
    tally = Tally(1, 16)
    assert list(tally.read()) == []
    entry = 256
    tally._memory[entry : entry + 4] = (2).to_bytes(4, "little")  # made, of no family
    assert list(tally.read()) == []
    tally._memory[entry + 8 + 37] = 4
    assert len(list(tally.read())) == 1
    tally._memory[entry + 4 : entry + 8] = b"\xff" * 4  # a peer that is no VM's number
    assert list(tally.read()) == []
    tally.close()
