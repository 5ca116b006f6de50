"""The machine's sound cards, and loops: cards of snd-aloop, at whose device 1 comes out what is
played on device 0, and the other way round (sound/drivers/aloop.c of Linux).

    cards()                  all of them, by number
    loops = take_loops(2)    two loops that nobody else has, until each is closed; the module is
                             loaded if it has to be

Loops stay on the machine: who has one keeps a lock on it, which ends with its process.
"""

import contextlib
import errno
import fcntl
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from netns.errors import HostsimError

CLASS, NODES = Path("/sys/class/sound"), Path("/dev/snd")
DRIVER = "snd_aloop"
DEADLINE = 20.0
"""Seconds for modprobe."""


@dataclass(frozen=True)
class Card:
    """number: as in card0. name: its id, unique on the machine (`PCH`, `Intel`). path: in sysfs,
    from /devices on. players: its playback nodes in /dev/snd."""

    number: int
    name: str
    path: str
    players: tuple[str, ...]

    @property
    def is_loop(self) -> bool:
        """Whether it is one of snd-aloop."""
        return f"/{DRIVER}." in self.path

    @property
    def control(self) -> str:
        """Its control node in /dev/snd."""
        return f"controlC{self.number}"


def cards() -> list[Card]:
    """See above. None on a kernel without sound."""
    found = []
    for folder in CLASS.glob("card[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # it goes while we look
            number = int(folder.name.removeprefix("card"))
            players = tuple(sorted(path.name for path in folder.glob(f"pcmC{number}D*p")))
            path = os.path.realpath(folder, strict=True).removeprefix("/sys")
            found.append(Card(number, (folder / "id").read_text().strip(), path, players))
    return sorted(found, key=lambda card: card.number)


class Loop:
    """One loop, and its far side's descriptors: `capture` (what is played on device 0) and
    `control`. Raises OSError (EWOULDBLOCK: somebody else has it). `close` twice is harmless."""

    NEAR = ("pcmC{}D0p", "pcmC{}D0c", "controlC{}")
    """Nodes of the side that a program is to have."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.control = self.capture = -1
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self.control = os.open(NODES / card.control, flags)
            fcntl.flock(self.control, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.capture = os.open(NODES / f"pcmC{card.number}D1c", flags)
        except OSError:
            self.close()
            raise

    @property
    def near(self) -> dict[str, int]:
        """Name and number of each node of the near side. Raises OSError."""
        names = [name.format(self.card.number) for name in self.NEAR]
        return {name: (NODES / name).stat().st_rdev for name in names}

    def close(self) -> None:
        for fd in (self.capture, self.control):
            if fd >= 0:
                os.close(fd)
        self.control = self.capture = -1


def take_loops(count: int) -> list[Loop]:
    """See above. Raises HostsimError."""
    for load in (False, True):
        if load:
            _load(count)
        loops: list[Loop] = []
        for card in cards():
            if card.is_loop and len(loops) < count:
                with contextlib.suppress(OSError):  # somebody else's
                    loops.append(Loop(card))
        if len(loops) == count:
            return loops
        for loop in loops:
            loop.close()
    raise HostsimError(
        "sound",
        f"there are not {count} loops of snd-aloop that nobody uses",
        f"each OS has one: modprobe -r snd-aloop; modprobe snd-aloop enable={_each(count)}",
    )


def _each(count: int) -> str:
    return ",".join("1" * count)


def _load(count: int) -> None:
    """The module, with so many cards; one that is loaded with fewer, and in use, stays so."""
    number = _each(count)
    for words in (
        ["modprobe", "-q", "-r", DRIVER],
        ["modprobe", "-q", DRIVER, f"enable={number}", f"pcm_substreams={number}"],
    ):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=DEADLINE,
                check=False,
            )


def open_player(card: Card) -> int:
    """Its first playback node, open, and everybody else's no more. Raises OSError (EBUSY: another
    program plays there)."""
    if not card.players:
        raise OSError(errno.ENODEV, "it plays nothing")
    return os.open(NODES / card.players[0], os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
