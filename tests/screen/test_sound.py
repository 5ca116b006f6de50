"""What is heard is what the foreground OS plays: two OSes with an ordinary player each (aplay), and
the loudspeaker by QEMU's own account."""

import contextlib
import math
import os
import subprocess
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext.input import evnode
from help.desk import Desk
from help.rig import DEADLINE, Rig
from help.waiting import until
from hostsim.model import HostSpec, KmcSpec, OsSpec, VmSpec
from netns import tree
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
FLIPS = 6
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
    set_volume = ["amixer", "-q", "-c", "0", "sset", "Master", "100%", "on"]
    subprocess.run(set_volume, check=True, stdout=subprocess.DEVNULL)
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


def test_the_foreground_is_heard_and_nobody_else(room: Room) -> None:
    room.play("work")
    room.play("play")
    room.hears("work", 0)
    for turn in range(1, FLIPS + 1):
        room.flip(("work", "play")[turn % 2])
    assert [window for window in room.windows if min(window) > BOTH] == []
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
