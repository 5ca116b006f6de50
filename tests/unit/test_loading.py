# SPDX-License-Identifier: Apache-2.0
"""The data plane's programs are loaded in a thread, or at once; whoever needs them hears of what
failed there."""

import subprocess
import sys
import threading

import pytest

from hostsim.errors import HostsimError
from hostsim.routing import loading
from hostsim.routing.loading import Loading


class Fake:
    """A part of the data plane; `done` has what was done with the parts, in order."""

    done: list[str]
    fails: BaseException | None = None
    go: threading.Event

    def __init__(self, boots: bool = False) -> None: ...

    def load(self) -> None:
        self.go.wait(20)
        if self.fails is not None:
            raise self.fails
        self.done.append("load")

    def close(self) -> None:
        self.done.append("close")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    class Mine(Fake):
        done: list[str] = []  # noqa: RUF012
        go = threading.Event()

    monkeypatch.setattr(loading, "Loaded", Mine)
    monkeypatch.setattr(loading, "KernelDrops", Mine)
    return Mine


def test_what_has_begun_is_waited_for(fake: type[Fake]) -> None:
    one = Loading()
    one.begin([lambda: fake.done.append("job")])
    assert "load" not in fake.done
    fake.go.set()
    one.load()
    assert fake.done == ["job", "load", "load"]
    one.close()
    one.close()
    assert fake.done == ["job", "load", "load", *["close"] * 4]


def test_nothing_has_begun(fake: type[Fake]) -> None:
    fake.go.set()
    one = Loading()
    one.load()
    assert fake.done == ["load", "load"]


@pytest.mark.parametrize("begun", [True, False])
def test_it_fails(fake: type[Fake], begun: bool) -> None:
    fake.fails = OSError(1, "the verifier says no")
    fake.go.set()
    one = Loading()
    if begun:
        one.begin()
    with pytest.raises(OSError, match="the verifier says no"):
        one.load()
    one.close()
    assert fake.done == ["close", "close"]


@pytest.mark.parametrize("error", [OSError(1, "no"), HostsimError("a program", "no")])
def test_a_job_that_fails_is_left_to_who_needs_it(fake: type[Fake], error: Exception) -> None:
    def job() -> None:
        raise error

    fake.go.set()
    one = Loading()
    one.begin([job])
    one.load()
    assert fake.done == ["load", "load"]


def test_it_is_closed_while_it_loads(fake: type[Fake]) -> None:
    """What is being loaded is not closed under the thread."""
    one = Loading()
    one.begin()
    closing = threading.Thread(target=one.close)
    closing.start()
    closing.join(0.2)
    assert fake.done == []
    fake.go.set()
    closing.join(20)
    assert fake.done == ["load", "load", "close", "close"]


def test_systems_that_boot_do_not_wait_for_the_event_loop_or_libraries() -> None:
    """What a daemon loads before it starts them has none of what takes long."""
    program = "import sys, hostsim.daemon, hostsim.hostfile.file, hostsim.ahead, hostsim.beforehand"
    program += "; print({'asyncio', 'pyroute2', 'evdev', 'hostsim.serving'} & set(sys.modules))"
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert said == "set()\n"
