# SPDX-License-Identifier: Apache-2.0
"""sound: what is heard is what the foreground OS plays.

Each OS has a sound card of its own, a loop of snd-aloop, and no other; no OS has the machine's. The
pump (cext/sound/pump.h) copies what the foreground plays from its loop to the machine's card. So a
flip takes nothing from a program: in the background it plays on, and nothing is heard of it. That
is what ALSA's programs expect. There is no other way to take a stream from a program for good:
the kernel can stop one (SNDRV_PCM_IOCTL_DROP), and the program starts it again; and a program that
hears of an unplugged card (ENODEV: alsa-lib, PipeWire, PulseAudio) closes it, and does not come
back to it before a new one is announced. Nor does a descriptor that an OS keeps, or has passed on,
matter: it leads to its own loop.

    save     volumes, switches and choices of the card's mixer are kept for the old OS (`mixers`)
    release  nothing of the old OS gets to the card; what the card has not begun to play goes too
    restore  the card's mixer is as the new OS has set it
    take     the card plays what the new OS plays, from its last 40 ms on

A loop has the machine's card's rate, format and channels; alsa-lib converts (`plug`, PipeWire).
"""

import contextlib
import errno
import fnmatch
import logging
import os
from collections.abc import Sequence

from cext.input import evnode
from cext.sound.pump import Pump
from cext.vm.tree import open_beneath
from hostsim.errors import HostsimError, reason
from hostsim.kmc.equipment import Equipment
from hostsim.kmc.mixers import Mixer
from hostsim.kmc.osnodes import group_of
from hostsim.model import Json
from hostsim.vm import Vm
from netns import sound, tree
from netns.journal import Journal
from netns.sound import Card, Loop

log = logging.getLogger("hostsim.kmc")

ASOUND = "asound.conf"
MARK = b"# Made by hostsim: this OS's only sound card is not number 0.\n"
CONF = (
    MARK
    + b"""\
defaults.pcm.card %d
defaults.ctl.card %d
pcm.!default { type plug slave.pcm { type hw card %d } }
ctl.!default { type hw card %d }
"""
)
"""`default` converts, and does not mix: alsa-lib's dmix needs /dev/snd/timer, which is one for the
machine, and has a number of users that one OS could use up for all."""
CONF_MAX = 1 << 16
"""Bytes of an OS's file that are looked at."""


class Sound(Equipment):
    """The driver. `start` first."""

    def __init__(self, oses: dict[str, Vm], journal: Journal) -> None:
        self._oses = oses
        self._journal = journal
        self._mixer: Mixer | None = None
        self._card: Card | None = None
        self._player = -1
        self._pump: Pump | None = None
        self._loops: dict[str, Loop] = {}
        self._index: dict[str, int] = {}
        self._spare: list[tuple[Loop, int]] = []  # of OSes that have left, and their numbers
        self._owner: str | None = None

    def start(self, patterns: Sequence[str]) -> None:
        """Take the machine's card, and give each OS its own. Raises HostsimError."""
        self._card = card = _find(patterns)
        try:
            self._player = sound.open_player(card)
            self._pump = Pump(self._player)
            self._mixer = Mixer(card, self._journal)
        except OSError as error:
            self.close()
            raise _not_ours(card, error) from error
        try:
            loops = sound.take_loops(len(self._oses))
            self._loops = dict(zip(self._oses, loops, strict=True))
            for name in self._loops:
                self._take(name)
        except OSError as error:
            self.close()
            raise HostsimError("sound", reason(error)) from error
        except HostsimError:
            self.close()
            raise
        log.info("sound card %s: taken, %d frames a second", card.name, self._pump.rate)

    def _take(self, name: str) -> None:
        """The OS's loop is taken from the machine. Raises OSError."""
        assert self._pump is not None
        assert self._mixer is not None
        loop = self._loops[name]
        self._journal.add("loop", number=str(loop.card.number))
        loop.away()
        self._index[name] = self._pump.add(loop.capture, loop.control)
        self._mixer.add(name, loop.card)
        self._give(name)

    def join(self, name: str) -> None:
        """See `Equipment`: the loop of an OS that has left, or one that nobody has."""
        if self._mixer is None:
            return
        if not self._spare:
            (self._loops[name],) = sound.take_loops(1, have=len(self._loops))
            self._take(name)
            return
        self._loops[name], self._index[name] = self._spare.pop()
        self._mixer.add(name, self._loops[name].card)
        self._give(name)

    def leave(self, name: str) -> None:
        """See `Equipment`. The pump has its loop as long as it runs: the next OS gets it."""
        if self._mixer is not None:
            self._mixer.remove(name)
        loop, index = self._loops.pop(name, None), self._index.pop(name, None)
        if loop is not None and index is not None:
            self._spare.append((loop, index))
        elif loop is not None:
            _close(loop)

    def os_back(self, name: str) -> None:
        """The OS was started again: it finds its card."""
        self._give(name)

    def identify(self) -> list[Json]:
        """See `Equipment`."""
        if self._card is None or self._pump is None or self._mixer is None:
            return []
        return [
            {
                "name": self._card.name,
                "node": f"/dev/snd/{self._card.players[0]}",
                "mode": "sound",
                "owner": self._owner,
                "states": {
                    name: {
                        "node": f"/dev/snd/{loop.card.control}",
                        "mixer": self._mixer.state(name),
                    }
                    for name, loop in self._loops.items()
                },
                "counters": self._pump.stats(),
            }
        ]

    def save(self, name: str) -> None:
        """See above."""
        if self._mixer is not None:
            self._mixer.save(name)

    def release(self, name: str) -> None:
        """See above."""
        if self._pump is not None:
            self._pump.release()
        if self._mixer is not None:
            self._mixer.release()
        self._owner = None

    def restore(self, name: str) -> None:
        """See above."""
        if self._mixer is not None:
            self._mixer.restore(name)

    def take(self, name: str) -> None:
        """See above."""
        if self._pump is not None:
            self._pump.take(self._index[name])
        if self._mixer is not None:
            self._mixer.take(name)
        self._owner = name

    def close(self) -> None:
        """See `Equipment`. The loops stay, and are nobody's."""
        if self._pump is not None:
            self._pump.close()
        if self._mixer is not None:
            self._mixer.close()
        if self._player >= 0:
            os.close(self._player)
        for loop in (*self._loops.values(), *(loop for loop, _ in self._spare)):
            _close(loop)
        self._loops.clear()
        self._spare.clear()
        self._pump, self._mixer, self._player = None, None, -1

    def _give(self, name: str) -> None:
        """The nodes of the OS's loop. What is in the way in the OS is its own affair."""
        vm, loop = self._oses[name], self._loops[name]
        if not vm.alive:
            return
        try:
            group = group_of(vm, "audio")
            with tree.folder(vm.dev_fd, "snd") as folder:
                for node, rdev in loop.near.items():
                    vm.devices.allow(os.major(rdev), os.minor(rdev))
                    evnode.make(folder, node, rdev, vm.owner, group)
            _say_default(vm, loop.card)
        except OSError as error:
            log.warning("%s goes without sound: %s", name, reason(error))


def _close(loop: Loop) -> None:
    loop.close()
    with contextlib.suppress(OSError):  # `clean` tries again
        sound.back(str(loop.card.number))


def _find(patterns: Sequence[str]) -> Card:
    there = [card for card in sound.cards() if not card.is_loop and card.players]
    for card in there:
        names = card.name, f"card{card.number}"
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names):
            return card
    raise HostsimError(
        "[[device]] match: sound",
        f"no sound card that plays is called {' or '.join(patterns)}",
        f"there are: {', '.join(card.name for card in there) or 'none'}",
    )


def _not_ours(card: Card, error: OSError) -> HostsimError:
    hint = {
        errno.EBUSY: f"another program plays there: fuser -v /dev/snd/{card.players[0]}",
        errno.EAGAIN: f"another program plays there: fuser -v /dev/snd/{card.players[0]}",
        errno.EINVAL: "it has no format that a loop (snd-aloop) has too",
    }.get(error.errno or 0, "")
    return HostsimError(f"sound card {card.name}", reason(error), hint)


def _is_ours(etc: int) -> bool:
    """Whether there is no such file of somebody else's."""
    try:
        with open(open_beneath(etc, ASOUND, os.O_RDONLY), "rb") as file:
            return file.read(CONF_MAX).startswith(MARK)
    except FileNotFoundError:
        return True


def _say_default(vm: Vm, card: Card) -> None:
    """The OS's /etc/asound.conf, if that is its own file and says nothing yet: alsa-lib's default
    is card 0, and a card's number is the same in every OS. Raises OSError."""
    if vm.spec.root is None and vm.spec.files != "private":
        return
    with tree.root(vm.pid) as root:
        etc = open_beneath(root, "etc", os.O_PATH | os.O_DIRECTORY, across=True)
    try:
        if _is_ours(etc):
            tree.write(etc, ASOUND, CONF % ((card.number,) * 4), 0o644)
    finally:
        os.close(etc)
