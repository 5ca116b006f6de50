# SPDX-License-Identifier: Apache-2.0
"""Each OS's mixer: elements on its loop that look like those of the machine's card, and mean them
while the OS is the foreground.

An OS sets its own elements, at any time. What it sets is kept; on the machine's card it is while
the OS is the foreground. What else changes the card meanwhile (a program of the machine) counts as
the foreground's. An OS begins with what was found on the card, which comes back at the end; it is
in the journal before.

What an OS writes is hostile: it is brought into the element's range, and looked at once in PAUSE
seconds. An OS that removes or locks its elements goes without.
"""

import asyncio
import contextlib
import logging
import os

from cext.sound import mixer
from cext.sound.mixer import Element
from hostsim.errors import reason
from netns import sound
from netns.journal import Journal
from netns.sound import Card

log = logging.getLogger("hostsim.kmc")

PAUSE = 0.02
"""Seconds between two looks at what an OS has set."""
EVENTS = 4096
"""Bytes of events that are read at once."""

Values = tuple[int, ...]


class Mixer:
    """The mixers of one card and its OSes' loops. All methods run in the daemon's loop. Raises
    OSError."""

    def __init__(self, card: Card, journal: Journal) -> None:
        self._card = card
        self._fd = sound.open_control(card)
        try:
            self._words = sound.mixer_words(self._fd)
            self._elements = mixer.elements(self._fd)
            self._found = {one.number: mixer.read(self._fd, one.number) for one in self._elements}
            journal.add("mixer", card=card.name, state=self._words)
        except OSError:
            os.close(self._fd)
            raise
        self._theirs: dict[str, int] = {}  # descriptors of the loops
        self._numbers: dict[str, dict[int, int]] = {}  # by the card's number: the loop's
        self._kept: dict[str, dict[int, Values]] = {}
        self._pauses: dict[str, asyncio.TimerHandle] = {}
        self._owner: str | None = None

    def add(self, name: str, loop: Card) -> None:
        """The OS's loop gets its elements."""
        fd = self._theirs[name] = sound.open_control(loop)
        mixer.clear(fd)
        self._kept[name] = dict(self._found)
        numbers = self._numbers[name] = {}
        for one in self._elements:
            try:
                numbers[one.number] = mixer.like(self._fd, one.number, fd)
                mixer.write(fd, numbers[one.number], self._found[one.number])
            except OSError as error:
                log.warning("%s goes without %s: %s", name, one.name, reason(error))
        mixer.watch(fd)
        asyncio.get_running_loop().add_reader(fd, self._changed, name)

    def remove(self, name: str) -> None:
        """The OS has left: its loop has no elements. One that has none is no error."""
        if (timer := self._pauses.pop(name, None)) is not None:
            timer.cancel()
        fd = self._theirs.pop(name, -1)
        self._numbers.pop(name, None)
        self._kept.pop(name, None)
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            with contextlib.suppress(OSError):
                mixer.clear(fd)
            os.close(fd)

    def state(self, name: str) -> dict[str, list[int]]:
        """What an OS has set, by the elements' names."""
        kept = self._kept.get(name, {})
        return {one.name: list(kept[one.number]) for one in self._elements if one.number in kept}

    def save(self, name: str) -> None:
        """See `Equipment`."""
        self._look(name)
        for one in self._elements:
            with contextlib.suppress(OSError):  # unplugged; its own
                values = mixer.read(self._fd, one.number)
                if values != self._kept[name][one.number]:
                    self._kept[name][one.number] = values
                    mixer.write(self._theirs[name], self._numbers[name][one.number], values)

    def release(self) -> None:
        """See `Equipment`."""
        self._owner = None

    def restore(self, name: str) -> None:
        """See `Equipment`."""
        self._look(name)
        for one in self._elements:
            self._set(one, self._kept[name][one.number])

    def take(self, name: str) -> None:
        """See `Equipment`."""
        self._owner = name

    def close(self) -> None:
        """The card is as it was found, and the loops have no elements. Twice is harmless."""
        for timer in self._pauses.values():
            timer.cancel()
        for fd in self._theirs.values():
            asyncio.get_running_loop().remove_reader(fd)
            with contextlib.suppress(OSError):
                mixer.clear(fd)
            os.close(fd)
        self._theirs.clear()
        self._pauses.clear()
        if self._fd >= 0:
            try:
                sound.mixer_back(self._card.name, self._words)
            except OSError as error:
                log.warning("mixer of %s: not as it was found: %s", self._card.name, reason(error))
            os.close(self._fd)
            self._fd = -1

    def _changed(self, name: str) -> None:
        """Once, and then not for a while."""
        fd = self._theirs[name]
        with contextlib.suppress(BlockingIOError):
            while len(os.read(fd, EVENTS)) == EVENTS:
                pass
        loop = asyncio.get_running_loop()
        loop.remove_reader(fd)
        self._look(name)
        self._pauses[name] = loop.call_later(PAUSE, loop.add_reader, fd, self._changed, name)

    def _look(self, name: str) -> None:
        """What the OS has set is kept, and set if it is the foreground."""
        for one in self._elements:
            number = self._numbers[name].get(one.number)
            if number is None:
                continue
            with contextlib.suppress(OSError):  # it has removed it
                there = mixer.read(self._theirs[name], number)
                values = tuple(min(max(value, one.least), one.most) for value in there)
                if len(values) == one.count and values != self._kept[name][one.number]:
                    self._kept[name][one.number] = values
                    if name == self._owner:
                        self._set(one, values)

    def _set(self, one: Element, values: Values) -> None:
        """On the machine's card."""
        try:
            if mixer.read(self._fd, one.number) != values:
                mixer.write(self._fd, one.number, values)
        except OSError as error:
            log.warning("mixer of %s: %s: %s", self._card.name, one.name, reason(error))
