"""A flip as its users feel it: from an agent's message to the first event in the new OS.

Ours: a host of two OSes and N devices, brought up by `hostsim up`; a small C program in each OS
opens the nodes and asks for the flips. The peer: the same program as two clients of a seatd that
hold the same N devices by libseat, switching between each other. All devices move by themselves
all the time (`MOVES` a second each), so the first event comes as soon as it can be read.

`leaked`, `doubled`, `lost`: events, in both modes together, of numbered ones that come while the
OSes flip. leaked: read in both OSes; doubled: read twice in one; lost: sent while a flip was
complete and its reader had the device, and not read there. Needs /dev/uinput.
"""

import argparse
import contextlib
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cext import HERE
from hostsim.bench import common
from hostsim.errors import HostsimError
from hostsim.model import Json
from netns.evdevices import Feeder, uinput_available

CASES = tuple(f"{mode}/{count}" for count in (1, 8) for mode in ("mirror", "direct"))
LOSSES = ("leaked", "doubled", "lost")
FLIPS = 50  # of one run
MOVES = 500  # a second, over all devices
HOST = "bench-flip"
NAME = "hostsim bench flip"
CLIENT = HERE / "hostsim-bench-client"
DEADLINE = 30.0
SEATD_SOCKET = Path("/run/seatd.sock")  # its only one; one that runs already is left alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench flip`."""
    names = [f"{case}/{percentile}" for case in CASES for percentile in ("p50", "p99")]
    common.add_arguments(parser, [*names, *LOSSES])
    parser.add_argument("--flips", type=int, default=FLIPS, metavar="N", help="flips of a run")


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    if not uinput_available():
        raise HostsimError("bench flip", "this kernel has no /dev/uinput", "use scripts/testvm")
    flips: int = options.flips
    cases = []
    for name in CASES:
        mode, _, count = name.partition("/")
        for percentile in (50, 99):
            peers: dict[str, common.Measure] = {}
            if shutil.which("seatd") and not SEATD_SOCKET.exists():
                peers["seatd"] = _Run("seat", int(count), flips, percentile)
            ours = _Run(mode, int(count), flips, percentile)
            cases.append(common.Case(f"{name}/p{percentile}", "ms", ours, peers))
    counted = _Losses(flips)
    cases += [common.Case(kind, "events", counted.measure(kind)) for kind in LOSSES]
    return common.run("flip", cases, options)


class _Run:
    """One run of one side: a measure of `common`."""

    def __init__(self, side: str, devices: int, flips: int, percentile: int) -> None:
        self._side, self._devices, self._flips = side, devices, flips
        self._percentile = percentile

    def __call__(self) -> float:
        with contextlib.ExitStack() as stack:
            feeders = [Feeder(f"{NAME} {number}") for number in range(self._devices)]
            for feeder in feeders:
                stack.callback(feeder.close)
            side = _seat(feeders) if self._side == "seat" else _host(self._side)
            clients = stack.enter_context(side)
            stack.enter_context(_moving(feeders))
            took = [clients.flip(number) for number in range(self._flips + 2)][2:]
        if self._flips < 2:
            return took[0]
        return statistics.quantiles(took, n=100, method="inclusive")[self._percentile - 1]


class _Losses:
    """What became of numbered events; one run serves the three cases."""

    def __init__(self, flips: int) -> None:
        self._flips = flips
        self._found: dict[str, list[float]] = {}

    def measure(self, kind: str) -> common.Measure:
        """The measure of one case."""

        def run() -> float:
            if not self._found.get(kind):
                for name, value in self._run().items():
                    self._found.setdefault(name, []).append(value)
            return self._found[kind].pop(0)

        return run

    def _run(self) -> dict[str, float]:
        total = dict.fromkeys(LOSSES, 0.0)
        for mode in ("mirror", "direct"):
            with contextlib.ExitStack() as stack:
                feeder = Feeder(f"{NAME} 0")
                stack.callback(feeder.close)
                pair = stack.enter_context(_host(mode))
                moving = stack.enter_context(_moving([feeder]))
                due: tuple[list[int], list[int]] = ([], [])
                for number in range(self._flips):
                    pair.flip(number)
                    begin = moving[0] + 2  # one may have been on its way
                    while moving[0] < begin + 2:
                        os.sched_yield()
                    due[1 - number % 2].extend(range(begin, moving[0]))
                read = pair.numbers(settled=moving[0])
                total["leaked"] += len(set(read[0]) & set(read[1]))
                total["doubled"] += sum(len(side) - len(set(side)) for side in read)
                total["lost"] += sum(
                    len(set(want) - set(side)) for want, side in zip(due, read, strict=True)
                )
        return total


class Client:
    """hostsim-bench-client, by its pipes."""

    def __init__(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=env
        )
        self.expect("ready")

    def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def waits(self, seconds: float) -> bool:
        """Whether a line can be read within that time."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def expect(self, word: str) -> int:
        """The time in ns of the next line, which begins with `word`. Raises HostsimError."""
        out: IO[str] | None = self._process.stdout
        assert out is not None
        if not self.waits(DEADLINE):
            raise HostsimError("bench flip", f"no {word} within {DEADLINE:g} s")
        words = out.readline().split()
        if len(words) != 2 or words[0] != word:
            raise HostsimError("bench flip", f"{words} instead of {word}")
        return int(words[1])

    def numbers(self) -> list[int]:
        """The numbers of all events it has read."""
        self.tell("numbers")
        assert self._process.stdout is not None
        return [int(word) for word in self._process.stdout.readline().split()[1:]]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class _Pair:
    """Two clients that flip to each other; the first has the devices. names: what each is asked
    for by."""

    def __init__(self, clients: tuple[Client, Client], names: tuple[str, str]) -> None:
        self._clients, self._names = clients, names

    def flip(self, number: int) -> float:
        """Milliseconds from the message to the first event readable on the other side."""
        old, new = self._clients[number % 2], self._clients[1 - number % 2]
        new.tell("fresh")
        old.tell(f"switch {self._names[1 - number % 2]}")
        asked = old.expect("asked")
        return (new.expect("first") - asked) / 1e6

    def numbers(self, settled: int) -> tuple[list[int], list[int]]:
        """What each has read, once one has read the event `settled` or a later one."""
        while True:
            read = self._clients[0].numbers(), self._clients[1].numbers()
            if max((*read[0], *read[1])) >= settled:
                return read


@contextlib.contextmanager
def _moving(feeders: list[Feeder]) -> Iterator[list[int]]:
    """Numbered moves; gives a list of one: the last number that is sent, or about to be."""
    stop = threading.Event()
    last = [0]

    def move() -> None:
        while not stop.wait(1 / MOVES):
            last[0] += 1
            for feeder in feeders:
                feeder.move([last[0]])

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield last
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _host(mode: str) -> Iterator[_Pair]:
    command = str(Path(sys.executable).with_name("hostsim"))
    with (
        tempfile.TemporaryDirectory(prefix="hostsim-bench-") as folder,
        contextlib.ExitStack() as s,
    ):
        file = Path(folder) / "host.toml"
        file.write_text(
            f'[host]\nname = "{HOST}"\n[[vm]]\nname = "a"\n[vm.os]\n[[vm]]\nname = "b"\n[vm.os]\n'
            f'[[device]]\nmatch = {{ name = "{NAME} *" }}\nmode = "{mode}"\n'
        )
        _checked([command, "up", str(file)])
        s.callback(_checked, [command, "down", "--host", HOST])
        made = []
        for name in ("a", "b"):
            argv = [command, "exec", "--host", HOST, name, "--", str(CLIENT), "agent"]
            made.append(Client(argv))
            s.callback(made[-1].close)
        yield _Pair((made[0], made[1]), ("a", "b"))


@contextlib.contextmanager
def _seat(feeders: list[Feeder]) -> Iterator[_Pair]:
    with contextlib.ExitStack() as s:
        env = {**os.environ, "SEATD_VTBOUND": "0", "LIBSEAT_BACKEND": "seatd"}
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
        yield _Pair((made[2], made[1]), ("2", "1"))


def _checked(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise HostsimError(f"bench flip: {' '.join(argv[1:])}", done.stderr.strip())
