# SPDX-License-Identifier: Apache-2.0
"""What a VM's program and hooks have written, as the daemon keeps it (hostsim/logs.py)."""

import contextlib
from pathlib import Path

from hostsim.errors import HostsimError
from hostsim.logfiles import former, newest


def last_lines(folder: Path, vm: str, lines: int) -> bytes:
    """Of what a VM's program and hooks have written, the last so many. Raises HostsimError if it
    has none."""
    newer = newest(folder, vm)
    if not newer.exists():
        raise HostsimError(vm, "has no log", "it has no program: run, nf or [vm.os]")
    raw = b""
    for path in (former(newer), newer):
        with contextlib.suppress(FileNotFoundError):
            raw += path.read_bytes()
    kept = raw.splitlines(keepends=True)
    return b"".join(kept[len(kept) - lines :] if lines else [])
