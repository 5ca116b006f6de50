# SPDX-License-Identifier: Apache-2.0
"""An operating system as it boots and ends (`boot = true`): its process 1 is its root's own init.

    booting = Booting(...)      what its process 1 is started with: a console, a socket for its word
    after(status)               what becomes of an OS whose process 1 has ended; pure
    halt(...)                   have it shut down, and wait for HALT seconds at most

systemd is told that it is in a container as its container interface has it
(https://systemd.io/CONTAINER_INTERFACE): `container`, `container_uuid`, /dev/console is a terminal,
and READY=1 comes by NOTIFY_SOCKET once its jobs are done (sd_notify(3)). What it writes to its
console, with its journal, goes to the VM's log. Another init is taken to be ready when it runs.
"""

import contextlib
import os
import select
import signal
import socket
import time
import uuid
from pathlib import Path
from typing import Literal

from cext.vm import lower, spawn
from hostsim.errors import HostsimError
from netns import freezer, process

DEADLINE = 90.0
"""Seconds that an OS may take from its start until it is ready."""
HALT = 15.0
"""Seconds that an OS may take to shut down."""
EXEC = 2.0
"""Seconds that an init may take to have its program, once its process runs."""
INIT = "/sbin/init"
NOTIFY = "/run/hostsim/notify"
"""Where process 1 says that it is ready (HS_BOOT_NOTIFY in cext/vm/spawn.h)."""
ARGUMENTS = ("systemd.journald.forward_to_console=1", "systemd.show_status=0")
"""What systemd reads from its command line in a container, in place of the kernel's."""
SHUT_DOWN = signal.SIGRTMIN + 3
"""To systemd: halt.target (systemd(1))."""
MESSAGE_MAX = 4096
ENDED = "has ended before it was ready"
LINES = 8
"""Last lines of its log in the error of an OS that is not ready."""

_IDS = uuid.UUID("5f0a8f8e-57a4-4b0c-9d0b-6d1c5e0c3f11")

Next = Literal["down", "again", "failed"]


def after(status: int | None) -> Next:
    """What an OS wanted whose process 1 has ended with this status (-N: by signal N): to be down
    (`poweroff`: systemd ends with 0), to be started again (`reboot`: SIGSYS, see HS_FILTER_BOOT in
    cext/vm/filter.h), or nothing: it failed. Pure."""
    if status == 0:
        return "down"
    return "again" if status == -signal.SIGSYS else "failed"


class Booting:
    """The console and the socket of one boot. Owns its descriptors until `close`."""

    def __init__(self, host: str, name: str) -> None:
        """Raises OSError."""
        with contextlib.ExitStack() as undo:

            def kept(fd: int) -> int:
                undo.callback(os.close, fd)
                return fd

            master, slave = spawn.open_terminal("/dev/pts/ptmx")
            self.master, self._slave = kept(master), kept(slave)
            self._tree = kept(lower.again(slave, "the console"))
            self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            undo.callback(self.notify.close)
            self._closing = undo.pop_all()
        machine = uuid.uuid5(_IDS, f"{host}/{name}")
        self._env = {
            "container": "hostsim",
            "container_uuid": str(machine),
            "NOTIFY_SOCKET": NOTIFY,
            "PATH": process.DEFAULT_PATH,
            "HOME": "/root",
            "TERM": "dumb",
        }

    def spec(self, owner: int, size: str) -> spawn.Boot:
        """What spawn_vm takes. owner: the VM's user 0 outside. Raises OSError."""
        os.fchown(self._slave, owner, owner + spawn.TTY)
        console = (self._slave, self._tree)
        return spawn.Boot((INIT, *ARGUMENTS), self._env, console, self.notify.fileno(), size)

    def close(self) -> None:
        """Twice is harmless."""
        self._closing.close()


def is_systemd(pid: int) -> bool:
    """Whether process 1 of a VM is. Its exec may still be under way: the kernel tells who waits for
    it (CLONE_VFORK) a moment before the process has its new program, and shows ours until then.
    Waits for that moment, EXEC seconds at most. One that has ended is not."""
    program = Path(f"/proc/{pid}/exe")
    deadline = time.monotonic() + EXEC
    try:
        while program.samefile("/proc/self/exe") and time.monotonic() < deadline:
            select.poll().poll(1)  # no event tells when
        return program.readlink().name == "systemd"
    except OSError:
        return False


def not_up(name: str, why: str, last: list[str]) -> HostsimError:
    """The error of an OS that is not up. last: the last lines of what it wrote."""
    said = " | ".join(last) or "it has written nothing"
    return HostsimError(f"VM {name}", f"its init {why}: {said}")


def last_words(master: int) -> list[str]:
    """The last lines of a console that nobody has read, once all have ended who had it open."""
    os.set_blocking(master, False)
    text = b""
    with contextlib.suppress(OSError):
        while data := os.read(master, MESSAGE_MAX):
            text = (text + data)[-MESSAGE_MAX:]
    lines = (line.strip() for line in text.decode(errors="replace").splitlines())
    return [line for line in lines if line][-LINES:]


def halt(pidfd: int, group: Path, systemd: bool) -> None:
    """See above. pidfd: process 1; group: its v2 directory. What is left is killed by who asked."""
    if systemd:
        freezer.thaw(group)
        signal.pidfd_send_signal(pidfd, SHUT_DOWN)
        process.wait_end(pidfd, HALT)
