# SPDX-License-Identifier: Apache-2.0
"""A host as a service: what its manager hears of the daemon, and what the journal gets."""

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.cli import HOSTSIM, hostsim
from help.waiting import until

pytestmark = pytest.mark.root

FILE = """
[host]
name = "hsservice"
[[vm]]
name = "a"
run = "sh -c 'env; exec sleep 1000'"
"""
BEAT_US = 200_000

Service = subprocess.Popen[bytes]


@contextlib.contextmanager
def service(folder: Path, name: str, *words: str) -> Iterator[tuple[Service, socket.socket, Path]]:
    """A daemon in the foreground with the variables that systemd gives a service; the manager's
    socket, and what the journal gets."""
    notify, log = folder / f"{name}.notify", folder / f"{name}.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("wb") as stderr:
        told.bind(str(notify))
        told.settimeout(100)
        here = os.fstat(stderr.fileno())
        env = {
            **os.environ,
            "NOTIFY_SOCKET": str(notify),
            "WATCHDOG_USEC": str(BEAT_US),
            "JOURNAL_STREAM": f"{here.st_dev}:{here.st_ino}",
        }
        command = (HOSTSIM, "up", "--foreground", *words)
        with subprocess.Popen(command, env=env, stderr=stderr) as daemon:
            try:
                yield daemon, told, log
            finally:
                daemon.terminate()


def test_a_manager_hears_of_start_life_and_end(tmp_path: Path) -> None:
    """READY=1 once the host stands, WATCHDOG=1 for as long as its loop goes round, STOPPING=1;
    what runs in a VM knows nothing of it, and each line of the log has its priority."""
    file = tmp_path / "hsservice.toml"
    file.write_text(FILE)
    with service(tmp_path, "first", str(file)) as (daemon, told, log):
        assert told.recv(1000) == b"READY=1\nSTATUS=host hsservice is up"
        assert [told.recv(1000) for _ in range(5)] == [b"WATCHDOG=1"] * 5
        until(lambda: "HOME=" in hostsim("logs", "a").stdout, 60)
        said = hostsim("logs", "a").stdout
        assert "NOTIFY" not in said
        assert "WATCHDOG" not in said
        assert stopped_it_is_silent(told, daemon.pid)
        with service(tmp_path, "second", str(file)) as (again, never, errors):
            assert again.wait(100) == 1
            assert errors.read_text().startswith("<3>hostsim: up hsservice.toml: host hsservice is")
            never.setblocking(False)
            with pytest.raises(BlockingIOError):
                never.recv(1000)
        daemon.terminate()
        while (last := told.recv(1000)) == b"WATCHDOG=1":
            pass
        assert last.startswith(b"STOPPING=1\n")
        assert daemon.wait(100) == 0
        lines = log.read_text().splitlines()
    assert "<6>host hsservice is up" in lines
    assert all(re.match(r"<[2-7]>", line) for line in lines), lines


def stopped_it_is_silent(told: socket.socket, pid: int) -> bool:
    """Whether a daemon whose loop stands still tells nothing, and goes on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] == "T", 60)
        told.setblocking(False)
        try:
            while told.recv(1000):
                pass
        except BlockingIOError:
            told.settimeout(3 * BEAT_US / 1e6)
        with pytest.raises(TimeoutError):
            told.recv(1000)
    finally:
        os.kill(pid, signal.SIGCONT)
    told.settimeout(100)
    return told.recv(1000) == b"WATCHDOG=1"
