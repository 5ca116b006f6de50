# SPDX-License-Identifier: Apache-2.0
"""What a VM's program and hooks have written, as the daemon keeps it (hostsim/logs.py)."""

import contextlib
from pathlib import Path

from hostsim.errors import HostsimError


def newest(folder: Path, vm: str) -> Path:
    """The file of a VM's newest bytes, in the host's folder."""
    return folder / f"{vm}.log"


def last_lines(folder: Path, vm: str, lines: int) -> bytes:
    """Of what a VM's program and hooks have written, the last so many. Raises HostsimError if it
    has none."""
    newer = newest(folder, vm)
    if not newer.exists():
        raise HostsimError(vm, "has no log", "it has no program: run, nf or [vm.os]")
    raw = b""
    for path in (newer.with_suffix(".log.1"), newer):
        with contextlib.suppress(FileNotFoundError):
            raw += path.read_bytes()
    kept = raw.splitlines(keepends=True)
    return b"".join(kept[len(kept) - lines :] if lines else [])
