# SPDX-License-Identifier: Apache-2.0
"""The nodes of a loop, out of the way and back (netns/sound.py)."""

from pathlib import Path

import pytest

from netns import sound
from netns.sound import Card, Loop

NAMES = {"controlC3", "pcmC3D0p", "pcmC3D0c", "pcmC3D1p", "pcmC3D1c"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(/dev/snd, where nodes go), with the nodes of loop 3 and of another card."""
    there, away = tmp_path / "snd", tmp_path / "away"
    there.mkdir()
    monkeypatch.setattr(sound, "NODES", there)
    monkeypatch.setattr(sound, "AWAY", away)
    for name in (*NAMES, "controlC0", "timer"):
        (there / name).write_text("as it was")
    return there, away


def loop() -> Loop:
    """Loop 3; files that stand for its nodes can be opened and locked as well."""
    return Loop(Card(3, "Loopback", "/devices/platform/snd_aloop.0/sound/card3", ()))


def test_nodes_go_and_come_back(nodes: tuple[Path, Path]) -> None:
    there, away = nodes
    made = loop()
    for _ in "twice":
        made.away()
        assert names(there) == {"controlC0", "timer"}
        assert names(away) == NAMES
    assert set(made.near) == {"controlC3", "pcmC3D0p", "pcmC3D0c"}
    with pytest.raises(BlockingIOError):
        loop()  # another host's, wherever its nodes are
    made.close()
    for _ in "twice":
        sound.back("3")
        assert names(there) == {*NAMES, "controlC0", "timer"}
        assert not away.exists()


def test_a_loop_that_was_loaded_anew_keeps_its_new_nodes(nodes: tuple[Path, Path]) -> None:
    there, away = nodes
    made = loop()
    made.away()
    made.close()
    (there / "controlC3").write_text("new")
    sound.back("3")
    assert (there / "controlC3").read_text() == "new"
    assert names(there) == {*NAMES, "controlC0", "timer"}
    assert not away.exists()
