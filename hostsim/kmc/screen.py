# SPDX-License-Identifier: Apache-2.0
"""screen: the machine's display belongs to the foreground OS, and each OS keeps its picture.

Compositors ask for the card through the seat server (`seats`); the KMC opens it, one file for each
OS, and no OS opens it by itself. Of a card's open files one is the master, and sets what is shown.
The KMC is it whenever no OS is: a file that is opened while there is none would be it, whoever
opens it, and could read what is shown.

    ask      the OS's client hears DISABLE_SEAT, and has release_timeout to acknowledge
    save     every property of the card is noted, and the buffers on it are held by the KMC itself
    release  the OS is master no more, the KMC is
    restore  the KMC shows what the OS had shown, before the OS has heard anything; or black
    take     the OS's file is master; only then does its client hear ENABLE_SEAT

No OS becomes master before the KMC has put something else on the screen than the picture of the OS
before. If no OS follows, that is black. Pictures that are not shown are still in the card's memory,
where a master could ask for them (GETFB): the filter of a VM's system calls refuses that
(cext/vm/filter.c).

What is plugged into a card, or taken off, the foreground OS's programs hear of at once (a udev
`change`), and those of the others when they have the screen. What a picture had on a connector that
is gone is left out when it is shown again.

The machine's text consoles draw nothing while a host has the screen, and hear no keys.

The KMC holds the old picture's memory as long as the OS is in the background, one set of buffers
for each OS. A client that goes, or gives the card back, leaves a black screen.
"""

import asyncio
import contextlib
import errno
import fnmatch
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hostsim.errors import HostsimError, reason
from hostsim.kmc.consoles import Consoles
from hostsim.kmc.equipment import Equipment
from hostsim.kmc.seats import SeatPort
from hostsim.model import Json
from hostsim.vm import Vm
from netns import card as drm
from netns.card import Card, Snapshot
from netns.console import KEYS, PICTURE
from netns.hotplug import ScreenPlugs
from netns.journal import Journal

log = logging.getLogger("hostsim.kmc")

TRIES = 3
"""How often the KMC tries to become master, before the screen is out of use."""

AFTERWARDS = 0.02
"""Seconds after a picture was noted until the one before is forgotten, and this one prepared to be
shown: a compositor is to draw before the daemon does anything else."""

DRI = Path("/dev/dri")


@dataclass
class _File:
    """An OS's open file of a card. uses: descriptors that its clients have."""

    fd: int
    uses: int = 0


@dataclass
class _Screen:
    card: Card
    files: dict[str, _File] = field(default_factory=dict)
    kept: dict[str, Snapshot] = field(default_factory=dict)
    owner: str | None = None  # whose file is master; None: the KMC's
    stale: bool = False  # the picture on it is of an OS that had it before
    path: str = ""  # in sysfs, and udev's properties: once something has changed
    properties: dict[str, str] = field(default_factory=dict)
    untold: set[str] = field(default_factory=set)  # OSes that have not heard of that


class Screens(Equipment):
    """The driver.

    open_event: gives a descriptor of an input device that the OS has, or raises OSError
    changed: tells the OS's programs of a card, by its path in sysfs and udev's properties, that
        something was plugged into it or taken off
    switch: a client of the OS asks for the OS of that number
    settled: the OS has let go, for which `unread` has waited
    offence: a client of the OS was cut off
    journal: notes how the machine's consoles were
    """

    leads = True

    def __init__(
        self,
        vms: dict[str, Vm],
        open_event: Callable[[str, str], int],
        changed: Callable[[str, str, dict[str, str]], None],
        switch: Callable[[str, int], None],
        settled: Callable[[str], None],
        offence: Callable[[str, str], None],
        journal: Journal,
    ) -> None:
        self.open_event = open_event
        self._changed = changed
        self._plugs: ScreenPlugs | None = None
        self.switch = switch
        self.settled = settled
        self.offence = offence
        self._consoles = Consoles(journal, PICTURE, KEYS)
        self._screens: dict[str, _Screen] = {}
        self._foreground: str | None = None
        self._vms = vms
        self._ports: dict[str, SeatPort] = {}
        for name in vms:
            self._seat(name)

    def start(self, patterns: tuple[str, ...]) -> None:
        """Take the cards that these names mean from the machine, and serve the seats. Raises
        HostsimError."""
        for path in sorted(DRI.glob("card[0-9]*")):
            if not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns):
                continue
            try:
                made = Card(str(path))
                made.show()
            except OSError as error:
                raise _not_ours(path, error) from error
            self._screens[path.name] = _Screen(made)
            log.info("%s: taken", path)
        if not self._screens:
            raise HostsimError(
                "[[device]] match: screen",
                f"no card in {DRI} is called {' or '.join(patterns)}",
                "a driver with kernel modesetting makes it: modprobe virtio-gpu, i915, amdgpu, ...",
            )
        self._plugs = ScreenPlugs()
        asyncio.get_running_loop().add_reader(self._plugs.fileno(), self._on_change)
        self._consoles.quiet()
        for port in self._ports.values():
            port.open()

    def _seat(self, name: str) -> None:
        """The OS has a seat server, if it is to have one; it is not open."""
        vm = self._vms[name]
        if vm.spec.os is not None and vm.spec.os.seat is not False:
            self._ports[name] = SeatPort(name, vm, self, vm.spec.os.seat == "0.9")

    def join(self, name: str) -> None:
        """See `Equipment`."""
        self._seat(name)
        for screen in self._screens.values():
            if screen.path:
                screen.untold.add(name)
        if name in self._ports:
            self._ports[name].open()

    def leave(self, name: str) -> None:
        """See `Equipment`."""
        self.os_gone(name)
        self._ports.pop(name, None)
        for screen in self._screens.values():
            screen.untold.discard(name)

    def os_gone(self, name: str) -> None:
        """The OS has ended."""
        if name in self._ports:
            self._ports[name].close()
        for screen in self._screens.values():
            kept = screen.kept.pop(name, None)
            if kept is not None:
                screen.card.forget(kept)

    def os_back(self, name: str) -> None:
        """The OS was started again."""
        if name in self._ports:
            self._ports[name].close()
            self._ports[name].open()

    # -- the driver --------------------------------------------------------------------------------

    def identify(self) -> list[Json]:
        """See `Equipment`."""
        return [
            {
                "name": name,
                "node": screen.card.path,
                "mode": "screen",
                "owner": self._foreground,
                "states": {
                    os_name: {
                        "seat": port.held,
                        "open": os_name in screen.files,
                        "picture": os_name in screen.kept,
                    }
                    for os_name, port in self._ports.items()
                },
            }
            for name, screen in self._screens.items()
        ]

    def ask(self, name: str) -> None:
        """See above."""
        if name in self._ports:
            self._ports[name].ask()

    def unread(self, name: str) -> int:
        """1 until the OS's client has acknowledged."""
        return int(name in self._ports and self._ports[name].leaving)

    def save(self, name: str) -> None:
        """See above."""
        loop = asyncio.get_running_loop()
        for screen in self._screens.values():
            # An OS that has not drawn in its turn is still shown by what was kept before.
            old = screen.kept.pop(name, None)
            if old is not None:
                loop.call_later(AFTERWARDS, screen.card.forget, old)
            if screen.owner == name:
                try:
                    screen.kept[name] = screen.card.snapshot()
                    loop.call_later(AFTERWARDS, screen.card.prepare, screen.kept[name])
                except OSError as error:
                    log.warning("%s: the picture of %s: %s", screen.card.path, name, reason(error))

    def release(self, name: str) -> None:
        """See above. Raises OSError (EBUSY)."""
        self._foreground = None
        for screen in self._screens.values():
            self._take_back(screen, name)
            # The next OS's picture follows at once, in this turn of the loop, if there is one.
            asyncio.get_running_loop().call_soon(self._clear, screen)
        if name in self._ports:
            self._ports[name].disable()

    def restore(self, name: str) -> None:
        """See above."""
        for screen in self._screens.values():
            kept = screen.kept.get(name)
            if kept is not None:
                try:
                    screen.card.show(kept)
                    screen.stale = False
                except OSError as error:
                    log.warning("%s: the picture of %s: %s", screen.card.path, name, reason(error))
            self._clear(screen)

    def take(self, name: str) -> None:
        """See above. An OS without an open file leaves the KMC master."""
        self._foreground = name
        for screen in self._screens.values():
            if name in screen.files:
                self._hand_over(screen, name)
        if name in self._ports:
            self._ports[name].enable()
        self._tell()

    def close(self) -> None:
        """See `Equipment`. The kernel's console has the screen after the last close, and draws."""
        if self._plugs is not None:
            asyncio.get_running_loop().remove_reader(self._plugs.fileno())
            self._plugs.close()
            self._plugs = None
        for port in self._ports.values():
            port.close()
        for screen in self._screens.values():
            for file in screen.files.values():
                drm.drop(file.fd)
                os.close(file.fd)
            screen.card.close()
            screen.stale = False
        self._screens.clear()
        self._consoles.give_back()

    # -- what clients ask for (seats.Handler) ------------------------------------------------------

    def open_card(self, name: str, card: str) -> int:
        """See `seats.Handler`. The first one makes the OS's file; further ones are the same."""
        screen = self._screens.get(card)
        if screen is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), card)
        if name != self._foreground:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), card)
        if name not in screen.files:
            screen.files[name] = _File(drm.open_card(screen.card.path))
            # Being master once settles that later only we can make it so: an OS's process has not
            # the right (drm_auth.c, was_master and CAP_SYS_ADMIN).
            self._hand_over(screen, name)
        screen.files[name].uses += 1
        return os.dup(screen.files[name].fd)

    def card_shut(self, name: str, card: str) -> None:
        """See `seats.Handler`. The OS may still have copies: they are master no more."""
        screen = self._screens.get(card)
        if screen is None:
            return
        file = screen.files[name]
        file.uses -= 1
        if file.uses:
            return
        if screen.owner == name:
            try:
                self._take_back(screen, name)
                self._clear(screen)
            except OSError as error:
                log.error("%s: cannot be taken from %s: %s", screen.card.path, name, reason(error))
        os.close(file.fd)
        del screen.files[name]

    def left(self, name: str) -> None:
        """See `seats.Handler`: its last picture goes too."""
        for screen in self._screens.values():
            kept = screen.kept.pop(name, None)
            if kept is not None:
                screen.card.forget(kept)

    # -- inside ------------------------------------------------------------------------------------

    def _on_change(self) -> None:
        """A screen was plugged in or taken off. The foreground OS hears it now, others when their
        turn comes: until then they could do nothing about it."""
        assert self._plugs is not None
        for card, path, properties in self._plugs.changes():
            screen = self._screens.get(card)
            if screen is not None:
                screen.path, screen.properties = path, {**properties, "HOTPLUG": "1"}
                screen.untold = set(self._ports)
        self._tell()

    def _tell(self) -> None:
        for screen in self._screens.values():
            if self._foreground in screen.untold:
                screen.untold.discard(self._foreground)
                self._changed(self._foreground, screen.path, screen.properties)

    def _clear(self, screen: _Screen) -> None:
        """Black, unless something else than an old picture is shown already."""
        if screen.stale:
            try:
                screen.card.show()
                screen.stale = False
            except OSError as error:
                log.error("%s: cannot be cleared: %s", screen.card.path, reason(error))

    def _hand_over(self, screen: _Screen, name: str) -> None:
        """From the KMC to the OS's file. If that cannot be, or the screen cannot be cleared, the
        KMC keeps it; if it cannot have it either, the next `release` takes the screen out of
        use."""
        self._clear(screen)
        if screen.stale:
            return
        screen.card.drop()
        try:
            drm.master(screen.files[name].fd)
            screen.owner = name
        except OSError as error:
            log.error("%s: not given to %s: %s", screen.card.path, name, reason(error))
            with contextlib.suppress(OSError):
                screen.card.claim()

    def _take_back(self, screen: _Screen, name: str) -> None:
        """From the OS to the KMC. Raises OSError."""
        if name in screen.files:
            drm.drop(screen.files[name].fd)
        for left in reversed(range(TRIES)):
            try:
                screen.card.claim()
                break
            except OSError:
                if not left:
                    raise
        screen.owner = None
        screen.stale = True


def _not_ours(path: Path, error: OSError) -> HostsimError:
    hint = {
        errno.EBUSY: "another program has the screen: end it, or its session",
        errno.EACCES: "another program has the screen: end it, or its session",
        errno.EOPNOTSUPP: "its driver has no atomic modesetting",
        errno.EINVAL: "its driver has no atomic modesetting",
    }.get(error.errno or 0, "")
    return HostsimError(f"screen {path}", reason(error), hint)
