# SPDX-License-Identifier: Apache-2.0
"""The daemon's answers as objects (hostsim/lab/answers.py)."""

import dataclasses
from collections.abc import Callable

import pytest

from hostsim import Host
from hostsim.errors import HostsimError
from hostsim.lab.answers import Explanation, Flow, NodeStatus, Ping, read

HOP = {"vm": "fw", "to": "ids", "path": "veth", "packets": 3, "bytes": 180, "reason": "rule"}
HOP |= {"paths": {"veth": {"packets": 3, "bytes": 180}}}
FLOW = {"key": "icmp:198.18.0.1>198.18.0.2", "route": None, "direction": "forward", "hops": [HOP]}


def test_objects_all_the_way_down() -> None:
    flow = read(Flow, FLOW)
    assert flow.hops[0].paths["veth"].bytes == 180
    assert flow.route is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        flow.key = "another"  # type: ignore[misc]


def test_what_is_not_known_is_left_out_and_what_is_missing_is_named() -> None:
    assert read(Flow, FLOW | {"more": 1}) == read(Flow, FLOW)
    less = {name: value for name, value in FLOW.items() if name != "key"}
    with pytest.raises(HostsimError, match=r"a Flow without .*key"):
        read(Flow, less)
    with pytest.raises(HostsimError, match="is no Flow"):
        read(Flow, [])


def test_none_is_none() -> None:
    node = {"name": "a", "netns": "b", "cgroup": "c", "pid": 1, "state": "running", "os": False}
    assert read(NodeStatus, node | {"drops": None}).drops is None
    assert read(NodeStatus, node | {"drops": {"X": 1}}).drops == {"X": 1}


def test_a_key_that_is_a_word_of_pythons() -> None:
    told = read(Ping, {"from": "a", "to": "b", "address": "198.18.0.2", "ms": None})
    assert (told.from_, told.to, told.ms) == ("a", "b", None)


@pytest.mark.parametrize("take", [Host, Host("edge").apply])
def test_a_text_where_a_path_belongs(take: Callable[[str], object]) -> None:
    with pytest.raises(HostsimError, match=r"this is its text, and no path; .*toml\(text\)$"):
        take('[host]\nname = "x"\n')


def test_an_explanation_in_one_line() -> None:
    told = {"vm": "client", "flow": "f", "live": False, "direction": "forward", "route": 0}
    told |= {"next": "fw", "why": "it enters", "hops": [HOP]}
    assert str(read(Explanation, told)) == (
        "f at client: route 0, next fw (it enters); fw -> ids: veth (rule)"
    )
