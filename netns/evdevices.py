# SPDX-License-Identifier: Apache-2.0
"""Input devices: the real node; a clone of it is in `uinput`, the ioctls in `evioctl`.

The only module that imports evdev, for the names of codes. A `Source` owns the descriptor of a real
node, which is non-blocking. Errors are the kernel's (OSError; ENODEV: unplugged).
"""

import contextlib
import fcntl
import os
import re
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from evdev import UInput, ecodes

from cext.input import evnode
from netns import evioctl

_EVIOCSCLOCKID = 0x400445A0
_EVENT = struct.Struct("llHHi")

KEY_CNT: int = ecodes.ecodes["KEY_MAX"] + 1

MODIFIERS = frozenset(
    ecodes.ecodes[f"KEY_{side}{key}"]
    for side in ("LEFT", "RIGHT")
    for key in ("SHIFT", "CTRL", "ALT", "META")
)


@dataclass(frozen=True)
class Identity:
    """What a device says of itself (EVIOCGNAME, EVIOCGPHYS, EVIOCGUNIQ, EVIOCGID)."""

    name: str
    phys: str
    uniq: str
    bustype: int
    vendor: int
    product: int
    version: int

    @property
    def key(self) -> str:
        """The same for a device that was unplugged and came back."""
        return (
            f"{self.bustype:04x}:{self.vendor:04x}:{self.product:04x}:{self.version:04x}"
            f"/{self.name}/{self.phys}/{self.uniq}"
        )


def shown(raw: bytes) -> str:
    """What a device says of itself, fit for a line and for JSON: what is no UTF-8, or cannot be
    printed, stands as an escape."""
    text = raw.decode(errors="backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


class Source:
    """A real device's node, open for reading and writing. Raises OSError.

    name, phys: as bytes, exactly as the device has them; `identity` has them fit to be shown.
    able: the codes of each type of events that it has.
    effects: how many of force feedback it can have at a time.

    at: where the node is now, if it is not in its place. flags: os.O_RDONLY: nothing can be written
    to the device through this one.
    """

    def __init__(self, node: str, at: str | None = None, flags: int = os.O_RDWR) -> None:
        self._fd = os.open(at or node, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fd = self._fd
            self.node = node
            self.sysname = os.path.basename(node)
            self.rdev = os.fstat(fd).st_rdev
            self.name, self.phys, uniq = (evioctl.text(fd, nr) for nr in (0x06, 0x07, 0x08))
            self.identity = Identity(
                shown(self.name), shown(self.phys), shown(uniq), *evioctl.identity(fd)
            )
            self.able = evioctl.able(fd)
            # EV_REP and the like have no codes, and are in the list of types only
            self.types = frozenset(self.able[ecodes.EV_SYN])
            self.properties = evioctl.properties(fd)
            self.effects = evioctl.effects(fd)
        except OSError:
            os.close(fd)
            raise

    def fileno(self) -> int:
        """The descriptor; it stays ours."""
        return self._fd

    def axis(self, code: int) -> evioctl.Axis:
        """How an axis is, and is calibrated."""
        return evioctl.axis(self._fd, code)

    def codes(self, kind: int) -> list[int]:
        """The codes it has of one type of events (EVIOCGBIT)."""
        return list(self.able.get(kind, ()))

    def inject(self, events: Sequence[tuple[int, int, int]]) -> None:
        """Write (type, code, value) as one frame: of what the device reports, all readers and the
        kernel's own record have it so; of what it obeys (LEDs, sounds, gain), it does so."""
        frame = [*events, (ecodes.EV_SYN, ecodes.SYN_REPORT, 0)] if events else []
        os.write(self._fd, b"".join(_EVENT.pack(0, 0, *event) for event in frame))

    def grab(self) -> None:
        """No other reader gets an event from now on (EVIOCGRAB). EBUSY: somebody else has it so."""
        evioctl.grab(self._fd, True)

    def ungrab(self) -> None:
        """Undo `grab`; a device that is gone or was not grabbed is no error."""
        with contextlib.suppress(OSError):
            evioctl.grab(self._fd, False)

    def held(self) -> list[int]:
        """Codes of the keys and buttons that are down."""
        return evioctl.down(self._fd)

    def press_again(self, codes: frozenset[int]) -> None:
        """Those of the keys that are down are released and pressed, in one frame: who has just
        opened the node has seen no press of them, and takes no notice of a release."""
        down = sorted(codes.intersection(self.held()))
        self.inject([(ecodes.EV_KEY, code, value) for code in down for value in (0, 1)])

    def lift(self, keep: frozenset[int] = frozenset()) -> int:
        """Release every key that is down, but for those to `keep`, for all readers and for the
        kernel's own record; how many.

        The event is injected (write(2) on the node), so the real release, when it comes, is no
        change any more and reaches nobody.
        """
        return evnode.still(self._fd, keep, keys=True)

    def still(self, keep: frozenset[int] = frozenset()) -> int:
        """`lift`; and lift every contact, silence bells and tones, and set force feedback's gain to
        full and its centring to none, as the drivers start. The hardware's next report of a finger
        that is still there begins a new contact. How many keys and contacts there were."""
        return evnode.still(self._fd, keep)

    def leds(self) -> list[int]:
        """Codes of the LEDs that are on."""
        if ecodes.EV_LED not in self.types:
            return []
        return evioctl.lit(self._fd)

    def set_leds(self, lit: list[int]) -> None:
        """Exactly these LEDs on."""
        if ecodes.EV_LED not in self.types:
            return
        leds = self.codes(ecodes.EV_LED)
        self.inject([(ecodes.EV_LED, code, int(code in lit)) for code in leds])

    def repeat(self) -> tuple[int, int] | None:
        """(delay, period) of autorepeat in ms (EVIOCGREP), None if the device has none."""
        if ecodes.EV_REP not in self.types:
            return None
        return evioctl.repeat(self._fd)

    def set_repeat(self, rate: tuple[int, int] | None) -> None:
        """Set what `repeat` gave."""
        if rate is not None and ecodes.EV_REP in self.types:
            evioctl.set_repeat(self._fd, rate)

    def monotonic(self) -> None:
        """Have events stamped by CLOCK_MONOTONIC (EVIOCSCLOCKID)."""
        fcntl.ioctl(self._fd, _EVIOCSCLOCKID, struct.pack("i", time.CLOCK_MONOTONIC))

    def close(self) -> None:
        """Close the descriptor, which also undoes a grab. Twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Feeder:
    """A mouse made through uinput, for measurements. Lives until `close`."""

    def __init__(self, name: str) -> None:
        events: dict[int, Sequence[int]] = {
            ecodes.EV_KEY: [ecodes.BTN_LEFT],
            ecodes.EV_REL: [ecodes.REL_X, ecodes.REL_Y],
        }
        self._uinput = UInput(events, name=name, phys="hostsim-bench")
        self.node = os.fsdecode(self._uinput.device.path)

    def fileno(self) -> int:
        """uinput's descriptor."""
        fd: int = self._uinput.fd
        return fd

    def move(self, values: Sequence[int]) -> None:
        """A frame with one REL_X for each value, all in one write."""
        report = _EVENT.pack(0, 0, ecodes.EV_SYN, ecodes.SYN_REPORT, 0)
        moves = (_EVENT.pack(0, 0, ecodes.EV_REL, ecodes.REL_X, value) + report for value in values)
        os.write(self._uinput.fd, b"".join(moves))

    def close(self) -> None:
        """Destroy the device. Twice is harmless."""
        self._uinput.close()


def classify(source: Source) -> dict[str, str]:
    """What udev's input_id says of a device (systemd, src/udev/udev-builtin-input_id.c), for a
    machine without a udev daemon: ID_INPUT and its kinds, by abilities."""
    able = source.able
    keys, rel, axes = (set(able.get(kind, ())) for kind in (1, 2, 3))
    props = set(source.properties)
    pen = bool(keys & {ecodes.BTN_STYLUS, ecodes.BTN_TOOL_PEN})
    points = {ecodes.ABS_X, ecodes.ABS_Y} <= axes
    kinds = {
        "KEY": any(code < ecodes.BTN_MISC or code >= ecodes.KEY_OK for code in keys),
        "KEYBOARD": set(range(1, 32)) <= keys,
        "MOUSE": {ecodes.REL_X, ecodes.REL_Y} <= rel and ecodes.BTN_LEFT in keys,
        "TABLET": points and pen,
        "TOUCHPAD": points
        and not pen
        and ecodes.BTN_TOOL_FINGER in keys
        and ecodes.INPUT_PROP_DIRECT not in props,
        "TOUCHSCREEN": points
        and not pen
        and (ecodes.BTN_TOUCH in keys)
        and (ecodes.INPUT_PROP_DIRECT in props or ecodes.BTN_TOOL_FINGER not in keys),
        "JOYSTICK": points and any(ecodes.BTN_JOYSTICK <= code < ecodes.BTN_DIGI for code in keys),
        "SWITCH": ecodes.EV_SW in able,
    }
    return {"ID_INPUT": "1", **{f"ID_INPUT_{kind}": "1" for kind, yes in kinds.items() if yes}}


def key_code(name: str) -> int:
    """The number of a key by its name in linux/input-event-codes.h. Raises KeyError."""
    code: int = ecodes.ecodes[name]
    if not re.match("KEY_|BTN_", name) or code >= KEY_CNT:
        raise KeyError(name)
    return code


def led_names(codes: list[int]) -> list[str]:
    """LED codes by name."""
    return [str(ecodes.LED.get(code, code)) for code in codes]
