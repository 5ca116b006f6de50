# SPDX-License-Identifier: Apache-2.0
"""seatclient.py in an OS, for tests of the seat and the screen."""

import os
import subprocess
from collections.abc import Callable

from help.programs import program
from help.waiting import until
from hostsim.vm import Vm


class SeatClient:
    """One client. What it says is in `lines`; `end` kills it."""

    def __init__(self, vm: Vm, colour: str | None = None, deadline: float = 30.0) -> None:
        self.deadline = deadline
        self._out = os.memfd_create("seatclient")  # its position is the client's: see `lines`
        words = () if colour is None else (colour,)
        self.process = vm.popen(
            program("seatclient", *words), stdin=subprocess.PIPE, stdout=self._out
        )
        self.heard("ready")

    @property
    def lines(self) -> list[str]:
        """All it said so far."""
        size = os.fstat(self._out).st_size
        whole, _, _ = os.pread(self._out, size, 0).decode().rpartition("\n")
        return whole.splitlines()

    def order(self, line: str) -> None:
        """Have it do this."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def asked(self, line: str) -> str:
        """Have it do this; the next line it says."""
        before = len(self.lines)
        self.order(line)
        until(lambda: len(self.lines) > before, self.deadline, f"an answer to {line}")
        return self.lines[before]

    def heard(self, line: str, times: int = 1) -> None:
        """Wait until it has said this line so often."""
        until(self.said(line, times), self.deadline, f"{line} {times} times")

    def said(self, line: str, times: int = 1) -> Callable[[], bool]:
        """Whether it has."""
        return lambda: self.lines.count(line) >= times

    def end(self) -> None:
        """Twice is harmless."""
        if self._out >= 0:
            self.process.close()
            os.close(self._out)
            self._out = -1
