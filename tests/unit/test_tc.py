# SPDX-License-Identifier: Apache-2.0
"""What is said to every port of a switch: packed by hostsim, and as pyroute2 would say it."""

from collections.abc import Callable
from typing import Any

import pytest

from netns import links, netlink, tc
from netns.links import Batch

PORTS = range(10001, 10301)


class OnlyPacked:
    """A Batch that has nothing compiled: that takes 0.6 ms a message, with the interpreter's lock
    given up and taken again so often that the daemon's loop does not get it (60 ms seen)."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def packed(self, message: bytes) -> None:
        self.messages.append(message)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a message to a port is compiled")


def program(batch: Batch, port: int) -> None:
    tc.add_program(batch, port, 7, "hostsim:classify", tc.INGRESS)


def compiled_program(batch: Batch, port: int) -> None:
    words = {"fd": 7, "name": "hostsim:classify", "direct_action": True, "prio": 1, "handle": 1}
    batch.tc("add-filter", "bpf", index=port, parent=tc.INGRESS, **words)


def no_programs(batch: Batch, port: int) -> None:
    tc.remove_programs(batch, port, tc.EGRESS)


def compiled_no_programs(batch: Batch, port: int) -> None:
    batch.tc("del-filter", index=port, parent=tc.EGRESS)


def compiled_hook(batch: Batch, port: int) -> None:
    batch.tc("add", "clsact", index=port)


Fill = Callable[[Batch, int], None]
SAID: list[tuple[Fill, Fill]] = [
    (program, compiled_program),
    (no_programs, compiled_no_programs),
    (tc.add_hook, compiled_hook),
]


def as_sent(raw: bytes) -> list[bytes]:
    """The messages as `Rtnl.send` sends them, numbered by it."""
    return [netlink.acknowledged(message, 1) for _, message in netlink.messages(raw)]


@pytest.mark.parametrize(("packed", "compiled"), SAID, ids=["program", "none", "hook"])
def test_a_packed_message_is_as_pyroute2_compiles_it(packed: Fill, compiled: Fill) -> None:
    ours = links._compile(lambda batch: packed(batch, PORTS[0]))
    assert as_sent(ours) == as_sent(links._compile(lambda batch: compiled(batch, PORTS[0])))


@pytest.mark.parametrize("packed", [packed for packed, _ in SAID], ids=["program", "none", "hook"])
def test_what_all_ports_are_told_is_not_compiled(packed: Fill) -> None:
    batch = OnlyPacked()
    for port in PORTS:
        packed(batch, port)
    assert len(batch.messages) == len(PORTS)


def test_packed_and_compiled_messages_keep_their_order() -> None:
    def fill(batch: Batch) -> None:
        tc.add_hook(batch, 1)
        batch.link("set", index=1, state="up")
        batch.link("set", index=2, state="up")
        tc.remove_programs(batch, 1, tc.EGRESS)
        batch.link("set", index=3, state="up")

    for _ in range(2):  # what was in it is gone
        kinds = [kind for kind, _ in netlink.messages(links._compile(fill))]
        assert kinds == [tc.RTM_NEWQDISC, 16, 16, tc.RTM_DELTFILTER, 16]
