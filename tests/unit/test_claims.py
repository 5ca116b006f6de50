# SPDX-License-Identifier: Apache-2.0
"""Claims of input devices: one host each, known by name, gone with their owner."""

import os
from pathlib import Path

import pytest

from netns.claims import CLONE, DEVICE, ClaimedError, Claims, Owner


def test_one_host_has_a_device(tmp_path: Path) -> None:
    duo, both = Claims("duo", tmp_path), Claims("both", tmp_path)
    assert both.owner("event3") is None
    duo.claim("event3", DEVICE)
    duo.claim("event3", DEVICE)
    assert both.owner("event3") == Owner(DEVICE, "duo")
    with pytest.raises(ClaimedError, match="host duo has it"):
        both.claim("event3", DEVICE)
    both.claim("event4", CLONE)
    assert duo.owner("event4") == Owner(CLONE, "both")
    duo.release("event3")
    both.claim("event3", DEVICE)
    assert duo.owner("event3") == Owner(DEVICE, "both")
    duo.close()
    both.close()
    assert os.listdir(tmp_path) == []


def test_a_claim_ends_with_the_process(tmp_path: Path) -> None:
    ours = Claims("ours", tmp_path)
    pid = os.fork()
    if pid == 0:
        Claims("dead", tmp_path).claim("event5", DEVICE)
        os._exit(0)
    os.waitpid(pid, 0)
    assert (tmp_path / "event5").exists()
    assert ours.owner("event5") is None
    ours.claim("event5", DEVICE)
    assert ours.owner("event5") == Owner(DEVICE, "ours")
    ours.close()


def test_nobody_can_lead_it_astray(tmp_path: Path) -> None:
    (tmp_path / "event6").symlink_to("/dev/null")
    ours = Claims("ours", tmp_path)
    assert ours.owner("event6") is None
    with pytest.raises(OSError, match="symbolic links"):
        ours.claim("event6", DEVICE)


def test_it_is_known_while_a_clone_is_made(tmp_path: Path) -> None:
    duo, both = Claims("duo", tmp_path), Claims("both", tmp_path)
    assert not both.making()
    with duo.makes():
        assert both.making()
        with both.makes():
            assert duo.making()
        assert both.making()
    assert not both.making()
    assert os.listdir(tmp_path) == []


def test_it_is_known_whose_cgroups_make_devices(tmp_path: Path) -> None:
    duo, both = Claims("duo", tmp_path), Claims("both", tmp_path)
    assert both.makers() == {}
    duo.claim_maker(7)
    both.claim_maker(12)
    assert both.makers() == duo.makers() == {7: "duo", 12: "both"}
    duo.release_maker(7)
    assert both.makers() == {12: "both"}
    both.close()
    assert duo.makers() == {}
    assert os.listdir(tmp_path) == []
