# SPDX-License-Identifier: Apache-2.0
"""How long operating systems take to be `running`, and what memory they need: systemd as process 1
of the root that --root names, in one VM or in twenty at once.

`systemd` and `systemd/20` are the whole of `hostsim up FILE`: a daemon, a switch, and the OSes, all
of them up. `again` is one OS alone, in a host that runs: from `hostsim restart` of an OS that is
off, until it is up. `memory` is MiB for each of twenty OSes: the proportional share (PSS, proc(5))
of all processes that there are for them, hostsim's daemon or the peers' own processes with them.
All hostsim's OSes are then asked whether they are `running`, unmeasured.

The peer is systemd-nspawn with the same root below an overlay in memory, and a network namespace
without links; it passes on its OS's READY=1 (`--notify-ready`), which is what hostsim waits for. It
has no user namespace and no limits, as hostsim's OSes have. Twenty of its OSes share user 0's 128
inotify instances, so that some may be `degraded`.
"""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hostsim import ownroot, protocol
from hostsim.bench import common
from hostsim.cli import client
from hostsim.errors import HostsimError
from hostsim.model import Json, RootSpec

SIZES = (1, 20)
CASES = ("systemd", "systemd/20", "again", "memory")
HOST = "bench-boot"
IMAGE = "bookworm"
DEADLINE = 180.0
"""Seconds for one command, or until all peers are up."""
READY = b"READY=1"
RUNNING = ("systemctl", "is-system-running", "--wait")
MIB = 1 << 20
NSPAWN = "systemd-nspawn"


@dataclass(frozen=True)
class Taken:
    """What one run found. seconds: until all are up; memory: MiB for each."""

    seconds: float
    memory: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench boot`."""
    common.add_arguments(parser, CASES)
    parser.add_argument(
        "--root",
        default=IMAGE,
        metavar="ROOT",
        help=f"an image's name, or a path, with systemd in it (default: image {IMAGE})",
    )


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    image = "/" not in options.root
    root = RootSpec(options.root if image else os.path.abspath(options.root), image=image)
    source = ownroot.find("bench", root)
    peer = shutil.which(NSPAWN) is not None

    def case(name: str, unit: str, ours: common.Measure, its: Callable[[], Taken]) -> common.Case:
        value = (lambda: its().memory) if unit == "MiB" else (lambda: its().seconds)
        return common.Case(name, unit, ours, {"nspawn": value} if peer else {})

    def one() -> Taken:
        return peers(source, 1)

    def twenty() -> Taken:
        return peers(source, 20)

    cases = [
        case("systemd", "s", lambda: ours(root, 1).seconds, one),
        case("systemd/20", "s", lambda: ours(root, 20).seconds, twenty),
        case("again", "s", lambda: again(root), one),
        case("memory", "MiB", lambda: ours(root, 20).memory, twenty),
    ]
    return common.run("boot", cases, options)


def host_file(root: RootSpec, size: int) -> str:
    """A host of `size` OSes of this root, named os1 and up."""
    lines = [f'[host]\nname = "{HOST}"\n']
    for number in range(1, size + 1):
        lines.append(f'[[vm]]\nname = "os{number}"\nroot = "{root.path}"\nboot = true\n')
    return "\n".join(lines)


@contextlib.contextmanager
def up(root: RootSpec, size: int) -> Iterator[float]:
    """A host of OSes is up, and how many seconds it took; at the end it is down."""
    with tempfile.TemporaryDirectory(prefix="hostsim-bench-") as folder:
        file = Path(folder) / "host.toml"
        file.write_text(host_file(root, size))
        took = common.timed("boot", common.hostsim("up", str(file)), DEADLINE)
        try:
            yield took
        finally:
            common.timed("boot", common.hostsim("down", "--host", HOST), DEADLINE)


def ours(root: RootSpec, size: int) -> Taken:
    """One run of `hostsim up`. Raises HostsimError: one of them is not `running`, too."""
    with up(root, size) as seconds:
        for number in range(1, size + 1):
            common.timed("boot", inside(f"os{number}", *RUNNING), DEADLINE)
        return Taken(seconds, pss([_daemon()]) / size)


def again(root: RootSpec) -> float:
    """Seconds until an OS that is off is up again, in a host that runs."""
    log = protocol.RUN / HOST / "log"
    with up(root, 1):
        common.timed("boot", inside("os1", "systemctl", "poweroff"), DEADLINE)
        off = "os1: its OS has powered off"
        common.until("boot", lambda: off in log.read_text(), "os1's power off", DEADLINE)
        is_up = "os1: its OS is up"
        ups = log.read_text().count(is_up)
        begin = time.perf_counter()
        common.timed("boot", common.hostsim("restart", "--host", HOST, "os1"), DEADLINE)
        common.until("boot", lambda: log.read_text().count(is_up) > ups, "os1 again", DEADLINE)
        took = time.perf_counter() - begin
        common.timed("boot", inside("os1", *RUNNING), DEADLINE)
    return took


def _daemon() -> int:
    return int(next(one["pid"] for one in client.hosts() if one["host"] == HOST))


def inside(name: str, *words: str) -> list[str]:
    """The command line of a program in an OS."""
    return common.hostsim("exec", "--host", HOST, name, "--", *words)


def peers(source: ownroot.Source, size: int) -> Taken:
    """One run of the peer. Raises HostsimError."""
    started: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostsim-bench-")))
        sockets = [stack.enter_context(_listening(folder / f"{n}.sock")) for n in range(size)]
        stack.callback(_end, started)
        mount = folder / "root"
        mount.mkdir()
        begin = time.perf_counter()
        for number in range(size):
            words = nspawn_command(source, str(mount), f"bench{os.getpid()}-{number}")
            env = os.environ | {"NOTIFY_SOCKET": str(folder / f"{number}.sock")}
            with open(folder / f"{number}.log", "wb") as log:
                started.append(
                    subprocess.Popen(
                        words, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                )
        for number, one in enumerate(sockets):
            _heard(one, begin + DEADLINE, folder / f"{number}.log")
        seconds = time.perf_counter() - begin
        return Taken(seconds, pss([nspawn.pid for nspawn in started]) / size)


def nspawn_command(source: ownroot.Source, mount: str, name: str) -> list[str]:
    """One OS of the peer's. An image is mounted in a mount namespace of its own; mount: a directory
    for it. With whoever started it, it ends."""
    words = ["setpriv", "--pdeathsig", "KILL", "--"]
    root = source.path
    if source.kind:
        script = f'mount -t {source.kind} -o ro,loop "$0" "$1" && shift && exec "$@"'
        words += ["unshare", "--mount", "sh", "-c", script, source.path, mount]
        root = mount
    words += [NSPAWN, "--quiet", "--boot", "--volatile=overlay", "--private-network"]
    words += ["--register=no", "--keep-unit", "--link-journal=no", "--console=read-only"]
    return [*words, "--notify-ready=yes", f"--machine={name}", f"--directory={root}"]


def pss(roots: list[int]) -> float:
    """MiB that these processes and all that come from them have, shared pages by their share."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                after = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(after[1]), []).append(int(entry.name))
    total, wait = 0, list(roots)
    while wait:
        pid = wait.pop()
        wait.extend(parents.get(pid, []))
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total / MIB


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(path))
        yield one


def _heard(one: socket.socket, end: float, log: Path) -> None:
    """Wait for an OS's word. Raises HostsimError."""
    try:
        while True:
            one.settimeout(max(0.01, end - time.perf_counter()))
            if READY in one.recv(4096).split(b"\n"):
                return
    except TimeoutError:
        said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        why = f"not ready after {DEADLINE:g} s, it said: {said[-1]}"
        raise HostsimError(f"bench boot: {NSPAWN}", why) from None


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM shuts an OS of nspawn's down."""
    for one in started:
        one.terminate()
    for one in started:
        try:
            one.wait(30)
        except subprocess.TimeoutExpired:
            one.kill()
            one.wait()
