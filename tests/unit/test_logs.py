# SPDX-License-Identifier: Apache-2.0
"""What programs write is kept up to a size, whoever writes it and however fast."""

import contextlib
import os
import select
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from help.waiting import until
from hostsim import logs
from hostsim.logs import PIPES, Logs, number_of

SIZE = 256 << 10


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Logs]:
    made = Logs(tmp_path)
    yield made
    made.close()


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def is_in(path: Path, text: str) -> bool:
    return text in path.read_text()


def flood(fd: int, line: bytes, count: int) -> None:
    data = line * 1000
    for _ in range(count // 1000):
        os.write(fd, data)


def test_the_newest_lines_are_kept_and_no_more_than_the_size(kept: Logs, tmp_path: Path) -> None:
    fd = kept.writer("a", SIZE)
    flood(fd, b"0123456789abcdef\n", 400_000)  # 6.8 MB
    os.write(fd, b"the end\n")
    os.close(fd)
    assert kept.last_line("a") == "the end" or until(lambda: kept.last_line("a") == "the end")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1"]
    assert SIZE // 2 < size(tmp_path) <= SIZE


def test_what_one_of_several_has_said_last(kept: Logs) -> None:
    """Also if it has ended, and others have written since."""
    one, other = kept.writer("a", SIZE), kept.writer("a", SIZE)
    first, second = number_of(one), number_of(other)
    os.write(one, b"begins\nbecause of this\n")
    os.close(one)
    os.write(other, b"waits\n")
    until(lambda: kept.last_line("a") == "waits")
    assert (kept.last_line("a", first), kept.last_line("a", second)) == ("because of this", "waits")
    flood(other, b"0123456789abcdef\n", 4000)
    assert kept.last_line("a", second) == "0123456789abcdef"
    for nth in range(2 * PIPES):
        short = kept.writer("a", SIZE)
        os.write(short, b"short\n")
        os.close(short)
        until(lambda: kept.last_line("a") == "short")
        os.write(other, b"%d\n" % nth)
        assert kept.last_line("a", second) == str(nth)
    assert kept.last_line("a", first) == ""
    os.close(other)


def test_one_that_still_writes_is_not_dropped_for_those_that_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the thread has come to none of them yet: here it never does."""
    monkeypatch.setattr(Logs, "_pump", lambda self: select.select([self._end], [], []))
    kept = Logs(tmp_path)
    lasting = kept.writer("a", SIZE)
    try:
        for nth in range(2 * PIPES):
            short = kept.writer("a", SIZE)
            os.write(short, b"%d\n" % nth)
            os.close(short)
        os.write(lasting, b"still here\n")
        assert kept.last_line("a", number_of(lasting)) == "still here"
    finally:
        os.close(lasting)
        kept.close()
    said = (tmp_path / "a.log").read_text().splitlines()
    assert sorted(said) == sorted([*(str(nth) for nth in range(2 * PIPES)), "still here"])


def test_what_is_written_at_once_stands_in_the_log_at_once(kept: Logs, tmp_path: Path) -> None:
    """A program that says why it ends, and ends: nobody need wait for the thread."""
    for nth in range(200):
        fd = kept.writer("a", SIZE)
        os.write(fd, b"because of %d\n" % nth)
        os.close(fd)
        assert kept.last_line("a") == f"because of {nth}"
    assert (tmp_path / "a.log").read_text().count("\n") == 200


def test_one_that_floods_holds_nobody_up(kept: Logs, tmp_path: Path) -> None:
    """The others' lines are there while it goes on; it waits in its own write."""
    noisy = kept.writer("noisy", SIZE)
    ended = threading.Event()

    def shout() -> None:
        while not ended.is_set():
            os.write(noisy, b"x" * 4096)

    thread = threading.Thread(target=shout)
    thread.start()
    try:
        for nth in range(20):
            fd = kept.writer("quiet", SIZE)
            os.write(fd, b"line %d\n" % nth)
            until(partial(is_in, tmp_path / "quiet.log", f"line {nth}\n"))
            os.close(fd)
        with contextlib.suppress(FileNotFoundError):  # it is renamed just now
            assert (tmp_path / "noisy.log").stat().st_size <= SIZE
    finally:
        ended.set()
        thread.join()
        os.close(noisy)


def test_pipes_that_stay_open_are_bounded(kept: Logs) -> None:
    """What a program left running holds its pipe; the oldest of too many is closed."""
    fds = [kept.writer("a", SIZE) for _ in range(logs.PIPES + 3)]
    before = len(os.listdir("/proc/self/fd"))
    more = [kept.writer("a", SIZE) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 5  # our ends, not the daemon's
    for fd in fds[: 3 + 5]:
        with pytest.raises(BrokenPipeError):
            os.write(fd, b"x")
    for fd in (*fds[8:], *more):
        os.write(fd, b"x")
    for fd in (*fds, *more):
        os.close(fd)


def test_a_disk_that_is_full_is_nobodys_end(
    kept: Logs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be written: it is said once, and the program runs on."""
    (tmp_path / "a.log").symlink_to("/dev/full")
    fd = kept.writer("a", SIZE)
    flood(fd, b"0123456789abcdef\n", 40_000)
    os.close(fd)
    until(lambda: not kept._by_pipe)
    assert len(caplog.records) == 1
    assert "No space left on device: what is written is lost" in caplog.text


def test_close_lets_go_of_everything(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    kept = Logs(tmp_path)
    fd = kept.writer("a", SIZE)
    kept.close()
    kept.close()
    with pytest.raises(BrokenPipeError):
        os.write(fd, b"x")
    os.close(fd)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert "logs" not in [thread.name for thread in threading.enumerate()]
