# SPDX-License-Identifier: Apache-2.0
"""Which processes made an input device, by their cgroups (cext/input/maker.bpf.c).

Every device is noted that is made while a `Makers` is there, by anybody. What was there before is
`old`: nothing is known of it. Nobody can forge what is noted here: a process is in the cgroup in
which it was put, and one in a VM has no way out of it.
"""

import re
import struct
from pathlib import Path

from cext.bpf import objects as bpf

DEVICES = Path("/sys/devices/virtual/input")
"""Where in sysfs devices are that a program made."""

_NAME = 16  # as in the C file
_LINE = struct.Struct("=16Q")
_DEVICE = re.compile(r"/(input\d+)(/|$)")


class Makers:
    """Notes who makes devices, until `close`. Raises OSError if this kernel cannot (it needs BTF,
    and BPF programs at the entry of its functions)."""

    def __init__(self) -> None:
        self._ring: bpf.Ring | None = None
        self._made: list[str] = []
        self._object = bpf.Object("maker")
        try:
            self._lines = self._object.map("makers")
            for name in ("begin", "end"):
                self._object.attach(name)
            self._ring = bpf.Ring(self._object.map("made"), self._note)
            self._old = {path.name for path in DEVICES.glob("input*")}
            self._old -= {name for name in self._old if self._line(name) is not None}
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """Readable when `made` has something."""
        assert self._ring is not None
        return self._ring.fileno()

    def made(self) -> list[str]:
        """Devices that are new, with all their nodes: paths in sysfs of their evdev nodes, from
        /devices on. Some may be missing after many at once."""
        assert self._ring is not None
        self._ring.consume()
        names, self._made = self._made, []
        found = [path for name in names for path in (DEVICES / name).glob("event*")]
        return [str(path).removeprefix("/sys") for path in found]

    def cgroups(self, path: str) -> tuple[int, ...] | None:
        """The ids of the cgroups in which the device of a node was made, the innermost first; of an
        old one, none. None: it was made since, and it is not known by whom.

        path: of the node in sysfs, from /devices on."""
        found = _DEVICE.search(path)
        if found is None or found[1] in self._old:
            return ()
        return self._line(found[1])

    def forget(self, path: str) -> None:
        """The device is gone; so is its name, which the kernel does not give twice."""
        found = _DEVICE.search(path)
        if found is not None:
            self._old.discard(found[1])
            self._lines.delete(_key(found[1]))

    def close(self) -> None:
        """Note nothing any more. Twice is harmless."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._object.close()

    def _line(self, name: str) -> tuple[int, ...] | None:
        value = self._lines.get(_key(name))
        return None if value is None else tuple(id for id in reversed(_LINE.unpack(value)) if id)

    def _note(self, data: bytes) -> None:
        self._made.append(data.split(b"\0")[0].decode())


def _key(name: str) -> bytes:
    return name.encode()[: _NAME - 1].ljust(_NAME, b"\0")
