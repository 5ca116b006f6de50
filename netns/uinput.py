# SPDX-License-Identifier: Apache-2.0
"""uinput: a device like another one (Documentation/input/uinput.rst, linux/uinput.h).

uinput refuses descriptions that the kernel itself lets pass from a driver: an empty name, one of 80
bytes and more, axes whose values defy their range, force feedback without room for an effect. A
clone of such a device is made with the next description that it takes, and its axes are set as the
device has them afterwards, when nobody checks them.
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Collection
from pathlib import Path

from netns import evioctl
from netns.evdevices import Source
from netns.evioctl import EV_ABS, EV_FF, EV_REP, EV_SYN, Axis

NAME_MAX = 79
"""Bytes of a name (UINPUT_MAX_NAME_SIZE, without its NUL)."""

SLOTS_MAX = 1024
"""Contacts that the kernel lets a device have (drivers/input/input-mt.c)."""

APPEAR = 2.0
"""Seconds for a node to be made: devtmpfs does it before UI_DEV_CREATE returns."""

_INT_MAX = 2**31 - 1
_SETUP = struct.Struct("4H80sI")  # uinput_setup: input_id, name, ff_effects_max
_ABS_SETUP = struct.Struct("H2x6i")  # uinput_abs_setup
_SET = {1: 101, 2: 102, 3: 103, 4: 104, 5: 109, 0x11: 105, 0x12: 106, 0x15: 107}
"""By type of events, the number of its UI_SET_...BIT."""


def _request(nr: int, size: int = 4, direction: int = 1) -> int:
    return evioctl.number(direction, "U", nr, size)


_CREATE, _DESTROY = _request(1, 0, 0), _request(2, 0, 0)
_DEV_SETUP, _SET_ABS = _request(3, _SETUP.size), _request(4, _ABS_SETUP.size)
_SET_EVBIT, _SET_PHYS, _SET_PROPBIT = _request(100), _request(108, 8), _request(110)
_SYSNAME = 64


def fitting_name(name: bytes) -> bytes:
    """A name as near to `name` as uinput takes: not empty, at most NAME_MAX bytes, and not cut
    within a character of UTF-8."""
    cut = name[:NAME_MAX]
    if len(name) > NAME_MAX:
        while cut and name[len(cut)] & 0xC0 == 0x80 and len(cut) > NAME_MAX - 4:
            cut = cut[:-1]
    return cut or b"unnamed"


def fitting_axis(code: int, axis: Axis) -> Axis:
    """An axis as near to `axis` as uinput takes."""
    low, high = axis.minimum, axis.maximum
    if high < low and (low, high) != (0, 0):
        low, high = high, low
    if code == evioctl.ABS_MT_SLOT:
        low, high = 0, max(0, min(high, SLOTS_MAX - 1))
    reach = high - low
    flat = axis.flat if reach > _INT_MAX else min(axis.flat, reach)
    return axis._replace(minimum=low, maximum=high, flat=flat)


class Clone:
    """A uinput device like another one: name, ids, phys, properties, abilities, axes.

    uniq is the one thing uinput(4) cannot set, and a name is cut (`fitting_name`). It lives until
    `close`. Raises OSError (EACCES, ENOENT: no uinput in this kernel).

    kinds: the types of events that it has of those of the device; all, if none are named.
    """

    def __init__(self, source: Source, kinds: Collection[int] = ()) -> None:
        self._node = -1
        self._fd = os.open("/dev/uinput", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            axes = self._describe(source, kinds)
            fcntl.ioctl(self._fd, _CREATE)
            self.sysname = self._find()
            node = f"/dev/input/{self.sysname}"
            self.rdev = _appeared(node)
            self._node = os.open(node, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._finish(node, source, axes, not kinds or EV_REP in kinds)
        except OSError:
            self.close()
            raise

    def _describe(self, source: Source, kinds: Collection[int]) -> dict[int, Axis]:
        """Everything that uinput is told; the axes as they are to be."""
        identity = source.identity
        able = {kind: c for kind, c in source.able.items() if not kinds or kind in kinds}
        for kind in source.types.intersection({EV_SYN, *kinds}) if kinds else source.types:
            fcntl.ioctl(self._fd, _SET_EVBIT, kind)
        for kind, codes in able.items():
            for code in codes if kind in _SET else ():
                fcntl.ioctl(self._fd, _request(_SET[kind]), code)
        for prop in source.properties:
            fcntl.ioctl(self._fd, _SET_PROPBIT, prop)
        if source.phys:
            fcntl.ioctl(self._fd, _SET_PHYS, source.phys + b"\0")
        axes = {code: source.axis(code) for code in able.get(EV_ABS, ())}
        for code, axis in axes.items():
            packed = _ABS_SETUP.pack(code, *fitting_axis(code, axis))
            fcntl.ioctl(self._fd, _SET_ABS, packed)
        ids = (identity.bustype, identity.vendor, identity.product, identity.version)
        effects = max(1, source.effects) if EV_FF in able else 0
        fcntl.ioctl(self._fd, _DEV_SETUP, _SETUP.pack(*ids, fitting_name(source.name), effects))
        return axes

    def _find(self) -> str:
        buffer = bytearray(_SYSNAME)
        fcntl.ioctl(self._fd, _request(44, _SYSNAME, 2), buffer)
        self._folder = Path("/sys/devices/virtual/input") / buffer.split(b"\0")[0].decode()
        for path in self._folder.glob("event*"):
            return path.name
        raise OSError(errno.ENODEV, f"{self._folder} has no evdev node")

    def _finish(self, node: str, source: Source, axes: dict[int, Axis], repeats: bool) -> None:
        fd = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:  # an open reader of ours would only fill up
            for code, axis in axes.items():
                odd = fitting_axis(code, axis) != axis and code != evioctl.ABS_MT_SLOT
                # beside slots, the kernel has made this one as it likes (input_mt_init_slots)
                if odd or code == evioctl.ABS_MT_TRACKING_ID:
                    evioctl.set_axis(fd, code, axis)
            if repeats and EV_REP in source.types:
                evioctl.set_repeat(fd, evioctl.repeat(source.fileno()))
        finally:
            os.close(fd)

    @property
    def path(self) -> str:
        """By which this process can open the node, be it hidden or not."""
        return f"/proc/self/fd/{self._node}"

    def hide(self) -> None:
        """Take every node of the device out of the machine's /dev: the machine's own programs,
        which open what udev tells them of, find nothing. A file that is open stays open. Raises
        OSError."""
        for kind in ("event", "mouse", "js"):
            for path in self._folder.glob(f"{kind}*"):
                Path("/dev/input", path.name).unlink(missing_ok=True)

    def fileno(self) -> int:
        """uinput's descriptor: events written become the clone's, LEDs set on it are read."""
        return self._fd

    def close(self) -> None:
        """Destroy the device. Twice is harmless."""
        for fd in (self._fd, self._node):
            if fd >= 0:
                os.close(fd)  # uinput's: destroys it
        self._fd = self._node = -1


def _appeared(node: str) -> int:
    """The number of a node that is about to be made. Raises OSError."""
    end = time.monotonic() + APPEAR
    while True:
        try:
            return os.stat(node).st_rdev
        except FileNotFoundError:
            if time.monotonic() > end:
                raise OSError(errno.ENOENT, f"{node} does not appear") from None


def available() -> bool:
    """Whether clones can be made."""
    return Path("/dev/uinput").is_char_device()
