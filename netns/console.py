# SPDX-License-Identifier: Apache-2.0
"""The machine's text consoles, deaf while hosts have its keyboards, and unseen while they have its
screen (ioctl_console(2), KDSKBMODE and KDSETMODE); and its SysRq key, off while hosts have its
keyboards (kernel.sysrq, Documentation/admin-guide/sysrq.rst).

The kernel's console hears every keyboard that there is, and the clone of a grabbed one too. What is
typed for an OS would be typed into a login on tty1 as well, and Ctrl+Alt+Del would end the machine.
And it draws: a console that shows text is put on the screen as soon as the kernel sees a chance.
SysRq hears all keyboards too, and an OS's user 0 may write key events into the node that the OS
has: with Alt, SysRq and B it would reboot the machine. /proc/sysrq-trigger still works.

    console = Console()            or Console(PICTURE), for the screen, or Console(SYSRQ)
    console.quiet()        every console that takes keys is K_OFF (that shows text, KD_GRAPHICS);
                           once more is harmless
    console.give_back()    each is as it was, unless another host still needs quiet

What each was is in /run/hostsim-devices, in a file for each of the three, which every host that
needs quiet has locked for reading: the last one gives back, and `restore` does it for one that was
killed. A console that a program manages itself (K_RAW, K_MEDIUMRAW, K_OFF, KD_GRAPHICS: a display
server's) is left alone, and so is one that comes later.
"""

import contextlib
import errno
import fcntl
import json
import os
import struct
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from netns.claims import FOLDER, is_at, lock

K_XLATE, K_UNICODE, K_OFF = 1, 3, 4
KD_TEXT, KD_GRAPHICS = 0, 1
_GET_STATE = 0x5603
_STATE = struct.Struct("3H")  # vt_stat: active, signal, a bit for each console that is there
_FILE_MAX = 4096


class Setting(NamedTuple):
    """One that each console has, or the machine (SYSRQ). name: of its file. get, put: its ioctls,
    if it has any. loud: its values of a console that is to be quiet. quiet: the value then."""

    name: str
    get: int
    put: int
    loud: Container[int]
    quiet: int


KEYS = Setting("console", 0x4B44, 0x4B45, (K_XLATE, K_UNICODE), K_OFF)
PICTURE = Setting("picture", 0x4B3B, 0x4B3A, (KD_TEXT,), KD_GRAPHICS)
SYSRQ = Setting("sysrq", 0, 0, range(1, 1 << 31), 0)
"""1: all that it can do; other values are masks."""
_SETTINGS = {one.name: one for one in (KEYS, PICTURE, SYSRQ)}
_SYSRQ = Path("/proc/sys/kernel/sysrq")


class Terminals(Protocol):
    """The consoles and how one setting of theirs is, by number."""

    def modes(self) -> dict[int, int]:
        """Of those that are there."""
        ...

    def set(self, number: int, mode: int) -> None:
        """Raises OSError."""
        ...


class Kernel:
    """The kernel's; none if it has none (CONFIG_VT)."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def modes(self) -> dict[int, int]:
        """See `Terminals`."""
        found: dict[int, int] = {}
        with contextlib.suppress(OSError), _opened("/dev/tty0") as tty:
            present = _STATE.unpack(fcntl.ioctl(tty, _GET_STATE, bytes(_STATE.size)))[2]
            for number in (n for n in range(1, 16) if present >> n & 1):
                with contextlib.suppress(OSError), _opened(f"/dev/tty{number}") as one:
                    mode = fcntl.ioctl(one, self._setting.get, bytes(4))
                    found[number] = struct.unpack("i", mode)[0]
        return found

    def set(self, number: int, mode: int) -> None:
        """See `Terminals`."""
        with _opened(f"/dev/tty{number}") as tty:
            fcntl.ioctl(tty, self._setting.put, mode)


class SysRq:
    """The machine's SysRq, as number 0; none if the kernel has none."""

    def modes(self) -> dict[int, int]:
        """See `Terminals`."""
        return {0: int(_SYSRQ.read_text())} if _SYSRQ.exists() else {}

    def set(self, number: int, mode: int) -> None:
        """See `Terminals`."""
        _SYSRQ.write_text(f"{mode}\n")


def _of(setting: Setting) -> Terminals:
    return SysRq() if setting is SYSRQ else Kernel(setting)


class Console:
    """One host's wish for quiet. `give_back` ends it; twice is harmless."""

    def __init__(
        self,
        setting: Setting = KEYS,
        terminals: Terminals | None = None,
        folder: Path = FOLDER,
    ) -> None:
        self._setting = setting
        self._terminals = terminals or _of(setting)
        self._path = folder / setting.name
        self._fd = -1

    @property
    def path(self) -> Path:
        """The file, for `restore`."""
        return self._path

    @property
    def is_quiet(self) -> bool:
        """Whether this host has asked for it."""
        return self._fd >= 0

    def quiet(self) -> None:
        """See above. A console that cannot be set keeps no other loud. Raises OSError."""
        if self._fd >= 0:
            return
        self._fd = _locked(self._path)
        found = self._terminals.modes()
        loud = {n: mode for n, mode in found.items() if mode in self._setting.loud}
        _write(self._fd, {**_read(self._fd), **loud})  # first: whoever comes after a kill knows
        failed: OSError | None = None
        for number in loud:
            try:
                self._terminals.set(number, self._setting.quiet)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    def give_back(self) -> None:
        """See above. Raises OSError."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            _give_back(fd, self._path, self._terminals, self._setting)


def restore(path: Path, terminals: Terminals | None = None) -> None:
    """Give back what a host that was killed has left, unless a living one needs quiet. Raises
    OSError."""
    setting = _SETTINGS[path.name]
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        _give_back(fd, path, terminals or _of(setting), setting)


def _give_back(fd: int, path: Path, terminals: Terminals, setting: Setting) -> None:
    """Takes `fd`."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock(fcntl.F_WRLCK))
        if is_at(fd, path):
            now = terminals.modes()
            for number, mode in _read(fd).items():
                if now.get(number) == setting.quiet:  # else somebody has set it meanwhile
                    terminals.set(number, mode)
            path.unlink()
    except BlockingIOError:
        return  # another host still needs it
    finally:
        os.close(fd)


def _locked(path: Path) -> int:
    """The file, locked for reading."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError):  # its last user is just about to remove it
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock(fcntl.F_RDLCK))
            if is_at(fd, path):
                return fd
        os.close(fd)


def _read(fd: int) -> dict[int, int]:
    try:
        return {int(n): int(mode) for n, mode in json.loads(os.pread(fd, _FILE_MAX, 0)).items()}
    except (ValueError, AttributeError):
        return {}  # new, or cut short: then nothing was set yet


def _write(fd: int, modes: dict[int, int]) -> None:
    text = json.dumps(modes).encode()
    if os.pwrite(fd, text, 0) != len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(fd, len(text))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
