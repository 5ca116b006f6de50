# SPDX-License-Identifier: Apache-2.0
"""The documents of `--json`: a running host's have the keys that hostsim/cli/README.md tells of."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from help.cli import ask, hostsim, up
from help.waiting import until
from hostsim.bench import common

pytestmark = pytest.mark.root

README = (Path(__file__).parents[2] / "hostsim/cli/README.md").read_text()
TOKEN = re.compile(r'"[^"]*"|[\[\]{}:]|\.\.\.')

Shape = dict[str, Any] | list[Any] | None
"""A document as it is told: an object's keys, a list's one row; None: anything."""


def shape(text: str) -> Shape:
    """`{"a", "b": [{"c"}]}` as a Shape."""
    tokens = TOKEN.findall(text)

    def value() -> Shape:
        if tokens[0] == "{":
            return table()
        if tokens[0] != "[":
            tokens.pop(0)
            return None
        tokens.pop(0)
        row = None if tokens[0] in ("...", "]") else value()
        while tokens.pop(0) != "]":
            pass
        return [row]

    def table() -> Shape:
        tokens.pop(0)
        found: dict[str, Any] = {}
        while (key := tokens.pop(0)) != "}":
            found[key.strip('"')] = None
            if tokens[0] == ":":
                tokens.pop(0)
                found[key.strip('"')] = value()
        return found

    return value()


def lacks(told: Shape, seen: Any, where: str) -> Iterator[str]:
    """What is told and not there. A list must have a row, or it would show nothing."""
    if isinstance(told, dict):
        if not isinstance(seen, dict):
            yield f"{where} is no object"
            return
        for key, below in told.items():
            if key not in seen:
                yield f"{where} has no {key}"
            elif below is not None:
                yield from lacks(below, seen[key], f"{where}.{key}")
    elif isinstance(told, list):
        if not isinstance(seen, list):
            yield f"{where} is no list"
        elif told[0] is not None:
            if not seen:
                yield f"{where} is empty"
            for row in seen[:1]:
                yield from lacks(told[0], row, f"{where}[]")


def told() -> dict[str, Shape]:
    """The documents by command."""
    (section,) = re.findall(r"^`--json` prints .*?^There may be", README, re.DOTALL | re.MULTILINE)
    return {name: shape(text) for name, text in re.findall(r"^- `(\w+)`: `([^`]+)`", section, re.M)}


def test_the_shapes_are_read() -> None:
    assert shape('[{"a": {"b", "c"}, "d": [...]}]') == [{"a": {"b": None, "c": None}, "d": [None]}]
    assert list(lacks([{"a": None}], [{"b": 1}], "x")) == ["x[] has no a"]
    assert list(lacks({"a": [{"b": None}]}, {"a": []}, "x")) == ["x.a is empty"]
    documents = told()
    assert {"status", "flows", "verify", "rules", "ls", "check", "bench"} <= set(documents)
    assert isinstance(documents["status"], dict)
    assert documents["status"]["vms"][0]["limits"].keys() == {"memory", "cpus", "pids"}


def test_a_host_tells_what_is_told_of_it() -> None:
    with up("edge"):
        ping = ("ping", "-q", "-i", "0.01", "-c", "50", "198.18.0.20")
        hostsim("exec", "client", "--", *ping)
        assert until(lambda: ask("rules"))
        answers = {name: ask(name) for name in told() if name != "bench"}
    case = common.Case("c", "s", lambda: 1.0, {"peer": lambda: 2.0})
    options = argparse.Namespace(case=None, runs=1)
    answers["bench"] = common.run("x", [case], options)
    for name, document in told().items():
        assert list(lacks(document, answers[name], name)) == []


def test_a_check_of_a_file_tells_what_the_host_needs() -> None:
    (text,) = re.findall(r'`("needs": \[.*?\])`', README, re.DOTALL)
    assert list(lacks(shape(f"{{{text}}}"), ask("check", "edge"), "check")) == []
