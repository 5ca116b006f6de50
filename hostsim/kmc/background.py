# SPDX-License-Identifier: Apache-2.0
"""What an OS may do in the background: run, be throttled, or be frozen (`[vm.os] background`).

throttle: cpu.weight 1 of the OS's cgroup, so that it runs when nobody else wants the CPU; freeze:
cgroup.freeze. Both of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst).
"""

import contextlib
from pathlib import Path

from hostsim.errors import HostsimError
from hostsim.model import VmSpec
from hostsim.vm import Vm
from netns import freezer

LIGHTEST, NORMAL = "1", "100"
"""cpu.weight: the least, and the kernel's default."""


def prepare(vm: Vm, spec: VmSpec | None = None) -> None:
    """Have the cpu controller at hand if `throttle` needs it. Raises HostsimError if it is
    not in the v2 tree. spec: what the VM will be."""
    os = (spec or vm.spec).os
    if os is None or os.background != "throttle" or (vm.cgroup / "cpu.weight").exists():
        return
    try:
        for directory in (vm.cgroup.parent.parent, vm.cgroup.parent):
            (directory / "cgroup.subtree_control").write_text("+cpu")
    except OSError as error:
        raise HostsimError(
            f"[vm.os] of {vm.spec.name!r}: background",
            f"throttle needs the cpu controller in the cgroup v2 tree: {error.strerror}",
            'use "run" or "freeze"',
        ) from error


def change(vm: Vm) -> None:
    """The OS is in the background, where another rule held until now."""
    freezer.thaw(vm.cgroup)
    if (weight := vm.cgroup / "cpu.weight").exists():
        _write(weight, NORMAL)
    enter(vm)


def enter(vm: Vm) -> None:
    """The OS is in the background now. It is not waited for: a process that is in the kernel comes
    to rest on its way out."""
    if _kind(vm) == "freeze":
        _write(vm.cgroup / "cgroup.freeze", "1")
    elif _kind(vm) == "throttle":
        _write(vm.cgroup / "cpu.weight", LIGHTEST)


def leave(vm: Vm) -> None:
    """The OS is to run as it can."""
    if _kind(vm) == "freeze":
        freezer.thaw(vm.cgroup)
    elif _kind(vm) == "throttle":
        _write(vm.cgroup / "cpu.weight", NORMAL)


def _kind(vm: Vm) -> str:
    return vm.spec.os.background if vm.spec.os is not None else "run"


def _write(path: Path, text: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # the VM is gone
        path.write_text(text)
