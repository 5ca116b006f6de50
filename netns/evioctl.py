# SPDX-License-Identifier: Apache-2.0
"""evdev and uinput by their ioctls (linux/input.h, linux/uinput.h): names and descriptions as the
kernel gives them, in bytes, for a device may say anything of itself. All raise OSError (ENODEV:
unplugged).
"""

import errno
import fcntl
import struct
from typing import NamedTuple

EV_SYN, EV_KEY, EV_REL, EV_ABS, EV_MSC, EV_SW = range(6)
EV_LED, EV_SND, EV_REP, EV_FF = 0x11, 0x12, 0x14, 0x15
ABS_MT_SLOT, ABS_MT_TRACKING_ID = 0x2F, 0x39

CODES = {
    EV_KEY: 0x300,
    EV_REL: 0x10,
    EV_ABS: 0x40,
    EV_MSC: 0x08,
    EV_SW: 0x11,
    EV_LED: 0x10,
    EV_SND: 0x08,
    EV_FF: 0x80,
}
"""How many codes there are of each type of events (KEY_CNT and the like)."""

PROPERTIES = 0x20  # INPUT_PROP_CNT
TEXT = 256  # of a name, EVIOCGPHYS and the like; the kernel cuts what is longer

_WRITE, _READ = 1, 2
_ABS = struct.Struct("6i")  # input_absinfo: value, minimum, maximum, fuzz, flat, resolution
_ID = struct.Struct("4H")  # input_id: bustype, vendor, product, version


def number(direction: int, kind: str, nr: int, size: int) -> int:
    """_IOC(direction, kind, nr, size) of asm-generic/ioctl.h."""
    return direction << 30 | size << 16 | ord(kind) << 8 | nr


class Axis(NamedTuple):
    """struct input_absinfo."""

    value: int
    minimum: int
    maximum: int
    fuzz: int
    flat: int
    resolution: int


def _get(fd: int, nr: int, size: int) -> bytes:
    buffer = bytearray(size)
    fcntl.ioctl(fd, number(_READ, "E", nr, size), buffer)
    return bytes(buffer)


def _bits(data: bytes) -> list[int]:
    whole = int.from_bytes(data, "little")
    return [code for code in range(len(data) * 8) if whole >> code & 1]


def text(fd: int, nr: int) -> bytes:
    """EVIOCGNAME (0x06), EVIOCGPHYS (0x07), EVIOCGUNIQ (0x08); empty if it says none."""
    try:
        return _get(fd, nr, TEXT).split(b"\0")[0]
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return b""


def identity(fd: int) -> tuple[int, int, int, int]:
    """Bus type, vendor, product, version (EVIOCGID)."""
    return _ID.unpack(_get(fd, 0x02, _ID.size))


def properties(fd: int) -> list[int]:
    """Its INPUT_PROP_... (EVIOCGPROP)."""
    return _bits(_get(fd, 0x09, PROPERTIES // 8))


def able(fd: int) -> dict[int, list[int]]:
    """The codes of each type of events that it has (EVIOCGBIT); EV_SYN's are the types."""
    types = _bits(_get(fd, 0x20, 4))
    found = {EV_SYN: types}
    for kind in types:
        if kind in CODES:
            found[kind] = _bits(_get(fd, 0x20 + kind, (CODES[kind] + 7) // 8))
    return found


def axis(fd: int, code: int) -> Axis:
    """How an axis is, and is calibrated (EVIOCGABS)."""
    return Axis(*_ABS.unpack(_get(fd, 0x40 + code, _ABS.size)))


def set_axis(fd: int, code: int, wanted: Axis) -> None:
    """EVIOCSABS, which takes whatever it is told."""
    fcntl.ioctl(fd, number(_WRITE, "E", 0xC0 + code, _ABS.size), _ABS.pack(*wanted))


def down(fd: int) -> list[int]:
    """Codes of the keys that are down (EVIOCGKEY)."""
    return _bits(_get(fd, 0x18, CODES[EV_KEY] // 8))


def lit(fd: int) -> list[int]:
    """Codes of the LEDs that are on (EVIOCGLED)."""
    return _bits(_get(fd, 0x19, 2))


def repeat(fd: int) -> tuple[int, int]:
    """Delay and period of autorepeat, in ms (EVIOCGREP)."""
    delay, period = struct.unpack("2I", _get(fd, 0x03, 8))
    return delay, period


def set_repeat(fd: int, rate: tuple[int, int]) -> None:
    """EVIOCSREP."""
    fcntl.ioctl(fd, number(_WRITE, "E", 0x03, 8), struct.pack("2I", *rate))


def effects(fd: int) -> int:
    """How many force feedback effects it can have at a time (EVIOCGEFFECTS)."""
    return int.from_bytes(_get(fd, 0x84, 4), "little")


def grab(fd: int, on: bool) -> None:
    """EVIOCGRAB. EBUSY: another open file has it so."""
    fcntl.ioctl(fd, number(_WRITE, "E", 0x90, 4), int(on))
