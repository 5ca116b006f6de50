# SPDX-License-Identifier: Apache-2.0
"""How an OS that boots is waited for, and what its end means."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from hostsim import boot, booted
from hostsim.errors import HostsimError
from hostsim.logs import Logs


class Told:
    """As much of a Booting as is waited for."""

    def __init__(self, at: Path) -> None:
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.notify.bind(str(at))


@pytest.mark.parametrize(
    ("status", "wish"),
    [
        (0, "down"),
        (-signal.SIGSYS, "again"),
        (-signal.SIGKILL, "failed"),
        (7, "failed"),
        (None, "failed"),
    ],
)
def test_what_an_end_means(status: int | None, wish: str) -> None:
    assert boot.after(status) == wish


@pytest.mark.parametrize("name", ["systemd", "init"])
def test_an_exec_that_is_under_way_is_waited_for(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process has our program still, as one has whose parent was told a moment too early."""
    monkeypatch.setattr(boot, "EXEC", 60.0)
    program = tmp_path / name
    shutil.copy(shutil.which("sleep") or "", program)
    told = f"import os, sys; sys.stdin.read(); os.execv({str(program)!r}, ['init', '60'])"
    words = (os.path.realpath("/proc/self/exe"), "-I", "-c", told)
    with ThreadPoolExecutor() as pool, subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        answer = pool.submit(boot.is_systemd, process.pid)
        with pytest.raises(TimeoutError):
            answer.result(0.1)
        process.stdin.close()
        assert answer.result(60) is (name == "systemd")
        process.kill()


@pytest.mark.parametrize(
    ("word", "ended", "why"),
    [
        (b"STATUS=x\nREADY=1", False, ""),
        (b"READY=10", False, "is not ready after 0.2 s: the last"),
        (b"", True, "has ended before it was ready: the last"),
    ],
)
def test_it_is_ready_or_why_not(tmp_path: Path, word: bytes, ended: bool, why: str) -> None:
    told, logs = Told(tmp_path / "notify"), Logs(tmp_path)
    writer = logs.writer("a", 1 << 20)
    os.write(writer, b"the first\nthe last\n")
    os.close(writer)

    async def wait() -> None:
        gone = asyncio.Event()
        if ended:
            gone.set()
        await booted.ready("a", cast(boot.Booting, told), gone, logs, 0.2 if why else 60)

    try:
        if word:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(word, str(tmp_path / "notify"))
        if not why:
            asyncio.run(wait())
            return
        with pytest.raises(HostsimError) as caught:
            asyncio.run(wait())
        assert why.split(":")[0] in str(caught.value)
        assert "the first | the last" in str(caught.value)
    finally:
        told.notify.close()
        logs.close()
