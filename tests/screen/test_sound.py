# SPDX-License-Identifier: Apache-2.0
"""What is heard is what the foreground OS plays: two OSes with an ordinary player each (aplay), and
the loudspeaker by QEMU's own account."""

import asyncio
import contextlib
import math
import os
import signal
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext.input import evnode
from help.desk import Desk
from help.mixer import machine
from help.programs import program
from help.rig import DEADLINE, Rig
from help.waiting import until
from hostsim.kmc.mixers import Mixer
from hostsim.model import HostSpec, KmcSpec, OsSpec, VmSpec
from netns import sound, tree
from netns.journal import Journal, undo
from netns.process import Process

pytestmark = [pytest.mark.screen, pytest.mark.timeout(240)]

RATE = 48000
TONES = {"work": 400, "play": 1000}
LOUD = 8000
"""What they are played with."""
HEARD, SILENT = LOUD // 2, LOUD // 50
"""Amplitude in a window from which on a tone is there, and below which it is not."""
BOTH = LOUD * 7 // 10
"""Amplitude of both tones above which they sound at once, and not one after the other."""
FLIPS = int(os.environ.get("HOSTSIM_SOUND_FLIPS", "6"))
SETTLED = 5
"""10-ms windows of one tone alone, one after the other."""


class Room:
    """The OSes, their players, and who listens."""

    def __init__(self, rig: Rig, desk: Desk, folder: Path) -> None:
        self.rig, self.desk, self.folder = rig, desk, folder
        self.windows: list[list[int]] = []
        _, self._next = desk.hear(-1, *TONES.values())
        self._players: list[Process] = []

    def play(self, name: str) -> Process:
        """An OS plays its tone without end."""
        file = self.folder / name
        omega = 2 * math.pi * TONES[name] / RATE
        samples = [round(LOUD * math.sin(omega * n)) for n in range(RATE // 10)] * 20
        file.write_bytes(array("h", [value for value in samples for _ in "lr"]).tobytes())
        player = "aplay -q -t raw -f S16_LE -r 48000 -c 2 --buffer-time=200000"
        made = self.rig.popen(name, "sh", "-c", f"while cat {file}; do :; done | {player}")
        self._players.append(made)
        return made

    def listen(self) -> int:
        """Take in all that was played since; how many windows there are now."""
        while True:
            found, self._next = self.desk.hear(self._next, *TONES.values())
            self.windows += found
            if not found:
                return len(self.windows)

    def hears(self, name: str, start: int) -> None:
        """Wait until this OS is heard, and it alone, after this window; from its first tone on,
        no other one was."""
        which = list(TONES).index(name)

        def alone() -> bool:
            self.listen()
            last = self.windows[start:][-SETTLED:]
            return len(last) == SETTLED and all(
                window[which] >= HEARD and window[1 - which] <= SILENT for window in last
            )

        until(alone, DEADLINE, f"{name} is heard alone")
        heard = self.windows[start:]
        first = next(at for at, window in enumerate(heard) if window[which] >= HEARD)
        assert all(window[1 - which] < HEARD for window in heard[first + 1 :]), heard

    def flip(self, name: str) -> None:
        """Another OS is the foreground, and heard."""
        start = self.listen()
        self.rig.flip(name, seen=False)
        self.hears(name, start)

    def all(self) -> int:
        """Milliseconds from the first tone on."""
        return 10 * len(self._since_first())

    def longest_silence(self) -> int:
        """Milliseconds without a tone, since the first one."""
        quiet = "".join("-" if max(window) < HEARD // 2 else "+" for window in self._since_first())
        return 10 * max(map(len, quiet.split("+")))

    def _since_first(self) -> list[list[int]]:
        at = next(at for at, window in enumerate(self.windows) if max(window) >= HEARD)
        return self.windows[at:]

    def volume(self, name: str, *words: str) -> None:
        """An OS sets its volume."""
        done = self.rig.vms[name].run(["amixer", "-q", "sset", "Master", *words])
        assert done.returncode == 0, done.stderr

    def loudness(self, name: str) -> int:
        """What it is heard with, once that is steady."""
        which = list(TONES).index(name)
        start = self.listen()
        last: list[int] = []

        def steady() -> bool:
            self.listen()
            last[:] = [window[which] for window in self.windows[start:][-SETTLED:]]
            return len(last) == SETTLED and max(last) - min(last) <= LOUD // 100

        until(steady, DEADLINE, f"{name} is heard steadily")
        return last[0]

    def processes(self, name: str) -> list[int]:
        """All of an OS but its process 1 and its agent."""
        own = {self.rig.vms[name].pid, self.rig.agent(name).pid}
        group = self.rig.vms[name].cgroup
        found = [
            int(one) for path in group.rglob("cgroup.procs") for one in path.read_text().split()
        ]
        return [one for one in found if one not in own]

    def stop(self) -> None:
        for player in self._players:
            player.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    with contextlib.closing(Desk()) as made:
        yield made


@pytest.fixture
def room(tmp_path: Path, desk: Desk) -> Iterator[Room]:
    """A started host, whose sound card is as loud as it can be."""
    machine("100%", "on")
    found = machine()
    spec = HostSpec(
        name="snd",
        path=Path("/"),
        vms=(VmSpec("work", os=OsSpec()), VmSpec("play", os=OsSpec())),
        kmc=KmcSpec("work", 2.0),
        sounds=("*",),
    )
    rig = Rig(spec, tmp_path)
    try:
        rig.start()
        made = Room(rig, desk, tmp_path)
        try:
            yield made
        finally:
            made.stop()
    finally:
        rig.stop()
    assert machine() == found


def test_the_foreground_is_heard_and_nobody_else(room: Room) -> None:
    room.play("work")
    room.play("play")
    room.hears("work", 0)
    for turn in range(1, FLIPS + 1):
        room.flip(("work", "play")[turn % 2])
    assert [window for window in room.windows if min(window) > BOTH] == []
    print(f"{FLIPS} flips: {room.longest_silence()} ms of silence at most, of {room.all()} ms")
    (card,) = room.rig.devices()
    assert card["owner"] == "work"
    assert card["counters"]["played"] > 0


def test_an_os_has_its_own_card_and_no_other(room: Room) -> None:
    (card,) = room.rig.devices()
    for name, state in card["states"].items():
        number = state["node"].removeprefix("/dev/snd/controlC")
        vm = room.rig.vms[name]
        found = vm.run(["ls", "/dev/snd"]).stdout.decode().split()
        assert found == [f"controlC{number}", f"pcmC{number}D0c", f"pcmC{number}D0p"]
        machines = os.stat(card["node"]).st_rdev
        with tree.folder(vm.dev_fd, "snd") as folder:  # as if it had got hold of a node
            evnode.make(folder, "stray", machines, vm.owner, 0)
        tried = vm.run(["sh", "-c", "exec 3>/dev/snd/stray"])
        assert b"Operation not permitted" in tried.stderr


def test_each_os_has_its_own_volume(room: Room) -> None:
    """The card's own: what is kept is what is heard, in whole steps of its volume."""
    for name in TONES:
        room.play(name)
    room.hears("work", 0)
    full = room.loudness("work")
    assert abs(full - LOUD) <= LOUD // 50
    room.volume("play", "56")  # of 74, in the background
    assert abs(room.loudness("work") - full) <= LOUD // 50
    room.flip("play")
    less = room.loudness("play")
    assert less < full * 9 // 10
    room.flip("work")
    assert abs(room.loudness("work") - full) <= LOUD // 50
    room.volume("work", "65")
    until(lambda: room.loudness("work") < full * 19 // 20, DEADLINE, "work is less loud")
    room.flip("play")
    assert abs(room.loudness("play") - less) <= LOUD // 50
    room.volume("play", "mute")
    until(lambda: room.loudness("play") == 0, DEADLINE, "play is mute")
    room.flip("work")
    assert room.rig.devices()[0]["states"]["play"]["mixer"]["Master Playback Switch"] == [0, 0]


def test_the_mixer_of_a_killed_daemon_is_set_back_by_its_journal(tmp_path: Path) -> None:
    found = machine("40", "off")
    journal = tmp_path / "journal"

    async def daemon() -> None:
        (card,) = [one for one in sound.cards() if not one.is_loop]
        Mixer(card, Journal(journal))
        machine("60", "on")
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        asyncio.run(daemon())
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert machine() != found
    assert undo(journal) == []
    assert machine() == found


def test_a_stopped_player_and_an_os_that_takes_its_mixer_apart_hold_up_nothing(room: Room) -> None:
    found = machine()
    players = {name: room.play(name) for name in TONES}
    room.hears("work", 0)
    for process in room.processes("work"):
        os.kill(process, signal.SIGSTOP)
    room.flip("play")
    number = room.rig.devices()[0]["states"]["play"]["node"].removeprefix("/dev/snd/controlC")
    done = room.rig.vms["play"].run(program("unmix", f"/dev/snd/controlC{number}"))
    assert int(done.stdout) > 0, done.stderr
    for process in room.processes("work"):
        os.kill(process, signal.SIGCONT)
    room.flip("work")
    room.flip("play")
    assert [player.poll() for player in players.values()] == [None, None]
    assert machine() == found
