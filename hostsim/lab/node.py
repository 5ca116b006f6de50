# SPDX-License-Identifier: Apache-2.0
"""One VM or endpoint of a host: programs, sockets and scapy in it.

    client = host["client"]
    client.run("ip", "addr").stdout
    with client.popen("iperf3", "-s") as server: ...
    client.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.scapy.sr1(IP(dst="198.18.0.20") / ICMP(), timeout=2)

All of it asks the daemon who the VM is now, if the one that is known has died. Any thread may use
it.
"""

import contextlib
import functools
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cext.ns import netns
from hostsim import protocol
from hostsim.cli.target import opened, refusal
from hostsim.cli.written import last_lines
from hostsim.errors import HostsimError
from hostsim.lab.answers import NodeStatus, read
from hostsim.lab.place import Place
from hostsim.lab.program import IN_WORDS, CommandError, Completed, Kept, Program, command
from hostsim.model import Direction
from netns import process
from netns.process import Process, Stream

if TYPE_CHECKING:
    from hostsim.lab.packets import Scapy

PIPE = subprocess.PIPE
PAUSE = 0.01
"""Seconds between two looks at a VM's sockets: nothing tells."""
LISTENS = {"tcp": "0A", "udp": "07"}
"""The state in /proc/PID/net of a socket that waits for somebody (proc(5))."""

Ask = Callable[..., Any]


class Node:
    """A VM or an endpoint of a host that is up. Made by `Host`."""

    def __init__(self, name: str, host: str, ask: Ask) -> None:
        """ask: a question to the host's daemon, `ask(op, **arguments)`."""
        self.name = name
        self._host = host
        self._ask = ask
        self._lock = threading.Lock()
        self._place: Place | None = None
        self._programs: set[Program] = set()

    def __repr__(self) -> str:
        return f"<{self.name}>"

    # -- programs ---------------------------------------------------------------------------------

    def run(
        self,
        *argv: str | os.PathLike[str],
        check: bool = False,
        timeout: float | None = 60.0,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Completed:
        """Run a program to its end.

        check: a returncode other than 0 raises CommandError.
        timeout: in seconds, for CommandError and the program's end; None: none.
        input: its standard input.
        env: its environment; None: of ours what `hostsim exec` passes on.
        cwd: its directory; None: ours. In a VM that has no such directory it is /.
        Raises HostsimError if it cannot start, or the VM is gone.
        """
        words = command(argv)
        given = input.encode() if isinstance(input, str) else input
        told = Kept(given) if given is not None else None
        try:
            stdin = None if told is None else told.fd
            with self.popen(*words, stdin=stdin, env=env, cwd=cwd) as program:
                try:
                    code: int | None = program.wait(timeout)
                except TimeoutError:
                    code = None
                program.close()
        finally:
            if told is not None:
                told.close()
        where = f"{words[0]} in {self.name}"
        if code is None:
            why = f"still ran after {timeout:g} s, and was ended"
            raise CommandError(where, why, None, program.output, program.errors)
        if check and code:
            why = f"ended with status {code}" if code > 0 else f"was ended by signal {-code}"
            raise CommandError(where, why, code, program.output, program.errors)
        return Completed(tuple(words), code, program.output, program.errors)

    def popen(
        self,
        *argv: str | os.PathLike[str],
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Program:
        """Start a program; with the `with` block, or the host, it ends.

        stdin: None for nothing, else as subprocess.Popen has it (PIPE, DEVNULL, a descriptor).
        stdout, stderr: None to keep what it writes (`output`, `errors`), else the same.
        env, cwd: as for `run`. Raises HostsimError if it cannot start, or the VM is gone.
        """
        words = command(argv)
        told = dict(process.environment(os.environ) if env is None else env)
        if env is None:  # hostsim-agent is found there without its path
            ours = str(Path(sys.executable).parent)
            told["PATH"] = os.pathsep.join((told.get("PATH", process.DEFAULT_PATH), ours))
        kept = (Kept(), Kept())
        try:
            started = self._start(
                words,
                env=told,
                cwd=os.fspath(cwd) if cwd is not None else os.getcwd(),
                stdin=stdin,
                stdout=kept[0].fd if stdout is None else stdout,
                stderr=kept[1].fd if stderr is None else stderr,
            )
        except BaseException:
            for one in kept:
                one.close()
            raise
        program = Program(started, self.name, *kept, self._programs.discard)
        self._programs.add(program)
        return program

    def _start(self, words: list[str], **options: Any) -> Process:
        told = self._ask("target", vm=self.name)
        try:
            with opened(told) as target:
                return process.start(target, words, **options)
        except OSError as error:
            told = refusal(error, self.name, words[0])
            if len(words) == 1 and " " in words[0] and not told.hint:
                told = type(told)(told.what, told.why, IN_WORDS)
            raise told from None

    def status(self) -> NodeStatus:
        """How it stands: its state, addresses, process 1. Raises HostsimError if the host has it no
        more."""
        found = self._ask("status")
        for row in (*found["vms"], *found["endpoints"]):
            if row["name"] == self.name:
                return read(NodeStatus, row)
        raise HostsimError(self.name, f"no VM or endpoint of host {self._host}")

    def restart(self) -> None:
        """End it, dead or alive, and make it anew. Programs and sockets in it end. Raises
        HostsimError."""
        self._ask("restart", vm=self.name)

    def logs(self, lines: int = 100) -> str:
        """The last lines that its program (`run`, `nf`, an OS) and its hooks have written. Raises
        HostsimError if it has none."""
        self._ask("target", vm=self.name)  # says what became of it
        return last_lines(protocol.folder(self._host), self.name, lines).decode(errors="replace")

    def link(
        self,
        *,
        direction: Direction = "both",
        delay: str = "",
        jitter: str = "",
        loss: float | str = 0.0,
        duplicate: float | str = 0.0,
        reorder: float | str = 0.0,
        corrupt: float | str = 0.0,
        rate: str = "",
        seed: int = 0,
        down: bool = False,
    ) -> None:
        """Impair what goes between it and the switch, as [[link]] does; without arguments, no
        longer. direction: `in` is to it. loss and the like: shares of packets, 0.01 or "1%".
        Raises HostsimError."""
        said = {
            "delay": delay,
            "jitter": jitter,
            "loss": loss,
            "duplicate": duplicate,
            "reorder": reorder,
            "corrupt": corrupt,
            "rate": rate,
            "seed": seed,
            "down": "true" if down else "",
        }
        words = [f"{key}={_word(value)}" for key, value in said.items() if value]
        self._ask("link", of=self.name, direction=direction, words=words)

    def wait_for_port(
        self, port: int, proto: Literal["tcp", "udp"] = "tcp", within: float = 5.0
    ) -> None:
        """Wait until a socket of the VM listens at a port (UDP: is bound to it). Raises
        HostsimError after `within` seconds."""
        if not isinstance(port, int) or proto not in LISTENS:
            why = f"port {port!r} of {proto!r} is none"
            hint = f"a number, and one of {', '.join(LISTENS)}"
            raise HostsimError(f"{self.name}: wait_for_port", why, hint)
        deadline = time.monotonic() + within
        while port not in self._listening(proto):
            if time.monotonic() > deadline:
                raise HostsimError(
                    f"{self.name}: {proto} port {port}", f"nothing listens after {within:g} s"
                )
            select.select([], [], [], PAUSE)

    def _listening(self, proto: str) -> set[int]:
        ports = set()
        for name in (proto, f"{proto}6"):
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                lines = Path(f"/proc/{self.place().pid}/net/{name}").read_text().splitlines()
                rows = [line.split() for line in lines[1:]]
                ports |= {int(r[1].rpartition(":")[2], 16) for r in rows if r[3] == LISTENS[proto]}
        return ports

    # -- sockets ----------------------------------------------------------------------------------

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> socket.socket:
        """A socket of the VM's network, in this process, as `socket.socket` makes one; the caller
        closes it. Raises HostsimError if the VM is gone, and OSError."""
        with self._lock:
            return netns.socket_at(self._placed().fd, family, type, proto)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in the VM's network: for libraries that open sockets by themselves.
        It must not start threads meanwhile. Raises HostsimError if the VM is gone."""
        with self._lock:
            fd = os.dup(self._placed().fd)
        try:
            with netns.inside(fd):
                yield
        finally:
            os.close(fd)

    @functools.cached_property
    def scapy(self) -> "Scapy":
        """scapy in the VM: see hostsim/lab/packets.py. Raises HostsimError if there is none."""
        from hostsim.lab.packets import Scapy

        return Scapy(self.place)

    # -- what it rests on -------------------------------------------------------------------------

    def place(self) -> Place:
        """Where the VM is now. Raises HostsimError if it is gone."""
        with self._lock:
            return self._placed()

    def _placed(self) -> Place:
        if self._place is not None and self._place.alive:
            return self._place
        if self._place is not None:
            self._place.close()
            self._place = None
        told = self._ask("target", vm=self.name)
        try:
            self._place = Place(told)
        except OSError as error:
            raise refusal(error, self.name, "its network") from None
        return self._place

    def close(self) -> None:
        """End all its programs and let go of the VM. Twice is harmless."""
        for program in list(self._programs):
            program.close()
        with self._lock:
            if self._place is not None:
                self._place.close()
                self._place = None
        scapy = self.__dict__.pop("scapy", None)
        if scapy is not None:
            scapy.close()


def _word(value: float | str) -> str:
    """As a command has it: no exponent."""
    return f"{value:.9f}" if isinstance(value, float) else str(value)
