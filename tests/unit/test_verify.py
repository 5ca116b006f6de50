# SPDX-License-Identifier: Apache-2.0
"""Conservation with the kernel's drops, and with what is kept of flows that are forgotten."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cext.switch.records import (
    AT_EXIT,
    BEHIND,
    DROPPED_BY,
    IN_SWITCH,
    IN_VM,
    NONE_DROPPED,
    STEER,
    Account,
    Drop,
    Ended,
    Flow,
    Rule,
    Tuple,
    Verdict,
)
from hostsim.model import Json
from hostsim.routing import flows, verify
from hostsim.routing.accounts import Books
from hostsim.routing.retained import Retained
from hostsim.routing.verify import Losses

KEY = Tuple(4, 17, bytes((198, 18, 0, 10)), 4000, bytes((198, 18, 0, 20)), 7)
NAMES = {1: "a", 2: "b", 3: "probe"}
VIEW = flows.View((), {name: n for n, name in NAMES.items()}, NAMES, frozenset(), frozenset(), 1, 0)


def drop(reason: str, place: int, packets: int, vm: int = 1, at: int = 0) -> Drop:
    return Drop(vm, KEY, reason, at, place, packets, 0)


def rule(switch: int, veth: int, got: int) -> Rule:
    return Rule(1, KEY, Verdict(1, 0, STEER, 2), switch, veth, 0, 0, got)


def flow(packets: int, mirror: int = 0, dropped: Sequence[int] = NONE_DROPPED) -> Flow:
    return Flow(1, KEY, Verdict(1, 0, STEER, 2), packets, 0, 0, 0, False, 0, mirror, 0, dropped)


def only(found: list[Json]) -> Json:
    (row,) = found
    parts = row["switch"] + row["veth"] + row["ring"] + sum(row["drops"].values())
    assert row["sent"] == parts + row["missing"], row
    return row


@pytest.mark.parametrize(
    ("drops", "shown"),
    [
        # sent, switch, veth, drops, missing; of 10 by the switch, 8 arrived, of 5 by veth, 5
        ([], (15, 8, 5, {}, 2)),
        ([drop("X", AT_EXIT, 2)], (15, 8, 5, {"X": 2}, 0)),
        ([drop("X", AT_EXIT, 1)], (15, 8, 5, {"X": 1}, 1)),
        ([drop("X", IN_VM, 2)], (17, 8, 5, {"X": 2}, 2)),  # does not explain what is missing
        ([drop("X", IN_SWITCH, 3)], (15, 5, 5, {"X": 3}, 2)),
        ([drop("X", IN_SWITCH, 3, at=3)], (15, 8, 5, {}, 2)),  # a mirror's copy
        ([drop("X", IN_SWITCH, 3, at=2)], (15, 5, 5, {"X": 3}, 2)),
        ([drop("X", BEHIND, 4)], (15, 8, 1, {"X": 4}, 2)),
        ([drop("X", AT_EXIT, 1), drop("Y", AT_EXIT, 1)], (15, 8, 5, {"X": 1, "Y": 1}, 0)),
        ([drop("X", AT_EXIT, 1), drop("X", IN_VM, 1)], (16, 8, 5, {"X": 2}, 1)),
        ([drop("X", AT_EXIT, 2)._replace(tuple=None)], (15, 8, 5, {"X": 2}, 0)),
        ([drop("X", IN_VM, 2)._replace(tuple=None)], (15, 8, 5, {}, 2)),
        ([drop("X", AT_EXIT, 2, vm=2)._replace(tuple=None)], (15, 8, 5, {}, 2)),
    ],
)
def test_where_the_kernel_dropped_it(
    drops: list[Drop], shown: tuple[int, int, int, dict[str, int], int]
) -> None:
    row = only(verify.check([flow(8, mirror=3)], [rule(10, 5, 5)], Losses(drops=drops), VIEW))
    assert tuple(row[part] for part in ("sent", "switch", "veth", "drops", "missing")) == shown


EXAMPLE = [
    drop("X", AT_EXIT, 2),
    drop("Y", IN_SWITCH, 3),
    drop("Z", BEHIND, 1),
    drop("W", IN_VM, 4),
]


def test_the_example_of_the_docstring() -> None:
    """Each line of its table is what `check` says with one more of the kernel's drops."""
    assert verify.__doc__ is not None
    table = verify.__doc__.partition("the kernel dropped  ")[2].splitlines()[1:]
    assert len(table) == len(EXAMPLE) + 1
    for known, line in enumerate(table):
        given = Losses(drops=EXAMPLE[:known])
        row = only(verify.check([flow(8)], [rule(10, 5, 5)], given, VIEW))
        drops = " ".join(f"{name}={count}" for name, count in row["drops"].items())
        shown = [row["sent"], row["switch"], row["veth"], drops or "-", row["missing"]]
        assert line.strip().partition("  ")[2].split() == " ".join(map(str, shown)).split(), line


def test_what_only_came_in_has_a_row() -> None:
    row = only(verify.check([], [], Losses(drops=[drop("SOCKET_RCVBUFF", IN_VM, 4, vm=2)]), VIEW))
    assert (row["vm"], row["sent"], row["drops"]) == ("b", 4, {"SOCKET_RCVBUFF": 4})


def test_what_the_classifier_drops_keeps_its_names() -> None:
    dropped = range(1, len(DROPPED_BY) + 1)
    row = only(verify.check([flow(20, dropped=dropped)], [rule(20, 0, 0)], Losses(), VIEW))
    assert (row["drops"], row["missing"]) == (dict(zip(DROPPED_BY, dropped, strict=True)), 0)
    assert row["switch"] == 20 - sum(dropped)


def test_forgotten_flows_hold_or_fail() -> None:
    kept = Retained()
    kept.fold_drops([drop("X", IN_VM, 2), drop("Y", AT_EXIT, 1)])
    kept.fold_drops([drop("X", IN_VM, 1)])
    sums = Ended(1, flows=3, switch_packets=10, veth_packets=5, got_packets=5, packets=8)
    sums.dropped = [DROPPED_BY.index("vm-gone") == nth for nth in range(len(DROPPED_BY))]
    row = only(verify.check([], [], Losses(ended=[sums], retained=kept), VIEW))
    assert row["key"] == "ended flows"
    assert (row["sent"], row["switch"], row["veth"], row["missing"]) == (18, 7, 5, 1)
    assert row["drops"] == {"X": 3, "Y": 1, "vm-gone": 1}


def test_forgotten_flows_of_ports() -> None:
    counts = (10, 6, 600, 3, 300, 1, 0, 0)
    gone = [Account(1, KEY, 0, 2, 0, counts), Account(2, KEY, 1, 2, 0, (0, 6, 600, 0, 0, 0, 0, 0))]
    kept = Retained()
    kept.fold_ports(Books().snapshot(gone, {}), [flow(3)])
    row = only(verify.check([], [], Losses(retained=kept), VIEW))
    assert (row["sent"], row["switch"], row["ring"], row["missing"]) == (10, 3, 6, 0)
    assert row["drops"] == {"full-ring": 1}
    kept.fold_ports(Books().snapshot(gone[:1], {}), [])
    row = only(verify.check([], [], Losses(retained=kept), VIEW))
    assert (row["sent"], row["missing"]) == (20, 9)  # what nobody took, and the switch never saw


def test_a_receiver_without_a_place_still_accounts_for_what_it_took() -> None:
    """b's table was full: it counted a's packets, and not as the flow's. No more of them than a
    put into the ring; what b cannot have taken is missing."""
    sent = Account(1, KEY, 0, 2, 0, (20, 12, 1200, 8, 800, 0, 0, 0))
    other = {2: (0, 10, 1000, 0, 0, 0, 0, 0)}
    view = replace(VIEW, ports=Books().snapshot([sent], other))
    row = only(verify.check([flow(8)], [], Losses(), view))
    assert (row["switch"], row["ring"], row["missing"], row["beside"]) == (8, 10, 2, 0)
