# SPDX-License-Identifier: Apache-2.0
"""Finds and reads a host file: its text, as yet unchecked (file.py checks it)."""

import sys
from pathlib import Path
from typing import NamedTuple

from hostsim.errors import HostFileError, reason

FILE_MAX = 16 << 20
"""Bytes of a host file."""
MACHINE = Path("/etc/hostsim")
"""Where a machine keeps its own hosts, by name: NAME.toml."""


def shipped() -> dict[str, Path]:
    """The hosts that come with hostsim: file by name."""
    folder = Path(__file__).parents[1] / "hosts"
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


class Source(NamedTuple):
    """A host file as it was read. path: for messages, and for where programs run."""

    text: str
    path: Path


def read(name: str) -> Source:
    """The host file `name`: a path, the name of one in MACHINE or of a shipped host, or `-` for
    standard input. If it is no regular file, but a pipe, programs run in the current directory.
    Raises HostFileError."""
    path = Path(name)
    known = shipped()
    try:
        if name == "-":
            path = Path.cwd() / "standard input"
            raw = sys.stdin.buffer.read(FILE_MAX + 1)
        else:
            if name == path.name and not path.exists():
                of_machine = MACHINE / f"{name}.toml"
                path = of_machine if of_machine.exists() else known.get(name, path)
            with path.open("rb") as file:
                raw = file.read(FILE_MAX + 1)
            path = path.resolve() if path.is_file() else Path.cwd() / path.name
    except FileNotFoundError:
        raise HostFileError(
            name, "no such host file", f"a path, or one of: {', '.join(known)}"
        ) from None
    except (OSError, ValueError) as error:
        raise HostFileError(name, f"cannot be read: {reason(error)}") from None
    if len(raw) > FILE_MAX:
        raise HostFileError(name, f"is longer than {FILE_MAX >> 20} MiB", "split the host")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise HostFileError(f"{path.name}:{line}", "is not UTF-8", "TOML is UTF-8") from None
    return Source(text.replace("\r\n", "\n"), path)
