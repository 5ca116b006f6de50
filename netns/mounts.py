# SPDX-License-Identifier: Apache-2.0
"""The machine's mounts, as mountinfo tells of them (proc_pid_mountinfo(5)).

Pure.
"""

import re
from typing import NamedTuple

PSEUDO = frozenset(
    {
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts"),
        *("devtmpfs", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nfsd", "nsfs", "proc"),
        *("pstore", "resctrl", "rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sysfs"),
        "tracefs",
    }
)
"""Types of file systems that show the kernel, not files."""

_OCTAL = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One mount: where it is, and the type of its file system."""

    point: str
    kind: str


def parse(mountinfo: bytes) -> list[Mount]:
    """Every mount that a path reaches, a parent before those below it. One that another mount
    covers is left out."""
    found: list[Mount] = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(b" - ")
        point = _OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), fields.split(b" ")[4])
        path = point.decode(errors="surrogateescape")
        below = path.rstrip("/") + "/"
        found = [one for one in found if one.point != path and not one.point.startswith(below)]
        found.append(Mount(path, rest.split(b" ")[0].decode()))
    return found


def with_files(mountinfo: bytes, without: tuple[str, ...]) -> tuple[str, ...]:
    """The mount points that show files: of no pseudo file system, and not in or below the
    directories `without`. `/` is the first."""
    return tuple(
        sorted(
            one.point
            for one in parse(mountinfo)
            if one.kind not in PSEUDO
            and not any(f"{one.point}/".startswith(f"{path}/") for path in without)
        )
    )
