"""Takes open input devices from the processes of a cgroup. Wraps revoke.h."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cext import check
from cext._native import ffi, lib


@dataclass(frozen=True)
class Revoked:
    """What one pass found. `hidden` descriptors are in flight where nobody can look."""

    processes: int
    revoked: int
    killed: int
    hidden: int


def revoke(cgroup: Path, devices: Sequence[int]) -> Revoked:
    """One pass over a cgroup v2 directory and all below it.

    devices: numbers as os.makedev makes them. Raises OSError.
    """
    count = ffi.new("struct hs_revoke_count *")
    result = lib.hs_revoke(os.fsencode(cgroup), list(devices), len(devices), count)
    check(result, "revoke of input devices")
    return Revoked(count.processes, count.revoked, count.killed, count.hidden)
