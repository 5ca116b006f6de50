# SPDX-License-Identifier: Apache-2.0
"""A daemon as a service of systemd: what the manager is told, and how lines reach the journal.

    manager = Manager.of(os.environ)    takes its variables out of the environment
    manager.ready("host edge is up")    READY=1, and WATCHDOG=1 from the loop from then on
    manager.stopping()                  STOPPING=1
    manager.journal                     stderr is the journal's: `Lines` is its format
    unit(command)                       the text of hostsim@.service

Stands on sd_notify(3), sd_watchdog_enabled(3) and sd-daemon(3): a datagram to the socket that
NOTIFY_SOCKET names. Without that variable nothing is told. No message is waited for: a manager that
does not read loses it, and asks for none again.
"""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("hostsim.service")

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM")
"""Meant for the daemon, and for no program that it starts."""
BEATS = 2
"""WATCHDOG=1 in the time after which the manager ends the daemon, as sd_watchdog_enabled(3) has it.
"""
LEVELS = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
"""Priorities of syslog(3) by those of logging; what is worse is 2 (critical)."""
ENDING = (signal.SIGTERM, signal.SIGINT)
"""By which a manager, or a person, ends a daemon."""
ENDED_EARLY = "ended by a signal while the host was being built"
NAME = "hostsim@.service"
FOLDER = "/etc/hostsim"
"""Where the service looks for NAME.toml."""


class Manager:
    """Whoever started the daemon and wants to be told. journal: stderr leads to the journal.

    address: of its socket, a path or @ and an abstract name; "" for nobody
    beat: seconds between two WATCHDOG=1; None for none
    """

    def __init__(self, address: str = "", beat: float | None = None, journal: bool = False) -> None:
        self.journal = journal
        self._address = address
        self._beat = beat
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None

    @property
    def watched(self) -> bool:
        """Whether it ends a daemon that tells nothing for too long."""
        return self._beat is not None and bool(self._address)

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> "Manager":
        """The manager that these variables tell of; they are taken out. A value that is none counts
        as not there."""
        told = {name: environment.pop(name, "") for name in VARIABLES}
        address = told["NOTIFY_SOCKET"]
        if not address.startswith(("/", "@")):
            address = ""
        beat = None
        micro, pid = told["WATCHDOG_USEC"], told["WATCHDOG_PID"]
        if micro.isascii() and micro.isdigit() and int(micro) and pid in ("", str(os.getpid())):
            beat = int(micro) / 1e6 / BEATS
        return cls(address, beat, _is_stderr(told["JOURNAL_STREAM"]))

    def ready(self, status: str) -> None:
        """The host stands. To be called in the loop, which the watchdog is about from now on."""
        self._tell(f"READY=1\nSTATUS={status}")
        if self.watched:
            self._alive()

    def stopping(self) -> None:
        """The host is being taken down. The watchdog goes on: that may not hang either."""
        self._tell("STOPPING=1\nSTATUS=is being taken down")

    def close(self) -> None:
        """The last is told. Twice is harmless."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _alive(self) -> None:
        assert self._beat is not None
        self._tell("WATCHDOG=1")
        import asyncio  # who has no loop yet need not wait for it (ahead.py)

        self._timer = asyncio.get_running_loop().call_later(self._beat, self._alive)

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        if self._socket is None:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_UNIX, kind)
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with contextlib.suppress(OSError):  # nobody reads: nothing that the host could do about it
            self._socket.sendto(message.encode(), address)


class Lines(logging.Formatter):
    """Lines as the journal takes them from a service's stderr: each with its priority
    (sd-daemon(3), SyslogLevelPrefix=), and without the time, which the journal has."""

    def format(self, record: logging.LogRecord) -> str:
        return prefixed(super().format(record), LEVELS.get(record.levelno, 2))


def prefixed(text: str, priority: int) -> str:
    """Each line of the text with a priority of syslog(3)."""
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def _is_stderr(stream: str) -> bool:
    """Whether JOURNAL_STREAM, `device:inode`, is what stderr is (systemd.exec(5))."""
    try:
        here = os.fstat(2)
    except OSError:
        return False
    return stream == f"{here.st_dev}:{here.st_ino}"


def unit(command: str) -> str:
    """The text of hostsim@.service. command: the path of hostsim.

    The daemon itself is the service's process. What a killed one leaves is removed before the next
    start, and after the last. VMs have groups of their own, which are not the service's.
    """
    return f"""\
[Unit]
Description=hostsim host %i
Documentation=man:hostsim(1)
After=network.target
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStartPre=-{command} clean
ExecStart={command} up --foreground %i
ExecStopPost=-{command} clean
ConfigurationDirectory=hostsim
WorkingDirectory={FOLDER}
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2
WatchdogSec=30
TimeoutStartSec=150
TimeoutStopSec=90
KillMode=mixed
LimitNOFILE=infinity

[Install]
WantedBy=multi-user.target
"""
