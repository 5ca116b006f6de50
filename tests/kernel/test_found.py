# SPDX-License-Identifier: Apache-2.0
"""A defence of the classifier that is taken out is missed: the generator (test_receiver.py)
and the state machine (test_forgers.py) find that within a thousand steps.

HOSTSIM_SEED: another seed than the first.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from help import frames as made_of
from help.ground import BATCH, played
from help.mutants import Edits, without
from help.world import World

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SEED = int(os.environ.get("HOSTSIM_SEED", "1"))
STEPS = 1000
PACKET, DECIDE = "flow/packet.bpf.h", "switch/decide.bpf.h"
FRAMES: Mapping[str, tuple[str, str, Edits]] = {
    "VLAN 0": (
        "hole",
        "ports",
        {PACKET: ("if (p->key.tuple.vlan && !(on & HS_ON_VLAN))", "if (!(on & HS_ON_VLAN))")},
    ),
    "a frame to a group": (
        "hole",
        "ports",
        {
            PACKET: (
                "    type = eth.h_proto;\n    if (skb",
                "    if (p->group)\n        return HS_PLAIN;\n    type = eth.h_proto;\n    if (skb",
            )
        },
    ),
    "extension headers": (
        "hole",
        "ports",
        {
            PACKET: (
                "        if (next != IPPROTO_HOPOPTS && next",
                "        if (next != IPPROTO_ROUTING || next",
            )
        },
    ),
    "a quote of another's": (
        "hole",
        "ports",
        {
            PACKET: (
                "    if (hs_another(inner.src, p->key.tuple.dst))\n        return -1;",
                "    if (0)\n        return -1;",
            )
        },
    ),
    "too many tags": (
        "hole",
        "ports",
        {PACKET: ("            return HS_DEEP;", "            return HS_PLAIN;")},
    ),
    "options": (
        "hole",
        "ports",
        {PACKET: ("    p->l4 = l3 + ip.ihl * 4;\n    p->id", "    p->l4 = l3 + 20;\n    p->id")},
    ),
    "the ports of a datagram": (
        "hole",
        "ports",
        {
            PACKET: (
                "    p->key.tuple.dport = first.dport;\n    return HS_FLOW",
                "    return HS_FLOW",
            )
        },
    ),
    "the protocol of a datagram": (
        "hole",
        "addresses",
        {
            PACKET: (
                "    p->key.tuple.proto = first.proto;\n    p->key.tuple.sport",
                "    p->key.tuple.sport",
            )
        },
    ),
    "a fragment before its first": (
        "veth",
        "ports",
        {
            PACKET: (
                "    if (!hs_fresh(known, p, now))\n        return HS_ORPHAN;",
                "    if (!hs_fresh(known, p, now))\n        return HS_FLOW;",
            )
        },
    ),
}


@pytest.mark.parametrize("what", FRAMES)
def test_by_the_generator(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    along, name, edits = FRAMES[what]
    without(edits, tmp_path, monkeypatch)
    rng, sent, found = Random(SEED), 0, ""
    with played(along, name, tmp_path) as ground:
        while sent < STEPS and not found:
            several = [made_of.frames(rng, ground.ends) for _ in range(BATCH)]
            sent += BATCH
            try:
                ground.hold([frame for packet in several for frame in packet])
            except AssertionError as error:
                found = str(error)
    print(f"{what}: {sent if found else 'not in'} {found[:200]}")
    assert found, f"{what}: not in {sent} packets"


class Counted(World):
    steps: ClassVar[int] = 0

    @invariant()
    def one_more(self) -> None:
        Counted.steps += 1


HISTORIES: Mapping[str, Edits] = {
    "a forged SYN+ACK, judged": {
        DECIDE: (
            "        back = backward != HS_NO_ROW || forward == HS_NO_ROW;",
            "        back = 1;",
        )
    },
    "a forged SYN+ACK, believed": {
        DECIDE: (
            "    hs_judge_conn(policy, fresh);",
            "    if (1)\n        return 0;",
        )
    },
    "a stale epoch": {"switch/transfer.bpf.h": ("    if (age && (age >=", "    if (0 && (age >=")},
}


@pytest.mark.parametrize("what", HISTORIES)
def test_by_the_state_machine(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ports: None
) -> None:
    without(HISTORIES[what], tmp_path, monkeypatch)
    Counted.steps = 0
    found = ""
    try:
        run_state_machine_as_test(
            seed(SEED)(Counted),
            settings=settings(
                max_examples=STEPS // 40,
                stateful_step_count=40,
                phases=[Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
            ),
        )
    except (AssertionError, ExceptionGroup) as error:
        found = repr(error)
    print(f"{what}: {Counted.steps} {found[:200]}")
    assert found, f"{what}: not in {Counted.steps} steps"
