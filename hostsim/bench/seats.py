# SPDX-License-Identifier: Apache-2.0
"""Two clients that hold the same input devices by turns, for `hostsim bench flip`: OSes of a host,
or clients of a seatd. And the devices, which move by themselves.

The programs are all hostsim-bench-client (cext/bench/client.c), spoken to by pipes.
"""

import contextlib
import os
import select
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from cext import HERE
from hostsim import protocol
from hostsim.bench import common
from hostsim.errors import HostsimError
from netns.evdevices import Feeder

HOST = "bench-flip"
NAME = "hostsim bench flip"
CLIENT = HERE / "hostsim-bench-client"
DEADLINE = 30.0
SEATD_SOCKET = Path("/run/seatd.sock")  # its only one; one that runs already is left alone


class Client:
    """hostsim-bench-client, by its pipes. keep: descriptors that it inherits."""

    def __init__(
        self, argv: Sequence[str], env: dict[str, str] | None = None, keep: Sequence[int] = ()
    ) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=env,
            pass_fds=keep,
        )
        self.expect("ready")

    @property
    def pid(self) -> int:
        """Of the program, or of the `hostsim exec` that started it."""
        return self._process.pid

    def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def waits(self, seconds: float) -> bool:
        """Whether a line can be read within that time."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def expect(self, word: str) -> int:
        """The number in its next line, which begins with `word`. Raises HostsimError."""
        out: IO[str] | None = self._process.stdout
        assert out is not None
        if not self.waits(DEADLINE):
            raise HostsimError("bench flip", f"no {word} within {DEADLINE:g} s")
        words = out.readline().split()
        if len(words) != 2 or words[0] != word:
            raise HostsimError("bench flip", f"{words} instead of {word}")
        return int(words[1])

    def ask(self, word: str) -> int:
        """Its answer to a line. Raises HostsimError."""
        self.tell(word)
        return self.expect(word)

    def gaps(self) -> list[range]:
        """What may have been in a buffer of its that overflowed; nothing if it had read nothing
        before: then nothing was due."""
        ends = self.values("gaps")
        return [range(a + 1, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a > 0]

    def values(self, word: str) -> list[int]:
        """Its answer to a line, if that is many numbers: of all events it has read."""
        self.tell(word)
        assert self._process.stdout is not None
        return [int(word) for word in self._process.stdout.readline().split()[1:]]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Pair:
    """Two clients that flip to each other; the first has the devices. names: what each is asked
    for by."""

    def __init__(self, clients: tuple[Client, Client], names: tuple[str, str]) -> None:
        self.clients, self._names = clients, names
        self.closing = contextlib.ExitStack()
        self._connected: _Owner | None = None

    def flip(self, number: int) -> float:
        """Milliseconds from the message to the first event readable on the other side."""
        old, new = self.clients[number % 2], self.clients[1 - number % 2]
        new.tell("fresh")
        old.tell(f"switch {self._names[1 - number % 2]}")
        asked = old.expect("asked")
        return (new.expect("first") - asked) / 1e6

    def flip_as_owner(self, number: int) -> None:
        """The same for OSes, asked for by the machine's owner, who may as often as he likes;
        returns when the flip is complete and the other side has read an event."""
        new = self.clients[1 - number % 2]
        new.tell("fresh")
        self._owner().flip(self._names[1 - number % 2])
        new.expect("first")

    def _owner(self) -> "_Owner":
        if self._connected is None:
            self._connected = _Owner()
            self.closing.callback(self._connected.close)
        return self._connected


class _Owner:
    """A connection to the daemon that stays."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(protocol.folder(HOST) / "control.sock"))
        self._lines = self._socket.makefile("rb")

    def flip(self, name: str) -> None:
        """Raises HostsimError."""
        self._socket.sendall(protocol.encode({"op": "flip", "os": name, "by": NAME}))
        protocol.result(protocol.decode(self._lines.readline(protocol.LINE_MAX)))

    def close(self) -> None:
        """End it."""
        self._lines.close()
        self._socket.close()


class Mover(Client):
    """Works the devices from a process of its own: moves numbered from 1, `rate` a second. most: at
    once, when it is late; with 1, what is late is left out."""

    def __init__(self, feeders: Sequence[Feeder], rate: int, most: int = 1) -> None:
        fds = [feeder.fileno() for feeder in feeders]
        super().__init__([str(CLIENT), "feed", str(rate), str(most), *map(str, fds)], keep=fds)

    def sent(self) -> int:
        """The last move."""
        return self.ask("sent")

    def calm(self) -> int:
        """End it, with no button pressed; the last move."""
        self.tell("calm")
        return self.expect("sent")


@contextlib.contextmanager
def two_oses(device: str) -> Iterator[dict[str, list[str]]]:
    """A host is up with two OSes, a and b; for each the words that run a command in it, before the
    command's own. device: lines of a [[device]]."""
    oses = "".join(f'[[vm]]\nname = "{name}"\n[vm.os]\n' for name in "ab")
    with tempfile.TemporaryDirectory(prefix="hostsim-bench-") as folder:
        file = Path(folder) / "host.toml"
        file.write_text(f'[host]\nname = "{HOST}"\n{oses}[[device]]\n{device}\n')
        checked(common.hostsim("up", str(file)))
        try:
            yield {name: common.hostsim("exec", "--host", HOST, name, "--") for name in "ab"}
        finally:
            checked(common.hostsim("down", "--host", HOST))


@contextlib.contextmanager
def oses(mode: str) -> Iterator[Pair]:
    """Two OSes of a host that is brought up for them, with all `Feeder`s of our name."""
    device = f'match = {{ name = "{NAME} *" }}\nmode = "{mode}"'
    with two_oses(device) as inside, contextlib.ExitStack() as s:
        made = []
        for words in inside.values():
            made.append(Client([*words, str(CLIENT), "agent"]))
            s.callback(made[-1].close)
        pair = Pair((made[0], made[1]), ("a", "b"))
        with pair.closing:
            yield pair


@contextlib.contextmanager
def seatd_runs() -> Iterator[dict[str, str]]:
    """A seatd, which owns the machine's seat; the environment for its clients."""
    env = {**os.environ, "SEATD_VTBOUND": "0", "LIBSEAT_BACKEND": "seatd"}
    with contextlib.ExitStack() as s:
        ready, tell = os.pipe()
        s.callback(os.close, ready)
        seatd = subprocess.Popen(
            ["seatd", "-l", "silent", "-n", str(tell)], env=env, pass_fds=(tell,)
        )
        os.close(tell)
        s.callback(SEATD_SOCKET.unlink, missing_ok=True)
        s.callback(seatd.wait)
        s.callback(seatd.kill)
        if not select.select([ready], [], [], DEADLINE)[0] or not os.read(ready, 1):
            raise HostsimError("bench flip", "seatd does not start")
        yield env


@contextlib.contextmanager
def seat(feeders: Sequence[Feeder]) -> Iterator[Pair]:
    """Two clients of a seatd."""
    with contextlib.ExitStack() as s:
        env = s.enter_context(seatd_runs())
        nodes = [feeder.node for feeder in feeders]
        made = []
        for _ in range(3):  # seatd takes no switch to its session 0: nobody measured is it
            made.append(Client([str(CLIENT), "seat", *nodes], env))
            s.callback(made[-1].close)
        made[0].close()  # then its youngest one becomes active
        made[2].tell("fresh")
        for _ in range(round(DEADLINE / 0.01)):  # until it is the active one
            feeders[0].move([1])
            if made[2].waits(0.01):
                break
        made[2].expect("first")
        yield Pair((made[2], made[1]), ("2", "1"))


def checked(argv: list[str]) -> None:
    """Run it. Raises HostsimError if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise HostsimError(f"bench flip: {' '.join(argv[1:])}", done.stderr.strip())
