# SPDX-License-Identifier: Apache-2.0
"""A process that runs before others, with all its threads.

    come_first(-10)  its threads; children get normal priority
    keep_up()        a thread that begins later: the main thread's priority
    stay_behind()    a thread that is to have the priority of any other process
    share_often()    the interpreter's lock changes hands often

A thread that has the interpreter's lock while others have the processor keeps the main thread
waiting for both. So every thread has the same priority, but for those of C, which have no part in
the lock and may need more, and those that are to stay behind.
"""

import contextlib
import os
import sys
import threading
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
SWITCH = 0.0005
"""Seconds for which a thread keeps the interpreter's lock while another one wants it. Each call of
a thread into the kernel lets go of the lock, and may wait this long to have it again."""


def share_often() -> None:
    """See SWITCH."""
    sys.setswitchinterval(SWITCH)


_behind: set[int] = set()
"""Threads that stay behind, by their number in the kernel: of what ends, a number may be another's
later, which then does not come first. Few are in it."""


def stay_behind() -> None:
    """Have the calling thread left out if the process comes first."""
    _behind.add(threading.get_native_id())


def come_first(nice: int) -> None:
    """Run this process before others, by a nice value (setpriority(2)): all threads that run as its
    main thread did. Who has a priority of its own keeps that. Children, and threads that begin
    later, before they `keep_up`, get normal priority (SCHED_RESET_ON_FORK, sched(7)). Without
    CAP_SYS_NICE nothing changes.

    With autogroups a nice value counts among the processes of one session, and the session's own
    value counts among sessions; so a session that is ours alone has it too (sched(7), "The
    autogroup feature")."""
    before = os.getpriority(os.PRIO_PROCESS, os.getpid())
    for number in set(map(int, os.listdir("/proc/self/task"))) - _behind:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            policy = os.sched_getscheduler(number) & ~os.SCHED_RESET_ON_FORK
            if policy == os.SCHED_OTHER and os.getpriority(os.PRIO_PROCESS, number) == before:
                _raise(nice, number)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(nice))


def keep_up() -> None:
    """Give the calling thread the main thread's priority, if that is let; its children do not get
    it either."""
    wanted = os.getpriority(os.PRIO_PROCESS, os.getpid())
    if wanted < 0:
        _raise(wanted)


def _raise(nice: int, number: int = 0) -> None:
    """Of a thread, by its number in the kernel; 0: the calling one. Raises ProcessLookupError."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(number, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, number, nice)
