# SPDX-License-Identifier: Apache-2.0
"""What a host takes of its machine, against machines that have too little of one thing."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from hostsim.hostfile import file as hostfile
from hostsim.model import HostSpec
from hostsim.needs import NAMESPACES, needs
from netns import parameters

STOCK = {
    "kernel.pid_max": 32768,
    "kernel.threads-max": 15000,
    "nofile": 1 << 20,
    "tasks": 100,
    "fs.inotify.max_user_instances": 128,
    "kernel.pty.max": 4096,
    "kernel.keys.root_maxkeys": 1_000_000,
    **{f"user.max_{kind}_namespaces": 7500 for kind in NAMESPACES},
}


def host(count: int, more: str = "") -> HostSpec:
    vms = "".join(f'[[vm]]\nname = "v{n}"\n{more}' for n in range(count))
    return hostfile.parse(f'[host]\nname = "h"\n{vms}', Path("/h.toml"))


def lacks(count: int, more: str = "", machine: Mapping[str, int] | None = None) -> list[str]:
    has = {**STOCK, **(machine or {})}
    return [need.name for need in needs(host(count, more), has.get) if not need.met]


def test_300_vms_on_a_stock_machine_lack_nothing_that_is_certain() -> None:
    assert lacks(300) == []
    assert lacks(300, 'run = "sleep 9"\n') == ["fs.inotify.max_user_instances"]


@pytest.mark.parametrize("kind", NAMESPACES)
def test_namespaces(kind: str) -> None:
    name = f"user.max_{kind}_namespaces"
    assert lacks(10, machine={name: 11}) == []
    assert lacks(10, machine={name: 10}) == [name]


def test_descriptors_and_tasks() -> None:
    assert lacks(300, machine={"nofile": 1024}) == ["nofile"]
    assert lacks(300, machine={"kernel.pid_max": 900}) == ["kernel.pid_max"]
    assert lacks(100, machine={"tasks": 32700}) == ["kernel.pid_max", "kernel.threads-max"]


def test_what_the_kernel_does_not_say_is_no_lack() -> None:
    found = needs(host(1), lambda name: None)
    assert all(need.met for need in found)
    assert all(need.raised and need.for_what for need in found)


def test_this_machine_says_what_it_has() -> None:
    assert parameters.look("kernel.pid_max") == int(Path("/proc/sys/kernel/pid_max").read_text())
    assert parameters.look("no.such.thing") is None
    tasks, files = parameters.look("tasks"), parameters.look("nofile")
    assert tasks is not None
    assert tasks > 1
    assert files is not None
    assert files >= 64
