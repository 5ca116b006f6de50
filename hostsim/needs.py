# SPDX-License-Identifier: Apache-2.0
"""What a host takes of its machine that the machine has only so many of. Pure: it is given how to
look.

    needs(spec, look)    one row for each; `look` reads a kernel parameter or limit by name

A need that is `certain` is met, or the host cannot come up; of the others it depends on what runs
in the VMs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hostsim.model import HostSpec

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts")
"""Of each a VM has one; the switch has a network namespace besides (user_namespaces(7))."""
FILES = 200
FILES_VM = 12
"""Descriptors of the daemon: of its own, and of each VM."""
TASKS_VM = 3
"""Processes of a VM: process 1, a program, and its agent or what the program starts."""

Look = Callable[[str], int | None]
"""The value of a kernel parameter, or of `nofile`, `tasks`; None: it is not there."""


@dataclass(frozen=True)
class Need:
    """One of them. has: None if this kernel does not say. raised: how to have more."""

    name: str
    wanted: int
    has: int | None
    raised: str
    certain: bool
    for_what: str

    @property
    def met(self) -> bool:
        return self.has is None or self.wanted <= self.has


def needs(spec: HostSpec, look: Look) -> list[Need]:
    """Every need of a host."""
    nodes = [*spec.vms, *spec.endpoints]
    count = len(nodes)
    programs = sum(vm.run is not None or vm.nf is not None or vm.os is not None for vm in nodes)
    found = [
        _need(
            look,
            f"user.max_{kind}_namespaces",
            count + 1,
            "one for each VM",
        )
        for kind in NAMESPACES
    ]
    tasks = look("tasks") or 0
    found += [
        _need(look, "kernel.pid_max", tasks + TASKS_VM * count, "processes, with those that run"),
        _need(
            look, "kernel.threads-max", tasks + TASKS_VM * count, "processes, with those that run"
        ),
        Need(
            "nofile",
            FILES + FILES_VM * count,
            look("nofile"),
            "ulimit -Hn, or LimitNOFILE= of the service that starts it",
            True,
            "open files of the daemon",
        ),
        _need(look, "fs.inotify.max_user_instances", programs, "VMs that watch files", False),
        _need(look, "kernel.pty.max", count, "a terminal in each VM", False),
        _need(look, "kernel.keys.root_maxkeys", 2 * count, "keyrings of VMs", False),
    ]
    return found


def _need(look: Look, name: str, wanted: int, for_what: str, certain: bool = True) -> Need:
    return Need(name, wanted, look(name), f"sysctl -w {name}={wanted}", certain, for_what)
