# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the input tests; see rig.py."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.programs import program
from help.rig import DEADLINE, Rig, spec
from help.waiting import until
from hostsim.model import DeviceMode


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--plug-cycles",
        type=int,
        default=60,
        metavar="N",
        help="how often test_plug plugs and unplugs a device in each mode (default 60)",
    )
    parser.addoption(
        "--generated",
        type=int,
        default=75,
        metavar="N",
        help="how many odd devices test_generated makes (default 75)",
    )
    parser.addoption(
        "--generated-from",
        type=int,
        default=0,
        metavar="N",
        help="how many of them are left out before, by 25 (default 0): a long row in pieces",
    )
    parser.addoption(
        "--unheard-flips",
        type=int,
        default=20,
        metavar="N",
        help="how often test_unheard flips while the machine listens (default 20)",
    )


@pytest.fixture(params=["mirror", "direct"])
def mode(request: pytest.FixtureRequest) -> DeviceMode:
    given: DeviceMode = request.param
    return given


@pytest.fixture
def rig(mode: DeviceMode, tmp_path: Path) -> Iterator[Rig]:
    """Not started: plug devices in first, or not."""
    made = Rig(spec(mode), tmp_path)
    yield made
    made.stop()


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Path]:
    """What a reader on the machine, started before the host, has written."""
    path = tmp_path / "machine"
    with subprocess.Popen(program("reader", path)) as reader:
        until(lambda: path.exists() and "ready" in path.read_text(), DEADLINE, "it reads")
        yield path
        reader.kill()
