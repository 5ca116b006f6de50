# SPDX-License-Identifier: Apache-2.0
"""What the kernel keeps of an evdev device, and an OS may set: LEDs, autorepeat, key map, and
calibration of axes (linux/input.h: EVIOCGLED, EVIOCGREP, EVIOCGKEYCODE_V2, EVIOCGABS and their
setters).

    state = read(source)       how it is set now
    apply(source, state)       set it so; what is so already is left alone
    give_back(node, key, text) the same for the journal, of a device that may be gone

Two things the kernel does not tell, so they cannot be read: the pitch of a tone, and the gain of
force feedback. Effects belong to the open file that uploaded them, and go when it is revoked.
All raise OSError (ENODEV: unplugged).
"""

import contextlib
import errno
import fcntl
import json
import struct
from dataclasses import asdict, dataclass

from netns.evdevices import Source

EV_ABS, EV_LED = 0x03, 0x11
ABS_MT_SLOT = 0x2F
KEYS_MAX = 1024
KEPT = 64
"""Devices that are unplugged and remembered."""
BY_INDEX = 1  # INPUT_KEYMAP_BY_INDEX

_READ, _WRITE = 2, 1
_ABS = struct.Struct("6i")  # input_absinfo: value, minimum, maximum, fuzz, flat, resolution
_KEY = struct.Struct("BBHI32s")  # input_keymap_entry: flags, len, index, keycode, scancode


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("E") << 8 | number


_GET_KEY = _request(_READ, 0x04, _KEY.size)
_SET_KEY = _request(_WRITE, 0x04, _KEY.size)


@dataclass(frozen=True)
class State:
    """leds: codes of those that are lit. repeat: delay and period in ms, None if there is no
    autorepeat. keys: key codes by the index of their scan code, empty if the driver has no map.
    axes: (code, minimum, maximum, fuzz, flat, resolution) of each."""

    leds: tuple[int, ...] = ()
    repeat: tuple[int, int] | None = None
    keys: tuple[int, ...] = ()
    axes: tuple[tuple[int, ...], ...] = ()

    def text(self) -> str:
        """For the journal."""
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> "State":
        """What `text` wrote."""
        read = json.loads(text)
        return cls(
            tuple(read["leds"]),
            tuple(read["repeat"]) if read["repeat"] else None,
            tuple(read["keys"]),
            tuple(tuple(axis) for axis in read["axes"]),
        )


class Memory:
    """States by OS of devices that were unplugged, for when they come back (`Identity.key`), the
    last KEPT of them. A state that is as at a first take is none."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, State]] = {}

    def keep(self, key: str, states: dict[str, State], fresh: State) -> None:
        """The device is gone. fresh: how each OS had it at first."""
        changed = {name: state for name, state in states.items() if state != fresh}
        self._known.pop(key, None)
        if changed:
            self._known[key] = changed
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]

    def take(self, key: str) -> dict[str, State]:
        """What is known of a device that comes; it is forgotten here."""
        return self._known.pop(key, {})

    def forget(self, name: str) -> None:
        """The OS has left: another of its name has nothing of it."""
        for states in self._known.values():
            states.pop(name, None)


def read(source: Source, mapped: bool = True) -> State:
    """How the device is set. mapped: whether it may have a key map; a driver has one or has none,
    and one call is saved."""
    axes = (code for code in source.codes(EV_ABS) if code < ABS_MT_SLOT)
    return State(
        tuple(source.leds()),
        source.repeat(),
        _keys(source) if mapped else (),
        tuple((code, *_axis(source, code)[1:]) for code in axes),
    )


def apply(source: Source, state: State, now: State | None = None) -> None:
    """Set the device so. now: how it is set, if that is known; else it is looked at."""
    if now is None:
        now = read(source)
    for index, (wanted, has) in enumerate(zip(state.keys, now.keys, strict=False)):
        if wanted != has:
            _set_key(source, index, wanted)
    present = {axis[0]: axis for axis in now.axes}
    for axis in state.axes:
        if present.get(axis[0]) != axis:
            value = _axis(source, axis[0])[0]
            number = _request(_WRITE, 0xC0 + axis[0], _ABS.size)
            fcntl.ioctl(source.fileno(), number, _ABS.pack(value, *axis[1:]))
    if state.repeat != now.repeat:
        source.set_repeat(state.repeat)
    source.set_leds(list(state.leds))


def give_back(node: str, key: str, text: str) -> None:
    """Set the device as it was found (`State.text`), if the node is still the device of this key
    (`Identity.key`). One that is gone is no error. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        source = Source(node)
        try:
            if source.identity.key == key:
                apply(source, State.of_text(text))
        finally:
            source.close()


def _axis(source: Source, code: int) -> tuple[int, ...]:
    """value, minimum, maximum, fuzz, flat, resolution (EVIOCGABS)."""
    info = bytearray(_ABS.size)
    fcntl.ioctl(source.fileno(), _request(_READ, 0x40 + code, _ABS.size), info)
    return _ABS.unpack(info)


def _keys(source: Source) -> tuple[int, ...]:
    found = []
    for index in range(KEYS_MAX):
        entry = bytearray(_KEY.pack(BY_INDEX, 0, index, 0, b""))
        try:
            fcntl.ioctl(source.fileno(), _GET_KEY, entry)
        except OSError as error:
            if error.errno != errno.EINVAL:  # past the last one, or no map at all
                raise
            break
        found.append(_KEY.unpack(entry)[3])
    return tuple(found)


def _set_key(source: Source, index: int, code: int) -> None:
    fcntl.ioctl(source.fileno(), _SET_KEY, _KEY.pack(BY_INDEX, 0, index, code, b""))
