# SPDX-License-Identifier: Apache-2.0
"""What keeps a VM apart, decided outside of it: its files, its share of the machine, and what it
sees of the kernel.

    base()             what every VM of this process is started from
    root(spec)         the private root of a VM, or None for the machine's files
    limits(spec)       its cgroup limits: those of the host file, else a share of the machine
    sockets(limits)    what it may hold of the kernel's memory by its sockets

What the kernel does of it stands in cext/vm: fence.h, root.h, filter.h, confine.h.
"""

import functools
import os
import threading
from pathlib import Path
from typing import NamedTuple

from cext import HERE
from cext.vm import spawn
from hostsim.errors import HostsimError
from hostsim.model import OWN_DIRECTORIES, VmSpec
from netns import mounts
from netns.cgroup import Limits, unsupported

AGENT = HERE / "hostsim-os-agent"
"""The resident agent's program (cext/input/agent.c)."""
MASKED = {
    "/proc/acpi": "the machine's firmware",
    "/proc/asound": "the machine's sound cards",
    "/proc/kcore": "the kernel's memory",
    "/proc/key-users": "who has keys, on the whole machine",
    "/proc/keys": "the keys of users 0 and others",
    "/proc/kpagecgroup": "physical pages: who uses them",
    "/proc/kpagecount": "the same",
    "/proc/kpageflags": "the same",
    "/proc/latency_stats": "what other processes wait for",
    "/proc/sched_debug": "the machine's processes, by name",
    "/proc/scsi": "the machine's disks",
    "/proc/slabinfo": "the layout of the kernel's memory",
    "/proc/timer_list": "the machine's processes and addresses in the kernel",
    "/proc/timer_stats": "the same",
    "/proc/vmallocinfo": "the layout of the kernel's memory",
    "/sys/devices/virtual/dmi": "serial numbers",
    "/sys/devices/virtual/powercap": "power used, from which keys of others were told",
    "/sys/firmware": "serial numbers, tables of the firmware",
    "/sys/kernel/boot_params": "how the machine was booted",
    "/sys/kernel/debug": "the kernel's own insides",
    "/sys/kernel/notes": "addresses in the kernel",
    "/sys/kernel/slab": "the layout of the kernel's memory",
    "/sys/kernel/tracing": "the kernel's own insides",
    "/sys/kernel/vmcoreinfo": "addresses in the kernel",
}
"""What a VM finds empty in /proc and /sys, and what it would tell. Reading these asks for user 0,
not for a capability over the machine."""

BOUNDS = {
    "core/optmem_max": "what options of a socket take, which no cgroup counts",
    "ipv4/igmp_max_memberships": "the groups that a socket joins, which none counts",
    "ipv4/igmp_max_msf": "the sources that a socket filters, which none counts",
    "ipv4/ipfrag_high_thresh": "fragments that wait for the others, which none counts",
    "ipv6/ip6frag_high_thresh": "the same",
    "netfilter/nf_conntrack_frag6_high_thresh": "the same",
}
"""Parameters of a VM's own network by which the kernel bounds memory that counts as nobody's, and
what that is. They stay as they are: a VM's user 0 could raise each to gigabytes."""

MEMORY_SHARE, MEMORY_LEAST = 4, 256 << 20
PIDS_SHARE, PIDS_LEAST, PIDS_MOST = 8, 256, 4096
"""Of the machine's memory and tasks, what a VM may have if its host file does not say."""
SOCKETS_SHARE, SOCKETS_LEAST = 2, 32 << 20
"""Of a VM's memory, and bytes: what its sockets may hold besides, which no cgroup counts."""

_known: "Base | None" = None
_once = threading.Lock()


class Base(NamedTuple):
    """What every VM of the process is started from."""

    fd: int
    """The mount namespace."""
    init_fd: int
    """The program that becomes process 1."""
    agent_fd: int
    """The program that is the resident agent of an OS."""
    null_fd: int
    """/dev/null for programs in VMs."""
    sealed: tuple[str, ...]
    """What becomes read-only in /proc, and what stays so in /proc/sys/net."""
    masked: tuple[str, ...]
    """What becomes empty in /proc and /sys."""
    layers: tuple[str, ...]
    """The mount points that a private root shows, `/` first."""


def base() -> Base:
    """Made at the first call, and kept. Raises OSError."""
    global _known
    with _once:
        if _known is None:
            init_fd = spawn.open_program(str(spawn.INIT))
            fd = spawn.mount_base()
            layers = mounts.with_files(Path("/proc/self/mountinfo").read_bytes(), OWN_DIRECTORIES)
            null_fd = spawn.open_null()
            agent_fd = spawn.open_program(str(AGENT))
            _known = Base(fd, init_fd, agent_fd, null_fd, _proc_entries(), tuple(MASKED), layers)
        return _known


def root(spec: VmSpec) -> spawn.Root | None:
    """The private root of a VM over the machine's; None if it has the machine's files. Raises
    HostsimError if a shared directory is not there."""
    if spec.files == "shared":
        return None
    for path, _ in spec.share:
        if not os.path.isdir(path):
            raise HostsimError(
                f"VM {spec.name}: share", f"{path} is no directory", "make it, or leave it out"
            )
    return spawn.Root(f"size={size(spec)},mode=0755", base().layers, spec.share)


def limits(spec: VmSpec) -> Limits:
    """The cgroup limits of a VM. What the host file does not say is a share of the machine, if the
    kernel can hold the VM to it. Raises OSError."""
    given = Limits(spec.memory, spec.cpus, spec.pids)
    default = _default_limits()
    return Limits(
        default.memory if given.memory is None else given.memory,
        given.cpus,
        default.pids if given.pids is None else given.pids,
    )


def size(spec: VmSpec) -> str:
    """Of each file system in memory that a VM has, as tmpfs(5) has it. All count against its
    memory, if the kernel can limit that; one alone leaves its programs half of it."""
    most = limits(spec).memory
    return "10%" if most is None else str(most // 2)


def sockets(limits: Limits) -> int:
    """Bytes of the kernel's memory that a VM may hold by rings and queues of its sockets (see
    netns/sockets.py): its memory limit does not count them. Pure."""
    memory = MEMORY_LEAST if limits.memory is None else limits.memory
    return max(memory // SOCKETS_SHARE, SOCKETS_LEAST)


def share(memory: int, tasks: int) -> Limits:
    """What one VM may have of a machine with so many bytes of memory and so many tasks: one that
    takes all of it leaves the machine, and several others, what they need. Pure."""
    return Limits(
        memory=max(memory // MEMORY_SHARE, min(memory // 2, MEMORY_LEAST)),
        pids=min(max(tasks // PIDS_SHARE, PIDS_LEAST), PIDS_MOST),
    )


@functools.cache
def _default_limits() -> Limits:
    kernel = Path("/proc/sys/kernel")
    tasks = min(int((kernel / name).read_text()) for name in ("pid_max", "threads-max"))
    found = share(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), tasks)
    missing = unsupported(found)
    return Limits(
        None if "memory" in missing else found.memory,
        pids=None if "pids" in missing else found.pids,
    )


def _proc_entries() -> tuple[str, ...]:
    """What becomes read-only: everything in /proc that is not about processes and could be written
    to by user 0, and BOUNDS."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() or entry.is_symlink():
            continue
        if entry.is_dir() or entry.stat().st_mode & 0o222:
            found.append(entry.path)
    return (*sorted(found), *(f"/proc/sys/net/{name}" for name in BOUNDS))
