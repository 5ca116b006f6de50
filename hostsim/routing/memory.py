# SPDX-License-Identifier: Apache-2.0
"""Where the memory of the tables of flows and connections comes from.

The kernel finds it for each new flow (BPF_F_NO_PREALLOC), or takes all of it when the tables are
made. Flows come by the hundred thousand a second, and where every page must be found first that
costs more than a fifth of such a flow; but the two tables then hold TAKEN bytes for each host that
is up, whatever its traffic. So a large machine has them at once, a small one as they are needed;
how many flows they hold is the same.

To take all of it keeps a processor in the kernel for 60 ms, and no grace period of RCU ends
meanwhile: a system that boots waits for one whenever it moves a process to another cgroup. So a
host with such systems takes it as it is needed, too.
"""

import os

TAKEN = (1 << 20) * 208 + (1 << 18) * 128
"""Bytes of all entries of `flows` and `conns` (cext/switch/maps.bpf.h), as the kernel keeps them.
"""
SHARE = 32
"""They may be this part of the machine's memory."""
NO_PREALLOC = 1  # linux/bpf.h


def memory() -> int:
    """The machine's, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def flags(machine: int, boots: bool) -> dict[str, int]:
    """The two maps' flags on a machine with that many bytes of memory. boots: whether systems boot
    meanwhile. Pure."""
    found = 0 if machine >= TAKEN * SHARE and not boots else NO_PREALLOC
    return {"flows": found, "conns": found}
