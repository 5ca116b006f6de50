# SPDX-License-Identifier: Apache-2.0
"""Each step that takes a host down is broken in turn, in a daemon that goes down and in one that
cannot build its host: the other steps are run, the daemon leaves nothing, and its error names the
step. The steps are those that the daemon itself pushes, so a new one is tested too."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from help.cli import plugged_nic
from help.net import endpoint
from help.programs import PROGRAMS
from help.roots import busybox
from hostsim import leftovers

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

PROGRAM = PROGRAMS / "broken_daemon.py"
NAME = "hsstop"
NIC = "hsstop0"
DEADLINE = 60.0  # seconds for one daemon's life
FUNCTIONS = (
    '[switch]\nuplinks = ["hsstop0"]\n'
    + endpoint("client", "198.18.0.10/24")
    + endpoint("server", "198.18.0.20/24", more='run = "sleep 1000"')
    + """
[[vm]]
name = "one"
nf = "count"
memory = "128M"
[[vm]]
name = "two"
nf = "forward"
[[route]]
match = { proto = "udp" }
through = ["one", "two"]
"""
)
SYSTEMS = """
[[vm]]
name = "work"
address = "198.18.1.1/24"
run = "sleep 1000"
[vm.os]
[[vm]]
name = "play"
address = "198.18.1.2/24"
[vm.os]
background = "freeze"
restart = "on-failure"
"""


class Ended(NamedTuple):
    """How the daemon ended. error: what it said; pushed, run: names of steps, in order."""

    status: int
    error: str
    pushed: list[str]
    run: list[str]


def ended(file: Path, broken: int = -1, failing: int = -1, *how: str) -> Ended:
    """Run the daemon until its host stands, take it down, and wait; or until it fails."""
    words = [sys.executable, str(PROGRAM), str(file), str(broken), str(failing), *how]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as daemon:
        alarm = threading.Timer(DEADLINE, daemon.kill)
        alarm.start()
        assert daemon.stderr is not None
        said = []
        for line in daemon.stderr:
            said.append(line)
            if line.endswith(f"host {NAME} is up\n"):
                daemon.send_signal(signal.SIGTERM)
        assert daemon.stdout is not None
        last = daemon.stdout.read().splitlines()
        status = daemon.wait()
        alarm.cancel()
    assert last, said
    errors = [line.removeprefix("hostsim: ") for line in said if line.startswith("hostsim: ")]
    return Ended(status, "".join(errors), **json.loads(last[-1]))


@pytest.fixture(params=[FUNCTIONS, SYSTEMS], ids=["functions", "systems"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / f"{NAME}.toml"
    made.write_text(f'[host]\nname = "{NAME}"\n{request.param}')
    return made


def names(file: Path) -> list[str]:
    """The steps of this host, in the order of their push."""
    whole = ended(file)
    assert whole.status == 0, whole.error
    assert whole.run == whole.pushed[::-1]
    return whole.pushed


def test_a_host_goes_down_whichever_step_is_broken(file: Path) -> None:
    with plugged_nic(NIC, "hsstop1", "hsstop-net", "198.18.0.99/24", keep=True):
        before = leftovers.snapshot()
        steps = names(file)
        for number, step in enumerate(steps):
            broken = ended(file, broken=number)
            assert broken.run == broken.pushed[::-1], f"broken: {step}"
            assert broken.pushed == steps, f"broken: {step}"
            why = f"host {NAME}: taking down {step}: broken by a test\n"
            assert (broken.status, broken.error) == (1, why)
            assert leftovers.settle(before) == [], f"broken: {step}"


def test_a_host_that_cannot_be_built_goes_whichever_step_is_broken(file: Path) -> None:
    """Building fails after each step was pushed, and that very step is broken."""
    with plugged_nic(NIC, "hsstop1", "hsstop-net", "198.18.0.99/24", keep=True):
        before = leftovers.snapshot()
        steps = names(file)
        for number, step in enumerate(steps[:-1]):  # the last one is pushed by going down
            broken = ended(file, broken=number, failing=number)
            assert broken.run == broken.pushed[::-1], f"broken: {step}"
            last = steps[-1:] if number else []  # the journal is made before there is a host
            assert broken.pushed == [*steps[: number + 1], *last], f"broken: {step}"
            ours = f"host {NAME}: taking down {step}: broken by a test"
            assert (broken.status, broken.error) == (1, f"building: ended by a test; {ours}\n")
            assert leftovers.settle(before) == [], f"broken: {step}"


def test_a_signal_after_each_step_of_building(tmp_path: Path) -> None:
    """The first of them come while the daemon still loads itself, and systems boot already."""
    file = tmp_path / f"{NAME}.toml"
    boots = f'root = "{busybox(tmp_path)}"\nboot = true'
    file.write_text(f'[host]\nname = "{NAME}"\n[[vm]]\nname = "boots"\n{boots}\n')
    before = leftovers.snapshot()
    steps = names(file)
    for number, step in enumerate(steps[:-1]):
        signalled = ended(file, -1, number, "signalled")
        assert signalled.run == signalled.pushed[::-1], step
        why = f"up {file.name}: ended by a signal while the host was being built\n"
        built = number >= steps.index("link monitor")
        assert (signalled.status, signalled.error) in ((1, why), *([(0, "")] if built else [])), (
            step
        )
        assert leftovers.settle(before) == [], step
