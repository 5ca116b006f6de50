# SPDX-License-Identifier: Apache-2.0
"""What every test shares: root where it is needed, and nothing left behind."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from help.cli import STATE
from help.tails import tails
from hostsim import leftovers

# No time limit for one example, nor for the making of one: machines are busy.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

MARKS = ("root", "uinput", "screen", "desktop")


def _touches_the_kernel(node: pytest.Item) -> bool:
    return any(node.get_closest_marker(mark) for mark in MARKS)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A kernel test that cannot run is a failure, not a skip: it would never run anywhere."""
    if _touches_the_kernel(item) and os.geteuid() != 0:
        pytest.fail("needs root: run scripts/test, or this as root", pytrace=False)
    if item.get_closest_marker("uinput") and not Path("/dev/uinput").is_char_device():
        pytest.fail("needs /dev/uinput: scripts/testvm has it (scripts/test)", pytrace=False)
    if item.get_closest_marker("screen") and not list(Path("/dev").glob("vport*p4")):
        pytest.fail("needs the test VM's screen: scripts/testvm --display", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails while hosts are up, as those of a module's fixture are: their logs, too."""
    report = yield
    if report.failed and _touches_the_kernel(item):
        for state in sorted(STATE.glob("*/")):
            report.sections.append((f"logs of {state.name}", tails(state)))
    return report


@pytest.fixture(scope="module", autouse=True)
def nothing_left_by_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the last kernel test of a file, and its fixtures, the machine is as it was before."""
    ours = [item for item in request.session.items if item.path == request.path]
    yield from _nothing_left(any(map(_touches_the_kernel, ours)) and os.geteuid() == 0)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a kernel test and its fixtures, the machine is as it was before; where a host was up
    before the test, that host is judged with its file."""
    wanted = _touches_the_kernel(request.node)
    yield from _nothing_left(wanted and not leftovers.daemons(leftovers.snapshot()))


def _nothing_left(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    before = leftovers.snapshot()
    yield
    left = leftovers.settle(before)
    if left:
        shown = "\n".join([*left[:20], f"and {len(left) - 20} more"] if len(left) > 20 else left)
        pytest.fail(f"left behind (or made meanwhile, by someone else):\n{shown}", pytrace=False)
