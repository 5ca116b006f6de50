# SPDX-License-Identifier: Apache-2.0
"""The drivers' side of a flip: the interface that everything an OS can own implements.

A driver looks after all devices of its kind. The KMC calls, in this order and never for two OSes
at once: `ask(old)`, `lift(old)`, `unread(old)` until it is 0 or the deadline has come, `save(old)`,
`release(old)`, then `restore(new)`, `take(new)`. An OS that died, or whose agent is gone, is not
asked. After `release` has returned, no input reaches the old OS, and nothing the old OS does
reaches the device. A device that goes away in the middle is dropped, with a line in the log, and
fails nothing.
"""

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Sequence

from hostsim.model import DeviceSpec, Json
from netns.evdevices import Identity
from netns.hotplug import InputNode


class Equipment(ABC):
    """A driver: `mirror`, `direct` (input devices), `nics` (network interfaces), `screen`, `sound`.
    Methods are called in the daemon's loop and return quickly (a few ms; an interface takes some
    tens).

    `release` raises OSError if the OS may still have something; the driver is closed then, and out
    of use. Nothing else raises for a device's sake."""

    leads = False
    """Whether it takes before the drivers that are in front of it: a compositor that has its screen
    reads the input that comes after, one that has not may miss it."""

    @abstractmethod
    def identify(self) -> list[Json]:
        """The devices: name, mode, owner, and what is saved for each OS."""

    def join(self, name: str) -> None:  # noqa: B027 - optional
        """The OS is new on the host, in the background: it gets what each OS has. Raises OSError,
        HostsimError; `leave` then."""

    def leave(self, name: str) -> None:  # noqa: B027 - optional
        """The OS, which has nothing of what moves, leaves the host. Also after half a `join`."""

    def ask(self, name: str) -> None:  # noqa: B027 - optional
        """The OS has been asked to let go, and goes on using what it has for a moment."""

    def lift(self, name: str) -> None:  # noqa: B027 - optional
        """The OS is ready to lose what it has: end what is pressed, so that its programs see it
        end before the equipment goes. They are given the time to read that (`unread`)."""

    def unread(self, name: str) -> int:
        """How many files of the OS hold input from before `ask` that a release would discard."""
        return 0

    def save(self, name: str) -> None:  # noqa: B027 - optional
        """Note how the equipment is set for the OS that has it."""

    @abstractmethod
    def release(self, name: str) -> None:
        """Take everything from the OS."""

    def restore(self, name: str) -> None:  # noqa: B027 - optional
        """Set the equipment as the OS had it; nobody has it yet."""

    @abstractmethod
    def take(self, name: str) -> None:
        """Give everything to the OS."""

    @abstractmethod
    def close(self) -> None:
        """Give the equipment back to the machine, as it was found. Twice is harmless."""


def matches(spec: DeviceSpec, identity: Identity, node: InputNode) -> bool:
    """Whether a device is what a `[[device]]` means: every key of `match` holds."""
    for key, wanted in spec.match.items():
        if key in ("vendor", "product"):
            if getattr(identity, key) != wanted:
                return False
        elif key in ("name", "phys", "uniq"):
            if not fnmatch.fnmatchcase(getattr(identity, key), str(wanted)):
                return False
        elif not fnmatch.fnmatchcase(node.properties.get(key, ""), str(wanted)):
            return False
    return True


def first_match(
    specs: Sequence[DeviceSpec], identity: Identity, node: InputNode
) -> DeviceSpec | None:
    """The first `[[device]]` of the file that means this device."""
    return next((spec for spec in specs if matches(spec, identity, node)), None)
