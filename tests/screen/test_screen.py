# SPDX-License-Identifier: Apache-2.0
"""The screen moves with the foreground: two OSes with a client of the seat each, and what is to be
seen by QEMU's own account."""

import errno
import logging
import os
import signal
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.rig import DEADLINE
from help.stage import BLACK, GREEN, RED, Stage
from help.waiting import until
from netns.card import Card, Snapshot

pytestmark = [pytest.mark.screen, pytest.mark.timeout(240)]


SETTLED = 8
"""Flips after which everybody has what a flip takes."""
MANY, GROWTH = 500, 512
"""After so many flips it is looked at memory too: KiB that there may be more. A few flips tell
nothing: what Python and the C library keep for later comes in larger pieces."""


def own_memory() -> int:
    """KiB that the daemon's code has allocated since it is traced. How much this process has says
    nothing of it: the test is in it too, and what it looks through grows."""
    if not tracemalloc.is_tracing():
        return 0
    ours = [tracemalloc.Filter(True, f"*/{room}/*") for room in ("hostsim", "netns", "asyncio")]
    found = tracemalloc.take_snapshot().filter_traces(ours).statistics("filename")
    return sum(one.size for one in found) // 1024


@pytest.fixture
def debugfs() -> Iterator[Path]:
    """Its folder."""
    place = Path("/sys/kernel/debug")
    mounted = os.path.ismount(place)
    if not mounted:
        subprocess.run(["mount", "-t", "debugfs", "none", str(place)], check=True)
    yield place
    if not mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.timeout(540)  # --screen-flips=1000 takes 160 s
def test_each_os_has_the_screen_in_its_turn(
    stage: Stage, debugfs: Path, pytestconfig: pytest.Config, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing grows with the number of flips."""
    caplog.set_level(logging.WARNING, "hostsim")  # pytest keeps what is logged, in our memory
    clients = {"work": stage.painted("work", GREEN), "play": stage.client("play", RED)}
    assert stage.desk.only(GREEN)
    colours = {"work": GREEN, "play": RED}
    pids = {"daemon": os.getpid()} | {name: one.process.pid for name, one in clients.items()}

    def held() -> dict[str, int]:
        """What could grow: descriptors, memory in KiB, and the card's buffers to show."""
        shown = (debugfs / "dri/0/framebuffer").read_text()
        found = {"buffers": shown.count("framebuffer["), "memory of daemon": own_memory()}
        for name, pid in pids.items():
            found[f"descriptors of {name}"] = len(os.listdir(f"/proc/{pid}/fd"))
            if name != "daemon":
                status = Path(f"/proc/{pid}/status").read_text()
                found[f"memory of {name}"] = int(status.partition("RssAnon:")[2].split()[0])
        return found

    before: dict[str, int] = {}
    count = pytestconfig.getoption("--screen-flips")
    assert count > SETTLED
    for turn in range(1, count + 1):
        name = ("work", "play")[turn % 2]
        client = clients[name]
        painted = client.lines.count("painted")
        stage.flip(name)
        client.heard("painted", painted + 1)
        assert stage.desk.only(colours[name]), turn
        if turn == SETTLED:
            if count >= MANY:
                tracemalloc.start()
            before = held()
    print(f"after {SETTLED} flips {before}, after {count} {held()}")

    def grown() -> dict[str, int]:
        """What is more than it was, but for what a process may keep."""
        now = held()
        most = {what: GROWTH if what.startswith("memory") else 0 for what in before}
        looked = [what for what in before if count >= MANY or not most[what]]
        return {what: now[what] for what in looked if now[what] > before[what] + most[what]}

    until(lambda: not grown(), DEADLINE, f"no more than {before}")
    tracemalloc.stop()
    clients["work"].order("switch 2")
    until(lambda: stage.desk.only(RED), DEADLINE, "Ctrl+Alt+F2 in a compositor is a flip")


def test_a_stopped_client_loses_the_screen_and_finds_its_picture_there_again(stage: Stage) -> None:
    work = stage.painted("work", GREEN)
    stage.client("play", RED)
    os.kill(work.process.pid, signal.SIGSTOP)
    try:
        stage.flip("play")  # after release_timeout
        until(lambda: stage.desk.only(RED), DEADLINE, "the next OS has the screen")
        stage.flip("work")
        # by the KMC: its client is stopped
        until(lambda: stage.desk.only(GREEN), DEADLINE, "its picture is back")
        stage.flip("play")
        until(lambda: stage.desk.only(RED), DEADLINE, "the next OS has the screen again")
        stage.flip("work")  # which has drawn nothing in its turn before
        until(lambda: stage.desk.only(GREEN), DEADLINE, "its picture is back once more")
        stage.flip("play")
        until(lambda: stage.desk.only(RED), DEADLINE, "the next OS has the screen once more")
    finally:
        os.kill(work.process.pid, signal.SIGCONT)
    work.heard("disabled", 3)
    assert stage.desk.only(RED)
    before = work.lines.count("painted")
    stage.flip("work")
    work.heard("painted", before + 1)
    until(lambda: stage.desk.only(GREEN), DEADLINE, "work has the screen")


def test_a_picture_that_cannot_be_shown_again_is_black_before_its_os_is_master(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = stage.painted("work", GREEN)
    stage.flip("play")
    stage.painted("play", RED)
    shown: list[bool] = []
    show = Card.show

    def refuses(self: Card, what: Snapshot | None = None) -> None:
        shown.append(what is not None)
        if what is not None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        show(self, what)

    with monkeypatch.context() as patch:
        patch.setattr(Card, "show", refuses)
        os.kill(work.process.pid, signal.SIGSTOP)
        try:
            stage.flip("work")
            until(lambda: stage.desk.only(BLACK), DEADLINE, "black, for want of its picture")
        finally:
            os.kill(work.process.pid, signal.SIGCONT)
    assert shown == [True, False]  # not without need: one picture follows the other at once


def test_a_client_in_the_background_can_neither_draw_nor_read_nor_become_master(
    stage: Stage,
) -> None:
    work = stage.painted("work", GREEN)
    assert work.asked("deaf") == "deaf"
    stage.flip("play")
    play = stage.painted("play", RED)
    work.heard("disabled")
    for order in ("paint", "master", "peek"):
        assert work.asked(order) == f"errno {errno.EACCES}"
    assert stage.desk.only(RED)
    card = stage.rig.vms["work"].run(["ls", "/dev/dri/card0"])
    assert card.returncode != 0
    play.end()
    until(lambda: stage.desk.only(BLACK), DEADLINE, "black after the client's end")
    assert work.asked("master") == f"errno {errno.EACCES}"
    assert work.asked("paint") == f"errno {errno.EACCES}"
    assert stage.desk.only(BLACK)


def test_the_next_os_cannot_read_the_picture_before(stage: Stage) -> None:
    stage.painted("work", GREEN)
    stage.flip("play")
    play = stage.client("play")
    play.order("seat")
    play.heard("enabled")
    assert play.asked("open /dev/dri/card0").startswith("device")
    assert play.asked("peek") == f"errno {errno.EACCES}"
    assert stage.desk.only(BLACK)
