# SPDX-License-Identifier: Apache-2.0
"""The journal: what `undo` removes, in which order, and what it does about what resists."""

import errno
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from netns import journal
from netns.journal import Journal


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is removed, in order, without touching the machine. An uplink called `stuck` resists."""
    seen: list[str] = []

    def remover(kind: str) -> Callable[..., None]:
        def remove(**what: str) -> None:
            seen.append(f"{kind} {next(iter(what.values()))}")
            if "stuck" in what.values():
                raise OSError(errno.EBUSY, "Device or resource busy")

        return remove

    for kind in journal._UNDO:
        monkeypatch.setitem(journal._UNDO, kind, remover(kind))
    return seen


def written(path: Path, *entries: dict[str, str]) -> None:
    made = Journal(path)
    for entry in entries:
        made.add(**entry)
    made.close()
    made.close()


def test_newest_first(tmp_path: Path, undone: list[str]) -> None:
    path = tmp_path / "journal"
    written(path, {"kind": "cgroup", "path": "/c"}, {"kind": "netns", "name": "hs-h-a"})
    assert journal.undo(path) == []
    assert undone == ["netns hs-h-a", "cgroup /c"]


def test_what_resists_keeps_the_namespace_it_is_in(tmp_path: Path, undone: list[str]) -> None:
    """The name in /run/netns is the only way to an interface that could not go home; whatever else
    there is goes all the same."""
    path = tmp_path / "journal"
    lent = {"nic": "{}", "number": "0"}
    written(
        path,
        {"kind": "cgroup", "path": "/c"},
        {"kind": "netns", "name": "hs-h-kept"},
        {"kind": "netns", "name": "hs-h-free"},
        {"kind": "uplink", "name": "stuck", "netns": "hs-h-kept", **lent},
        {"kind": "uplink", "name": "eth7", "netns": "hs-h-free", **lent},
    )
    assert journal.undo(path) == ["uplink stuck: Device or resource busy"]
    assert undone == ["uplink eth7", "uplink stuck", "netns hs-h-free", "cgroup /c"]


@pytest.mark.parametrize("cut", [1, 10, 25])
def test_a_last_line_cut_short_stands_for_nothing(
    tmp_path: Path, undone: list[str], cut: int
) -> None:
    """A daemon that is killed in the middle of a line has made nothing of it yet."""
    path = tmp_path / "journal"
    written(path, {"kind": "netns", "name": "hs-h-a"}, {"kind": "netns", "name": "hs-h-b"})
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 - cut])
    assert journal.undo(path) == []
    assert undone == ["netns hs-h-a"]


def test_an_unknown_kind_is_refused_before_it_is_written(tmp_path: Path) -> None:
    made = Journal(tmp_path / "journal")
    try:
        with pytest.raises(ValueError, match="knows no 'path'"):
            made.add("path", path="/tmp/x")
    finally:
        made.close()
    assert list(journal.read(made.path)) == []


def test_an_entry_that_does_not_fit_hides_no_other(tmp_path: Path) -> None:
    """On a full file system the object is not made, and what is written later is read."""
    made = Journal(tmp_path / "journal")
    made.add("netns", name="hs-h-a")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = made.path.stat().st_size + 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            made.add("netns", name="hs-h-b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    made.add("netns", name="hs-h-c")
    made.close()
    assert [entry["name"] for entry in journal.read(made.path)] == ["hs-h-a", "hs-h-c"]
