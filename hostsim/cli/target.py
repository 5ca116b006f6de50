# SPDX-License-Identifier: Apache-2.0
"""A VM that somebody wants to start a program in, from what its daemon says of it.

with opened({"pid": ..., "cgroups": [...]}) as vm:
    process.start(vm, argv)       raises what `refusal` makes a line of
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cext.vm import spawn
from hostsim.errors import HostsimError
from netns import cgroup1
from netns.cgroup import for_programs
from netns.process import Target

PATIENCE = 0.5
"""Seconds: a VM is held still for a moment while equipment is taken from it."""


class NotFoundError(HostsimError):
    """No such command; the exit status is a shell's."""

    status = 127


class NotExecutableError(HostsimError):
    """A command that cannot be executed; the exit status is a shell's."""

    status = 126


@contextlib.contextmanager
def opened(told: Mapping[str, Any]) -> Iterator[Target]:
    """The VM, with its descriptors open for as long as the block runs.

    told: `pid` of the VM's process 1, `cgroups`, the v2 directory first, and `nests` (Target).
    Raises OSError: ESRCH if that process is another one by now, and what `Target.check` raises.
    """
    group, *v1 = (Path(path) for path in told["cgroups"])
    with contextlib.ExitStack() as stack:
        pidfd = os.pidfd_open(told["pid"])
        stack.callback(os.close, pidfd)
        group_fd = os.open(for_programs(group), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, group_fd)
        join = cgroup1.open_tasks(v1)
        for fd in join:
            stack.callback(os.close, fd)
        null = spawn.open_null()
        stack.callback(os.close, null)
        target = Target(
            pidfd, group, group_fd, tuple(v1), tuple(join), bool(told.get("nests")), null
        )
        if not target.entered(told["pid"]):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        target.check(PATIENCE)
        yield target


def refusal(error: OSError, name: str, program: str) -> HostsimError:
    """What a failed start means to whoever wanted it. name: of the VM."""
    why = os.strerror(error.errno or 0)
    if isinstance(error, spawn.SpawnError) and error.step == "exec":
        if error.errno == errno.ENOENT:
            return NotFoundError(program, f"not found in {name}")
        return NotExecutableError(program, f"cannot be executed in {name}: {why}")
    if error.errno in (errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.ENOMEM):
        # ENODEV: its cgroup is going; ENOMEM: its process 1 is ending
        return HostsimError(name, "is gone", "hostsim status shows what runs")
    if error.errno == errno.EBUSY:
        return HostsimError(name, "is frozen, nothing can start in it", f"hostsim flip {name}")
    if error.errno == errno.EAGAIN:
        return HostsimError(program, f"{name} is at its limit of processes")
    return HostsimError(program, f"could not start in {name}: {error.strerror}")
