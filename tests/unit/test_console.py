# SPDX-License-Identifier: Apache-2.0
"""The machine's consoles are deaf as long as any host has a keyboard, and unseen as long as one has
the screen; and then as they were."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from hostsim.kmc import consoles as kmc
from netns.claims import lock
from netns.console import (
    K_OFF,
    K_UNICODE,
    K_XLATE,
    KD_GRAPHICS,
    KD_TEXT,
    KEYS,
    PICTURE,
    SYSRQ,
    Console,
    restore,
)
from netns.journal import Journal

K_RAW = 0


class Fake:
    """Three consoles: two that take keys, one that a display server has."""

    def __init__(self) -> None:
        self.now = {1: K_UNICODE, 2: K_XLATE, 7: K_RAW}

    def modes(self) -> dict[int, int]:
        return dict(self.now)

    def set(self, number: int, mode: int) -> None:
        self.now[number] = mode


FOUND = {1: K_UNICODE, 2: K_XLATE, 7: K_RAW}
QUIET = {1: K_OFF, 2: K_OFF, 7: K_RAW}


@pytest.fixture
def consoles() -> Fake:
    return Fake()


def test_each_is_as_it_was(consoles: Fake, tmp_path: Path) -> None:
    host = Console(KEYS, consoles, tmp_path)
    host.give_back()
    for _ in range(2):
        host.quiet()
        host.quiet()
        assert consoles.now == QUIET
        host.give_back()
        host.give_back()
        assert consoles.now == FOUND
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("first", [0, 1])
def test_the_last_of_two_hosts_gives_back(consoles: Fake, tmp_path: Path, first: int) -> None:
    hosts = [Console(KEYS, consoles, tmp_path), Console(KEYS, consoles, tmp_path)]
    for host in hosts:
        host.quiet()
    hosts.pop(first).give_back()
    assert consoles.now == QUIET
    hosts.pop().give_back()
    assert consoles.now == FOUND


def test_what_a_killed_host_left_is_given_back_by_clean(consoles: Fake, tmp_path: Path) -> None:
    killed = Console(KEYS, consoles, tmp_path)
    killed.quiet()
    os.close(killed._fd)
    other = Console(KEYS, consoles, tmp_path)
    other.quiet()
    restore(other.path, consoles)
    assert consoles.now == QUIET, "a living host needs it"
    os.close(other._fd)
    restore(other.path, consoles)
    restore(other.path, consoles)
    assert consoles.now == FOUND


def test_what_a_killed_host_left_is_given_back_by_the_next_one(
    consoles: Fake, tmp_path: Path
) -> None:
    killed = Console(KEYS, consoles, tmp_path)
    killed.quiet()
    os.close(killed._fd)
    host = Console(KEYS, consoles, tmp_path)
    host.quiet()
    host.give_back()
    assert consoles.now == FOUND


class Stubborn(Fake):
    """The first console cannot be set."""

    def set(self, number: int, mode: int) -> None:
        if number == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().set(number, mode)


def test_a_console_that_cannot_be_set_keeps_no_other_loud(tmp_path: Path) -> None:
    consoles = Stubborn()
    host = Console(KEYS, consoles, tmp_path)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        host.quiet()
    assert consoles.now == {1: K_UNICODE, 2: K_OFF, 7: K_RAW}
    host.give_back()
    assert consoles.now == FOUND
    assert os.listdir(tmp_path) == []


def test_a_setting_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consoles, sysrq = Stubborn(), Fake()
    sysrq.now = {0: 1}
    each = {KEYS: Console(KEYS, consoles, tmp_path), SYSRQ: Console(SYSRQ, sysrq, tmp_path)}
    monkeypatch.setattr(kmc, "Console", each.__getitem__)
    (tmp_path / "journal").mkdir()
    journal = Journal(tmp_path / "journal" / "journal")
    host = kmc.Consoles(journal, KEYS, SYSRQ)
    for _ in range(2):
        host.quiet()
        assert host.is_quiet
        assert (consoles.now, sysrq.now) == ({1: K_UNICODE, 2: K_OFF, 7: K_RAW}, {0: 0})
        host.give_back()
        assert (consoles.now, sysrq.now) == (FOUND, {0: 1})
    assert caplog.text.count("cannot be made quiet: Input/output error") == 2
    journal.close()


def test_a_console_that_somebody_has_set_meanwhile_stays(consoles: Fake, tmp_path: Path) -> None:
    host = Console(KEYS, consoles, tmp_path)
    host.quiet()
    consoles.now[2] = K_RAW
    host.give_back()
    assert consoles.now == {1: K_UNICODE, 2: K_RAW, 7: K_RAW}


@pytest.mark.parametrize("text", [b"", b'{"1": 3', b"[]", b'{"x": 1}', b"\xff"])
def test_a_file_that_says_nothing_changes_nothing(
    consoles: Fake, tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "console").write_bytes(text)
    restore(tmp_path / "console", consoles)
    assert consoles.now == FOUND


def test_the_file_is_locked_while_it_is_needed(consoles: Fake, tmp_path: Path) -> None:
    host = Console(KEYS, consoles, tmp_path)
    host.quiet()
    with open(host.path, "r+b") as file, pytest.raises(BlockingIOError):
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock(fcntl.F_WRLCK))
    host.give_back()


def test_a_console_that_shows_text_draws_nothing_while_a_host_has_the_screen(
    consoles: Fake, tmp_path: Path
) -> None:
    consoles.now = {1: KD_TEXT, 2: KD_TEXT, 7: KD_GRAPHICS}
    host, killed = (Console(PICTURE, consoles, tmp_path) for _ in range(2))
    host.quiet()
    assert set(consoles.now.values()) == {KD_GRAPHICS}
    assert os.listdir(tmp_path) == ["picture"]
    killed.quiet()
    os.close(killed._fd)
    host.give_back()
    assert consoles.now == {1: KD_TEXT, 2: KD_TEXT, 7: KD_GRAPHICS}
    host.quiet()
    os.close(host._fd)
    restore(host.path, consoles)
    assert consoles.now == {1: KD_TEXT, 2: KD_TEXT, 7: KD_GRAPHICS}


@pytest.mark.parametrize("found", [1, 0x1B6, 0])
def test_sysrq_is_off_and_then_as_it_was(tmp_path: Path, found: int) -> None:
    consoles = Fake()
    consoles.now = {0: found}
    host = Console(SYSRQ, consoles, tmp_path)
    host.quiet()
    assert consoles.now == {0: 0}
    os.close(host._fd)  # killed
    restore(host.path, consoles)
    assert consoles.now == {0: found}
