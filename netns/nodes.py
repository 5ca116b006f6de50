# SPDX-License-Identifier: Apache-2.0
"""The machine's own nodes of an input device, away while a host has the device.

An OS in direct mode has the device itself, and only an evdev node that is out of reach shuts the
machine's programs out: a grab would shut out the OS too. So the nodes of the device (`event3`, and
`mouse0` or `js0` beside it) are moved out of /dev/input, into a directory of root's. They stay the
files that they are, with their owner and mode, and the numbers that the kernel gave them.

    found = away(node)    nobody opens /dev/input/event3 any more; the numbers of what was moved
    where(node)           by which path it can be opened now
    back(node)            as it was, and announced, so that the machine's programs open it again

    drop(node)            as `away`, for good: of a device that will never be the machine's

    beside(path)          the evdev nodes of the device that another node of it is of
    old(sysname)          the other nodes of the device that an evdev node is of, and their numbers

What is left of a device that was unplugged meanwhile, `back` removes.
"""

import contextlib
import os
import stat
from pathlib import Path

INPUT = Path("/dev/input")
AWAY = Path("/dev/hostsim-input")
CLASS = Path("/sys/class/input")


def where(node: str) -> str:
    """See above. node: the path that it has when it is not away."""
    hidden = AWAY / Path(node).name / Path(node).name
    return str(hidden) if hidden.exists() and not os.path.lexists(node) else node


def away(node: str) -> list[int]:
    """See above; numbers as in st_rdev. Once more is harmless. Raises OSError."""
    folder = AWAY / Path(node).name
    AWAY.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in _names(Path(node).name):
        with contextlib.suppress(FileNotFoundError):  # an older kernel's mousedev makes none
            os.rename(INPUT / name, folder / name)
    return [path.stat().st_rdev for path in folder.iterdir()]


def drop(node: str) -> list[int]:
    """See above. Raises OSError."""
    numbers = []
    for name in _names(Path(node).name):
        with contextlib.suppress(FileNotFoundError):
            numbers.append((INPUT / name).stat().st_rdev)
            (INPUT / name).unlink()
    return numbers


def beside(path: str) -> list[str]:
    """See above: by name. path: of the node (`js0`) in sysfs, from /devices on."""
    return [found.name for found in Path(f"/sys{path}").parent.glob("event[0-9]*")]


def back(node: str, tell: bool = True) -> None:
    """See above. tell: announce it. One that is not away is no error. Raises OSError."""
    folder = AWAY / Path(node).name
    moved = []
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if os.path.lexists(INPUT / path.name) or not _is_there(path):
            path.unlink()
        else:
            os.rename(path, INPUT / path.name)
            moved.append(path.name)
    for place in (folder, AWAY):
        with contextlib.suppress(OSError):  # of others, something is still away
            place.rmdir()
    for name in moved if tell else ():
        for action in ("remove", "add"):  # who has lost it opens it only if it comes
            with contextlib.suppress(OSError):
                (CLASS / name / "uevent").write_text(action)


def old(sysname: str) -> dict[str, int]:
    """See above: numbers as in st_rdev, by the kernel's name (`js1`)."""
    found = {}
    for name in _names(sysname)[1:]:
        with contextlib.suppress(OSError, ValueError):  # it has just gone
            major, minor = (CLASS / name / "dev").read_text().split(":")
            found[name] = os.makedev(int(major), int(minor))
    return found


def _names(sysname: str) -> list[str]:
    """All nodes of the device that this evdev node is of, and it first."""
    device = (CLASS / sysname / "device").resolve()
    others = [path.name for kind in ("mouse", "js") for path in device.glob(f"{kind}[0-9]*")]
    return [sysname, *others]


def _is_there(path: Path) -> bool:
    """Whether the kernel still has the device of this node by this name."""
    try:
        number = (CLASS / path.name / "dev").read_text().strip()
    except OSError:
        return False
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and number == (
        f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    )
