"""Input devices: the real node, and clones of it (evdev and uinput, through python-evdev).

The only module that imports evdev. A `Source` owns the descriptor of a real node, a `Clone` that
of a uinput device; both are non-blocking. Errors are the kernel's (OSError; ENODEV: unplugged).
"""

import contextlib
import errno
import fcntl
import os
import re
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evdev import InputDevice, UInput, UInputError, ecodes

from cext.input import evnode

_EVIOCSCLOCKID = 0x400445A0
_EVENT = struct.Struct("llHHi")

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


@contextlib.contextmanager
def _kernel_errors() -> Iterator[None]:
    """python-evdev forgets the errno where an ioctl fails: on an unplugged device."""
    try:
        yield
    except SystemError:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None


class Source:
    """A real device's node, open for reading and writing. Raises OSError."""

    def __init__(self, node: str) -> None:
        self._device = InputDevice(node)
        self.node = node
        self.sysname = os.path.basename(node)
        self.rdev = os.stat(node).st_rdev
        info = self._device.info
        self.identity = Identity(
            self._device.name,
            self._device.phys,
            self._device.uniq,
            info.bustype,
            info.vendor,
            info.product,
            info.version,
        )
        self._codes = self._device.capabilities(absinfo=False)
        # EV_REP and the like have no codes, and are in the list of types only
        self.types = frozenset(self._codes[ecodes.EV_SYN])

    def fileno(self) -> int:
        """The descriptor; it stays ours."""
        fd: int = self._device.fd
        return fd

    def codes(self, kind: int) -> list[int]:
        """The codes it has of one type of events (EVIOCGBIT)."""
        return list(self._codes.get(kind, ()))

    def inject(self, events: Sequence[tuple[int, int, int]]) -> None:
        """Write (type, code, value) as one frame: of what the device reports, all readers and the
        kernel's own record have it so; of what it obeys (LEDs, sounds, gain), it does so."""
        for event in events:
            self._device.write(*event)
        if events:
            self._device.syn()

    def grab(self) -> None:
        """No other reader gets an event from now on (EVIOCGRAB). EBUSY: somebody else has it so."""
        self._device.grab()

    def ungrab(self) -> None:
        """Undo `grab`; a device that is gone or was not grabbed is no error."""
        with contextlib.suppress(OSError):
            self._device.ungrab()

    def held(self) -> list[int]:
        """Codes of the keys and buttons that are down."""
        with _kernel_errors():
            keys: list[int] = self._device.active_keys()
        return keys

    def lift(self, keep: frozenset[int] = frozenset()) -> int:
        """Release every key that is down, but for those to `keep`, for all readers and for the
        kernel's own record; how many.

        The event is injected (write(2) on the node), so the real release, when it comes, is no
        change any more and reaches nobody.
        """
        return evnode.still(self._device.fd, keep, keys=True)

    def still(self, keep: frozenset[int] = frozenset()) -> None:
        """`lift`; and lift every contact, silence bells and tones, and set force feedback's gain to
        full and its centring to none, as the drivers start. The hardware's next report of a finger
        that is still there begins a new contact."""
        evnode.still(self._device.fd, keep)

    def leds(self) -> list[int]:
        """Codes of the LEDs that are on."""
        if ecodes.EV_LED not in self.types:
            return []
        with _kernel_errors():
            lit: list[int] = self._device.leds()
        return lit

    def set_leds(self, lit: list[int]) -> None:
        """Exactly these LEDs on."""
        if ecodes.EV_LED not in self.types:
            return
        leds = self.codes(ecodes.EV_LED)
        self.inject([(ecodes.EV_LED, code, int(code in lit)) for code in leds])

    def repeat(self) -> tuple[int, int] | None:
        """(delay, period) of autorepeat in ms (EVIOCGREP), None where the device has none."""
        if ecodes.EV_REP not in self.types:
            return None
        rate = self._device.repeat
        return rate.delay, rate.repeat

    def set_repeat(self, rate: tuple[int, int] | None) -> None:
        """Set what `repeat` gave."""
        if rate is not None and ecodes.EV_REP in self.types:
            self._device.repeat = rate

    def monotonic(self) -> None:
        """Have events stamped by CLOCK_MONOTONIC (EVIOCSCLOCKID)."""
        fcntl.ioctl(self._device.fd, _EVIOCSCLOCKID, struct.pack("i", time.CLOCK_MONOTONIC))

    def close(self) -> None:
        """Close the descriptor, which also undoes a grab. Twice is harmless."""
        self._device.close()


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


class Clone:
    """A uinput device like another one: name, ids, phys, properties, abilities, axes.

    uniq is the one thing uinput(4) cannot set. It lives until `close`. Raises OSError (EACCES,
    ENOENT: no uinput in this kernel).
    """

    def __init__(self, source: Source) -> None:
        device = source._device
        identity = source.identity
        events: dict[int, Sequence[int]] = dict(device.capabilities())
        events.pop(ecodes.EV_SYN, None)
        events.update({kind: [] for kind in source.types if kind and kind not in events})
        try:
            self._uinput = UInput(
                events,
                name=identity.name,
                vendor=identity.vendor,
                product=identity.product,
                version=identity.version,
                bustype=identity.bustype,
                phys=identity.phys,
                input_props=device.input_props(),
                max_effects=device.ff_effects_count if ecodes.EV_FF in events else 0,
            )
        except UInputError as error:
            raise OSError(str(error)) from error
        node = self._uinput.device
        self.sysname = os.path.basename(os.fsdecode(node.path))
        self.rdev = os.stat(node.path).st_rdev
        if (rate := source.repeat()) is not None:
            node.repeat = rate
        node.close()  # an open reader of ours would only fill up

    def fileno(self) -> int:
        """uinput's descriptor: events written become the clone's, LEDs set on it are read."""
        fd: int = self._uinput.fd
        return fd

    def close(self) -> None:
        """Destroy the device. Twice is harmless."""
        self._uinput.close()


def classify(source: Source) -> dict[str, str]:
    """What udev's input_id says of a device (systemd, src/udev/udev-builtin-input_id.c), for a
    machine without a udev daemon: ID_INPUT and its kinds, by abilities."""
    able = source._device.capabilities(absinfo=False)
    keys, rel, axes = (set(able.get(kind, ())) for kind in (1, 2, 3))
    props = set(source._device.input_props())
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
    if not re.match("KEY_|BTN_", name):
        raise KeyError(name)
    return code


def led_names(codes: list[int]) -> list[str]:
    """LED codes by name."""
    return [str(ecodes.LED.get(code, code)) for code in codes]


def uinput_available() -> bool:
    """Whether clones can be made."""
    return Path("/dev/uinput").is_char_device()
