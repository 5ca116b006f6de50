# SPDX-License-Identifier: Apache-2.0
"""Options and fixtures of the screen tests."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.desk import Desk
from help.rig import DEADLINE, Rig
from help.stage import BLACK, Stage
from help.waiting import until
from hostsim.model import HostSpec, KmcSpec, OsSpec, VmSpec
from netns.console import KD_GRAPHICS, KD_TEXT, PICTURE, Kernel


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--desktop-flips",
        type=int,
        default=12,
        metavar="N",
        help="how often test_compositors flips (default 12)",
    )
    parser.addoption(
        "--screen-flips",
        type=int,
        default=20,
        metavar="N",
        help="how often test_screen flips (default 20)",
    )
    parser.addoption(
        "--screen-ends",
        type=int,
        default=2,
        metavar="N",
        help="how often test_in_time has a compositor not let go (default 2)",
    )


RELEASE = 2.0
"""Seconds that a client has to let go."""


@pytest.fixture
def desk() -> Iterator[Desk]:
    with contextlib.closing(Desk()) as made:
        yield made


@pytest.fixture
def stage(tmp_path: Path, desk: Desk, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A started host; at its end the console has the screen again as it was. Its parameter: instead
    of RELEASE."""
    found, modes = desk.colours(), Kernel(PICTURE).modes()
    assert KD_TEXT in modes.values()
    release: float = getattr(request, "param", RELEASE)
    spec = HostSpec(
        name="scr",
        path=Path("/"),
        vms=(VmSpec("work", os=OsSpec()), VmSpec("play", os=OsSpec())),
        kmc=KmcSpec("work", release),
        screens=("card0",),
    )
    rig = Rig(spec, tmp_path)
    made = Stage(rig, desk)
    try:
        rig.start()
        assert desk.only(BLACK)
        assert set(Kernel(PICTURE).modes().values()) == {KD_GRAPHICS}
        yield made
    finally:
        for client in made.clients:
            client.end()
        rig.stop()
    until(lambda: set(desk.colours()) == set(found), DEADLINE, "the console's picture is back")
    assert Kernel(PICTURE).modes() == modes
