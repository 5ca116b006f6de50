# SPDX-License-Identifier: Apache-2.0
"""A display's card (/dev/dri/cardN) by its ioctls (linux/drm.h, drm_mode.h). All raise OSError.

    card = Card("/dev/dri/card0")      the first open file of a card is its master; EBUSY: not ours
    card.show()                        black on every screen, by a buffer of our own; all else off
    kept = card.snapshot()             what is shown and how: planes, modes, gamma, ...
    card.show(kept)                    the same again; who drew it need not live any more
    card.drop(); master(other)         the right to set it passes to another open file

Only the master can change what is shown, and it can read what is shown (GETFB2). Drivers without
atomic modesetting are refused (EOPNOTSUPP): only there is what is shown one state.
"""

import errno
import fcntl
import mmap
import os
import struct
from array import array
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field

_RES = struct.Struct("=4Q8I")
_CONNECTOR = struct.Struct("=4Q12I")
_ENCODER = struct.Struct("=5I")
_MODE = 68  # bytes of drm_mode_modeinfo
_CRTC = struct.Struct(f"=Q7I{_MODE}s")
_DUMB = struct.Struct("=6IQ")
_MAP = struct.Struct("=2IQ")
_FB2 = struct.Struct("=5I4I4I4I4x4Q")
_PLANES = struct.Struct("=QI4x")
_GET_PLANE = struct.Struct("=6IQ")
_PROPERTIES = struct.Struct("=2Q3I4x")
_PROPERTY = struct.Struct("=2Q2I32s2I")
_BLOB = struct.Struct("=2IQ")
_NEW_BLOB = struct.Struct("=Q2I")
_ATOMIC = struct.Struct("=2I6Q")

_CRTCS, _CONNECTORS, _PLANE = 0xCCCCCCCC, 0xC0C0C0C0, 0xEEEEEEEE  # kinds of objects
_IMMUTABLE, _IS_BLOB = 1 << 2, 1 << 4
_ALLOW_MODESET = 0x400
_MODIFIERS = 2
_XRGB = 0x34325258
_UNIVERSAL_PLANES, _ATOMIC_CAP = 2, 3
_CONNECTED = 1
_UNSET = frozenset(
    {"DPMS", "IN_FENCE_FD", "OUT_FENCE_PTR", "WRITEBACK_FB_ID", "WRITEBACK_OUT_FENCE_PTR"}
)
"""Properties that are of one commit, or of the time before atomic ones: no state."""
_CORE = frozenset(
    {
        *("FB_ID", "CRTC_ID", "MODE_ID", "ACTIVE", "SRC_X", "SRC_Y", "SRC_W", "SRC_H"),
        *("CRTC_X", "CRTC_Y", "CRTC_W", "CRTC_H"),
    }
)
"""Without these nothing is shown; the others make it look as it did."""


def _number(direction: int, nr: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("d") << 8 | nr


def _both(fd: int, nr: int, data: bytes) -> bytes:
    """An ioctl that reads and writes its argument."""
    buffer = bytearray(data)
    fcntl.ioctl(fd, _number(3, nr, len(data)), buffer)
    return bytes(buffer)


def master(fd: int) -> None:
    """The open file is the card's master (SET_MASTER). EBUSY: another one is."""
    fcntl.ioctl(fd, 0x641E)


def drop(fd: int) -> None:
    """It is so no more (DROP_MASTER). One that was not is no error."""
    try:
        fcntl.ioctl(fd, 0x641F)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def open_card(path: str) -> int:
    """An open file of the card."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)


def _ask_for(fd: int, capability: int) -> None:
    fcntl.ioctl(fd, _number(1, 0x0D, 16), struct.pack("=2Q", capability, 1))


def see_planes(fd: int) -> None:
    """Have all planes listed, those of whole screens and cursors too."""
    _ask_for(fd, _UNIVERSAL_PLANES)


def mapped(fd: int, handle: int) -> int:
    """At which offset of the open file a buffer can be mapped."""
    offset: int = _MAP.unpack(_both(fd, 0xB3, _MAP.pack(handle, 0, 0)))[2]
    return offset


def framebuffer(fd: int, number: int) -> tuple[int, int, int]:
    """A shown buffer's first plane: a handle, which is 0 for who may not read it, the bytes of a
    line, and the lines."""
    found = _FB2.unpack(_both(fd, 0xCE, _FB2.pack(number, *[0] * 20)))
    return found[5], found[9], found[2]


def pixel(fd: int, number: int) -> bytes:
    """The first pixel of a shown buffer: blue, green, red and one more byte. Raises OSError: ENOENT
    if there is no such buffer, or the open file may not read it."""
    handle, pitch, height = framebuffer(fd, number)
    if not handle:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    try:
        with mmap.mmap(fd, pitch * height, offset=mapped(fd, handle)) as pixels:
            return pixels[:4]
    finally:
        forget(fd, handle)


def forget(fd: int, handle: int) -> None:
    """Close a handle (GEM_CLOSE)."""
    fcntl.ioctl(fd, _number(1, 0x09, 8), struct.pack("=2I", handle, 0))


_Packed = tuple["array[int]", "array[int]", "array[int]", "array[int]"]
"""Objects, how many properties of each, properties, values."""

Values = list[tuple[int, int, str, int]]
"""Settings of a card: object, property, its name, and value."""


def left(values: Values, there: Set[int]) -> Values:
    """The settings of the objects that are there still. A CRTC that lights no connector any more is
    off, with its planes: the kernel takes no other (drm_atomic_helper_check_modeset)."""
    kept = [one for one in values if one[0] in there]
    on = {number for number, _, name, value in kept if name == "ACTIVE" and value}
    planes = {number for number, _, name, _ in values if name == "FB_ID"}
    leads = {number: value for number, _, name, value in kept if name == "CRTC_ID"}
    lit = {crtc for number, crtc in leads.items() if number not in planes}
    dark = on - lit
    off = {number for number, crtc in leads.items() if number in planes and crtc in dark}

    def now(number: int, name: str, value: int) -> int:
        ends = (number in dark and name in ("ACTIVE", "MODE_ID")) or (
            number in off and name in ("FB_ID", "CRTC_ID")
        )
        return 0 if ends else value

    return [(number, prop, name, now(number, name, value)) for number, prop, name, value in kept]


@dataclass
class Snapshot:
    """What a card shows, with buffers and blobs of the card's own descriptor; `Card.forget` ends
    it."""

    values: Values = field(default_factory=list)
    buffers: list[int] = field(default_factory=list)
    blobs: list[int] = field(default_factory=list)
    packed: "_Packed | None" = None  # the values, as the kernel takes them


_Plan = list[tuple[int, int, str, bool]]
"""Of an object's properties: index, number, name, and whether it is a blob."""


class Pen:
    """Draws one colour by an open file of a card, which stays its owner's. Whether it may draw is
    for the kernel to say: EACCES, if another file is the master."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffers: dict[tuple[int, int, int], int] = {}
        self._planes: list[int] = []
        self._room = 0, 0  # how many CRTCs and connectors there were

    def light(self, colour: int = 0) -> None:
        """A buffer of one colour (0xRRGGBB) on a CRTC for each connector with a screen, in the
        screen's own mode."""
        crtcs, connectors = self._resources()
        free = list(range(len(crtcs)))
        for connector in connectors:
            mode, encoders = self._screen(connector)
            possible = 0
            for encoder in encoders:
                words = _ENCODER.unpack(_both(self._fd, 0xA6, _ENCODER.pack(encoder, *[0] * 4)))
                possible |= words[3]
            at = next((n for n in free if mode and possible >> n & 1), None)
            if at is None:
                continue
            free.remove(at)
            width, height = (struct.unpack_from("=H", mode, where)[0] for where in (4, 14))
            names, buffer = array("I", [connector]), self._filled(width, height, colour)
            words = (names.buffer_info()[0], 1, crtcs[at], buffer, 0, 0, 0, 1)
            _both(self._fd, 0xA2, _CRTC.pack(*words, mode))

    def shown(self) -> list[int]:
        """The buffers on its planes, 0 for a plane that is off; nobody need be master."""
        planes = self._objects()[_PLANE]
        found = [_both(self._fd, 0xB6, _GET_PLANE.pack(n, *[0] * 6)) for n in planes]
        return [_GET_PLANE.unpack(one)[2] for one in found]

    # -- inside ------------------------------------------------------------------------------------

    def _objects(self) -> dict[int, list[int]]:
        """All there are, by kind: those that others are bound to first."""
        crtcs, connectors = self._resources()
        if not self._planes:  # a driver makes none later
            count = _PLANES.unpack(_both(self._fd, 0xB5, _PLANES.pack(0, 0)))[1]
            planes = array("I", [0] * count)
            _both(self._fd, 0xB5, _PLANES.pack(planes.buffer_info()[0], count))
            self._planes = planes.tolist()
        return {_CRTCS: crtcs, _CONNECTORS: connectors, _PLANE: self._planes}

    def _resources(self) -> tuple[list[int], list[int]]:
        """CRTCs and connectors, which come and go with what is plugged."""
        while True:
            crtcs, connectors = (array("I", [0] * room) for room in self._room)
            at = (0, crtcs.buffer_info()[0], connectors.buffer_info()[0], 0)
            words = (*at, 0, len(crtcs), len(connectors), *[0] * 5)
            found = _RES.unpack(_both(self._fd, 0xA0, _RES.pack(*words)))
            before, self._room = self._room, (found[5], found[6])
            if all(now <= room for now, room in zip(self._room, before, strict=True)):
                return crtcs.tolist()[: found[5]], connectors.tolist()[: found[6]]

    def _screen(self, connector: int) -> tuple[bytes, list[int]]:
        """Its screen's preferred mode (the first one), empty if there is none; its encoders."""
        modes, encoders = self._modes(connector)
        return modes[0] if modes else b"", encoders

    def _modes(self, connector: int) -> tuple[list[bytes], list[int]]:
        """Of a connector: its screen's modes, none if there is no screen; its encoders."""
        asked = [0] * 16
        asked[8] = connector
        found = list(_CONNECTOR.unpack(_both(self._fd, 0xA7, _CONNECTOR.pack(*asked))))
        modes, encoders = bytearray(_MODE * found[4]), array("I", [0] * found[6])
        room = array("B", modes)
        properties, values = array("I", [0] * found[5]), array("Q", [0] * found[5])
        at = [x.buffer_info()[0] for x in (encoders, room, properties, values)]
        words = (*at, found[4], found[5], found[6], 0, connector, *[0] * 7)
        now = _CONNECTOR.unpack(_both(self._fd, 0xA7, _CONNECTOR.pack(*words)))
        count = now[4] if now[11] == _CONNECTED and now[4] <= found[4] else 0
        raw = room.tobytes()
        return [raw[at : at + _MODE] for at in range(0, _MODE * count, _MODE)], encoders.tolist()

    def _filled(self, width: int, height: int, colour: int) -> int:
        """A buffer of one colour; made once."""
        key = (width, height, colour)
        if key not in self._buffers:
            self._buffers[key] = self._fill(*key)
        return self._buffers[key]

    def _fill(self, width: int, height: int, colour: int) -> int:
        """A buffer of one colour, which lives as long as the descriptor."""
        made = _DUMB.unpack(_both(self._fd, 0xB2, _DUMB.pack(height, width, 32, 0, 0, 0, 0)))
        handle, pitch, size = made[4:]
        with mmap.mmap(self._fd, size, offset=mapped(self._fd, handle)) as pixels:
            # zeros too: not every driver gives out cleared memory
            pixels.write(colour.to_bytes(4, "little") * (size // 4))
        words = (0, width, height, _XRGB, 0, handle, 0, 0, 0, pitch, *[0] * 7, *[0] * 4)
        number: int = _FB2.unpack(_both(self._fd, 0xB8, _FB2.pack(*words)))[0]
        return number


class Card(Pen):
    """One card, opened. `close` ends all that was made for it, and the right to it."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(open_card(path))
        self._names: dict[int, tuple[str, int]] = {}  # of properties: name and flags
        self._counts: dict[int, int] = {}  # of an object's properties
        self._plans: dict[int, tuple[array[int], _Plan]] = {}  # of objects: what is kept of them
        self._home = Snapshot()
        try:
            self.claim()
            see_planes(self._fd)
            _ask_for(self._fd, _ATOMIC_CAP)
            self.light()
            self._home = self.snapshot()
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """The descriptor; it stays ours."""
        return self._fd

    def claim(self) -> None:
        """Be the master. EBUSY: another open file is."""
        master(self._fd)

    def drop(self) -> None:
        """Be it no more."""
        drop(self._fd)

    def show(self, what: Snapshot | None = None) -> None:
        """What a snapshot has; without one, black. The card's master must be us. What has gone
        since, as connectors do with a dock, is left out; so is what the driver refuses, if the
        picture can be shown without it."""
        shown = what or self._home
        self.prepare(shown)
        assert shown.packed is not None
        try:
            self._commit(shown.packed)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
        values = shown.values
        values = left(values, {n for numbers in self._objects().values() for n in numbers})
        try:
            self._commit(_pack(values))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._commit(_pack([one for one in values if one[2] in _CORE]))

    def prepare(self, kept: Snapshot) -> None:
        """`show` of it is one call into the kernel from now on."""
        if kept.packed is None:
            kept.packed = _pack(kept.values)

    def snapshot(self) -> Snapshot:
        """How the card is set now. Buffers are kept, whatever becomes of who drew them."""
        kept = Snapshot()
        try:
            for kind, numbers in self._objects().items():
                for number in numbers:
                    self._keep(kept, number, kind)
        except OSError:
            self.forget(kept)
            raise
        return kept

    def forget(self, kept: Snapshot) -> None:
        """Let go of a snapshot; of one that went with the descriptor, too. Twice is harmless."""
        if self._fd < 0:
            return
        while kept.buffers:
            _both(self._fd, 0xAF, struct.pack("=I", kept.buffers.pop()))
        while kept.blobs:
            _both(self._fd, 0xBE, struct.pack("=I", kept.blobs.pop()))
        kept.values.clear()
        kept.packed = None

    def close(self) -> None:
        """Twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- inside ------------------------------------------------------------------------------------

    def _keep(self, kept: Snapshot, number: int, kind: int) -> None:
        """Add one object's settings to a snapshot."""
        properties, values = self._properties(number, kind)
        known, plan = self._plans.get(number, (None, []))
        if known != properties:
            plan = self._plan(properties)
            self._plans[number] = properties, plan
        for index, prop, name, is_blob in plan:
            value = values[index]
            if is_blob and value:
                value = self._copy_blob(value)
                kept.blobs.append(value)
            elif name == "FB_ID" and value:
                value = self._hold(value)
                kept.buffers.append(value)
            kept.values.append((number, prop, name, value))

    def _plan(self, properties: "array[int]") -> _Plan:
        """What is kept of these."""
        found = [(index, prop, *self._property(prop)) for index, prop in enumerate(properties)]
        return [
            (index, prop, name, bool(flags & _IS_BLOB))
            for index, prop, name, flags in found
            if not flags & _IMMUTABLE and name not in _UNSET
        ]

    def _properties(self, number: int, kind: int) -> "tuple[array[int], array[int]]":
        """Of an object: properties and values."""
        while True:
            room = self._counts.get(number, 0)
            properties, values = array("I", [0] * room), array("Q", [0] * room)
            at = (properties.buffer_info()[0], values.buffer_info()[0])
            found = _both(self._fd, 0xB9, _PROPERTIES.pack(*at, room, number, kind))
            count = self._counts[number] = _PROPERTIES.unpack(found)[2]
            if count <= room:  # else the kernel has written none
                return properties[:count], values[:count]

    def _property(self, number: int) -> tuple[str, int]:
        """Name and flags; they do not change."""
        if number not in self._names:
            asked = _PROPERTY.pack(0, 0, number, 0, b"", 0, 0)
            found = _PROPERTY.unpack(_both(self._fd, 0xAA, asked))
            self._names[number] = found[4].split(b"\0")[0].decode("latin-1"), found[3]
        return self._names[number]

    def _copy_blob(self, number: int) -> int:
        """A blob of ours with the contents of this one, which goes with who made it."""
        size = _BLOB.unpack(_both(self._fd, 0xAC, _BLOB.pack(number, 0, 0)))[1]
        data = array("B", bytes(size))
        _both(self._fd, 0xAC, _BLOB.pack(number, size, data.buffer_info()[0]))
        made = _both(self._fd, 0xBD, _NEW_BLOB.pack(data.buffer_info()[0], size, 0))
        copy: int = _NEW_BLOB.unpack(made)[2]
        return copy

    def _hold(self, number: int) -> int:
        """A framebuffer of ours with the memory of this one. Its number alone would be another's
        once its owner removes it."""
        asked = _FB2.pack(number, *[0] * 20)
        found = list(_FB2.unpack(_both(self._fd, 0xCE, asked)))
        handles = {handle for handle in found[5:9] if handle}
        try:
            if not found[4] & _MODIFIERS:
                found[17:] = [0] * 4
            held: int = _FB2.unpack(_both(self._fd, 0xB8, _FB2.pack(0, *found[1:])))[0]
        finally:
            for handle in handles:
                forget(self._fd, handle)
        return held

    def _commit(self, packed: _Packed) -> None:
        """All of it at once, or nothing."""
        at = [part.buffer_info()[0] for part in packed]
        _both(self._fd, 0xBC, _ATOMIC.pack(_ALLOW_MODESET, len(packed[0]), *at, 0, 0))


def _pack(values: Values) -> _Packed:
    """An object's values stand side by side."""
    each = Counter(one[0] for one in values)  # in their order
    return (
        array("I", each),
        array("I", each.values()),
        array("I", [one[1] for one in values]),
        array("Q", [one[3] for one in values]),
    )
