# SPDX-License-Identifier: Apache-2.0
"""A capture that is on, into a file: what it writes, what it misses, what a path is left with.

    captured/PATH   million packets a second that are in the file
    lost/PATH       packets of a run that it could not keep up with, as it says itself
    frames/PATH     million frames of 64 bytes a second by the path; peer: `off`, nobody captures

PATH: `switch`, where each frame is captured twice (where it leaves, and where it arrives), and
`veth`, a direct link, where it is once. Frames come by one thread of a tester in the kernel
(cext/bench/tester.h) as fast as the path takes them, so that the programs of the capture slow them
down; the capture is a process of its own. `--file` is where the file is for a run's time: a disk,
or memory. What a capture costs that is off: `hostsim bench chain --case 2/ring-tapped`.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from hostsim.bench import common
from hostsim.bench.load import PORT, Load
from hostsim.bench.rig import DEADLINE, Ours, stream
from hostsim.capture import capture
from hostsim.capture.source import Source
from hostsim.errors import HostsimError
from hostsim.model import Json

PATHS = {"switch": "never", "veth": "auto"}
"""With the `bypass` of the route."""
KINDS = {"captured": "Mpps", "lost": "packets", "frames": "Mpps"}
NAMES = [f"{kind}/{path}" for path in PATHS for kind in KINDS]
FILE = "/var/tmp/hostsim-bench.pcapng"
WINDOW = 256  # frames that are on their way at a time
SECONDS = 5.0


@dataclass(frozen=True)
class Taken:
    """What one run found."""

    captured: float
    lost: float
    frames: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench capture`."""
    common.add_arguments(parser, NAMES)
    parser.add_argument("--file", default=FILE, help=f"default {FILE}; removed at the end")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="default 5")


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    with contextlib.ExitStack() as closing:
        load = Load()
        closing.callback(load.close)
        cases = []
        for path, bypass in PATHS.items():
            if options.case and not any(name.endswith(f"/{path}") for name in options.case):
                continue
            rig = Ours(f"bench-{path}", _route(bypass))
            closing.callback(rig.close)
            load.join(rig)
            stream(rig, 22, 0, 1000, 50)  # neighbours, the direct link
            for _ in range(2):
                load.run(rig, 1, WINDOW)
                rig.pump()
            runs = Runs(rig, load, options.file, options.seconds)
            for kind, unit in KINDS.items():
                peers = {"off": runs.without} if kind == "frames" else {}
                ours = partial(runs.measure, kind)
                cases.append(common.Case(f"{kind}/{path}", unit, ours, peers))
        return common.run("capture", cases, options)


def _route(bypass: str) -> str:
    match = f'{{ proto = "udp", dport = [9000, {PORT}] }}'
    return f'[[route]]\nmatch = {match}\nthrough = ["a", "b"]\nbypass = "{bypass}"\n'


class Runs:
    """Of one path. Each run gives all kinds: one is asked for, the others kept until they are."""

    def __init__(self, rig: Ours, load: Load, file: str, seconds: float) -> None:
        self._rig, self._load, self._file, self._ms = rig, load, file, round(seconds * 1000)
        self._kept: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def measure(self, kind: str) -> float:
        """In the unit of the kind. Raises HostsimError, OSError."""
        if not self._kept[kind]:
            found = self._run()
            for name, kept in self._kept.items():
                kept.append(getattr(found, name))
        return self._kept[kind].pop(0)

    def without(self) -> float:
        """Frames while nobody captures."""
        done = self._load.run(self._rig, self._ms, WINDOW)
        self._rig.pump()
        return done.got / done.seconds / 1e6

    def _run(self) -> Taken:
        with capturing(self._rig.dataplane.sight(), self._file) as told:
            done = self._load.run(self._rig, self._ms, WINDOW)
        self._rig.pump()
        written, lost = told
        return Taken(written / done.seconds / 1e6, lost, done.got / done.seconds / 1e6)


@contextlib.contextmanager
def capturing(answer: Json, file: str) -> Iterator[list[int]]:
    """A capture by a process of its own into a file, which is gone afterwards; packets written and
    lost, once it has ended. answer: Dataplane.sight. Raises HostsimError."""
    words = [sys.executable, "-P", "-m", "hostsim.bench.capture", json.dumps(answer), file]
    told: list[int] = []
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise HostsimError("bench capture", "the capture did not begin")
            yield told
            process.send_signal(signal.SIGINT)
            said = process.stdout.readline()
            if process.wait(DEADLINE) or not said:
                raise HostsimError("bench capture", "the capture did not end well")
            told += json.loads(said)
        finally:
            process.kill()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)


def main(words: Sequence[str]) -> None:
    """The capture's process. words: what Dataplane.sight says, and the file."""
    answer, file = words
    with contextlib.closing(Source(json.loads(answer))) as source:
        out = capture.Out(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), file)
        ready = partial(print, "ready", flush=True)
        print(json.dumps(capture.run(capture.Capture(source), out, None, ready)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
