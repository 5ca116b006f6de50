# SPDX-License-Identifier: Apache-2.0
"""The machine's sound cards, and loops: cards of snd-aloop, at whose device 1 comes out what is
played on device 0, and the other way round (sound/drivers/aloop.c of Linux).

    cards()                  all of them, by number
    loops = take_loops(2)    two loops that nobody else has, until each is closed; the module is
                             loaded if it has to be

    words = mixer_words(fd)  how a card's mixer is set
    mixer_back(name, words)  ... and is set again

Loops stay on the machine: who has one keeps a lock on it, which ends with its process.
"""

import contextlib
import errno
import fcntl
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cext.sound import mixer
from netns.errors import HostsimError

CLASS, NODES = Path("/sys/class/sound"), Path("/dev/snd")
AWAY = Path("/dev/hostsim-sound")
"""A directory of root's, for the nodes of loops that a host has."""
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
            self.control = os.open(_where(card.control), flags)
            fcntl.flock(self.control, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.capture = os.open(_where(f"pcmC{card.number}D1c"), flags)
        except OSError:
            self.close()
            raise

    @property
    def near(self) -> dict[str, int]:
        """Name and number of each node of the near side. Raises OSError."""
        names = [name.format(self.card.number) for name in self.NEAR]
        return {name: _where(name).stat().st_rdev for name in names}

    def away(self) -> None:
        """The machine's programs (a sound server takes every card that it sees) find the card's
        nodes no more, until `back`. Raises OSError."""
        AWAY.mkdir(mode=0o700, exist_ok=True)
        for name in _nodes(self.card.number):
            with contextlib.suppress(FileNotFoundError):  # away already
                os.rename(NODES / name, AWAY / name)

    def close(self) -> None:
        for fd in (self.capture, self.control):
            if fd >= 0:
                os.close(fd)
        self.control = self.capture = -1


def back(number: str) -> None:
    """The nodes of the loop with this number are the machine's again. Not away is no error. Raises
    OSError."""
    for name in _nodes(int(number)):
        with contextlib.suppress(FileNotFoundError):
            if os.path.lexists(NODES / name):
                (AWAY / name).unlink()  # of a card that went meanwhile
            else:
                os.rename(AWAY / name, NODES / name)
    with contextlib.suppress(OSError):  # others are away
        AWAY.rmdir()


def _nodes(number: int) -> list[str]:
    """All nodes of a loop."""
    sides = [f"pcmC{number}D{device}{way}" for device in (0, 1) for way in "pc"]
    return [f"controlC{number}", *sides]


def _where(name: str) -> Path:
    """Where a node is now."""
    there = NODES / name
    return there if os.path.lexists(there) else AWAY / name


def take_loops(count: int, have: int = 0) -> list[Loop]:
    """See above. have: how many the caller has already: then the module is in use, and cannot be
    loaded with more. Raises HostsimError."""
    for load in (False,) if have else (False, True):
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
        f"there {'is' if count == 1 else 'are'} not {count} of snd-aloop's loops that nobody uses",
        "each OS has one: with all hosts down, modprobe -r snd-aloop; modprobe snd-aloop "
        f"enable={_each(count + have)}",
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


def open_control(card: Card) -> int:
    """Its control node, open. Raises OSError."""
    return os.open(_where(card.control), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def mixer_words(fd: int) -> str:
    """How the mixer of a control descriptor's card is set, for `mixer_back`. Raises OSError."""
    return json.dumps(
        [
            [element.name, element.index, *mixer.read(fd, element.number)]
            for element in mixer.elements(fd)
        ]
    )


def mixer_back(name: str, words: str) -> None:
    """Set the mixer of a card as it was. What is so already is not touched; a card that has gone is
    no error. Raises OSError."""
    wanted = {(one[0], one[1]): tuple(one[2:]) for one in json.loads(words)}
    for card in cards():
        if card.name != name:
            continue
        fd = open_control(card)
        try:
            for element in mixer.elements(fd):
                values = wanted.get((element.name, element.index))
                if values is not None and mixer.read(fd, element.number) != values:
                    mixer.write(fd, element.number, values)
        finally:
            os.close(fd)


def open_player(card: Card) -> int:
    """Its first playback node, open, and everybody else's no more. Raises OSError (EBUSY: another
    program plays there)."""
    if not card.players:
        raise OSError(errno.ENODEV, "it plays nothing")
    return os.open(NODES / card.players[0], os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
