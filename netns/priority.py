# SPDX-License-Identifier: Apache-2.0
"""A process that runs before others, with all its threads.

    come_first(-10)  the main thread's; children get normal priority
    keep_up()        another thread's: the main thread's priority

A thread that has the interpreter's lock while others have the processor keeps the main thread
waiting for both. So every thread has the same priority; and the lock changes hands often.
"""

import contextlib
import os
import sys
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
SWITCH = 0.0005
"""Seconds for which a thread keeps the interpreter's lock while another one wants it. Each call of
a thread into the kernel lets go of the lock, and may wait this long to have it again."""


def come_first(nice: int) -> None:
    """Run this thread before others, by a nice value (setpriority(2)). Children, and other threads
    before they `keep_up`, get normal priority (SCHED_RESET_ON_FORK, sched(7)). Without CAP_SYS_NICE
    nothing changes.

    With autogroups a nice value counts among the processes of one session, and the session's own
    value counts among sessions; so a session that is ours alone has it too (sched(7), "The
    autogroup feature")."""
    sys.setswitchinterval(SWITCH)
    _raise(nice)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(nice))


def keep_up() -> None:
    """Give the calling thread the main thread's priority, if that is let; its children do not get
    it either."""
    wanted = os.getpriority(os.PRIO_PROCESS, os.getpid())
    if wanted < 0:
        _raise(wanted)


def _raise(nice: int) -> None:
    """Of the calling thread: 0 is its number in both calls."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, nice)
