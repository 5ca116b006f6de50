# SPDX-License-Identifier: Apache-2.0
"""A terminal (pty(7)) with a person at it, who types and reads."""

import os
import pty
import select
import signal
import time
from collections.abc import Sequence


class Terminal:
    """A person at a terminal who runs one command. more: of its environment."""

    def __init__(self, argv: Sequence[str], **more: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(PS1="$ ", TERM="dumb", **more)
            os.execv(argv[0], list(argv))
        self.seen = ""
        self.status: int | None = None

    def expect(self, text: str, deadline: float = 10.0) -> str:
        """Read until `text` comes; what came before it."""
        end = time.monotonic() + deadline
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} did not come: {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                try:
                    self.seen += os.read(self.fd, 4096).decode()
                except OSError:
                    raise AssertionError(f"{text!r} did not come: {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait(self) -> int:
        """The exit status, as a shell has it."""
        while True:
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                break
            if not data:
                break
            self.seen += data.decode()
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
