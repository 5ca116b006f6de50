# SPDX-License-Identifier: Apache-2.0
"""What this machine has so many of: kernel parameters, and limits of our own, by name.

look("kernel.pid_max") -> 32768     None: this kernel, or this namespace, does not have it
"""

import resource
from pathlib import Path

CAP_SYS_RESOURCE = 24
_SYS = Path("/proc/sys")


def look(name: str) -> int | None:
    """A kernel parameter as sysctl(8) names it; or `nofile`: descriptors that a daemon may have;
    `tasks`: how many there are now, of all users."""
    try:
        if name == "nofile":
            return files()
        if name == "tasks":
            return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
        return int((_SYS / name.replace(".", "/")).read_text())
    except (FileNotFoundError, PermissionError, ValueError):
        return None


def files() -> int:
    """Descriptors that a process of ours may have, once it has asked for as many as it can: the
    hard limit, which CAP_SYS_RESOURCE raises to fs.nr_open (setrlimit(2))."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(hard, int((_SYS / "fs/nr_open").read_text())) if _may_raise() else hard


def _may_raise() -> bool:
    """Whether CAP_SYS_RESOURCE is effective (proc(5), CapEff)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return False
