# SPDX-License-Identifier: Apache-2.0
"""`hostsim check` says what is there: held against the kernel and the machine themselves."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from help.cli import ask
from netns import cgroup

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return {row["name"]: row for row in ask("check")["checks"]}


def test_root_answers_every_probe(found: dict[str, Any]) -> None:
    assert [name for name, row in found.items() if row["ok"] is None] == []
    assert all(row["without"] for row in found.values())


NEEDED = ["root", "network namespaces", "veth pairs", "bridge", "tc clsact", "cgroup v2"]
NEEDED += ["the classifier (tc-BPF)", "device program (cgroup BPF)", "BPF ring buffer", "BTF"]
NEEDED += ["AF_XDP", "nftables", "pidfd_getfd", "sealed memfd", "Linux 6.1 or newer"]


@pytest.mark.parametrize("name", NEEDED)
def test_what_the_other_tests_stand_on(found: dict[str, Any], name: str) -> None:
    assert found[name]["ok"] is True, found[name]


def test_input_is_there_where_the_kernel_has_uinput(found: dict[str, Any]) -> None:
    there = Path("/dev/uinput").is_char_device()
    for name in ("uinput", "evdev", "EVIOCREVOKE"):
        assert found[name]["ok"] is there, found[name]


def test_limits_are_where_cgroup_says(found: dict[str, Any]) -> None:
    where = cgroup.layout().where("memory")
    assert found["memory limits"]["ok"] is (where is not None)
    assert where is None or found["memory limits"]["detail"].endswith(where)


def test_a_tool_is_found_at_its_path(found: dict[str, Any]) -> None:
    assert found["ip"]["detail"] == shutil.which("ip")


def test_it_makes_no_file_for_a_device_that_is_missing(found: dict[str, Any]) -> None:
    assert not Path("/dev/uinput").is_file()
