# SPDX-License-Identifier: Apache-2.0
"""The folder of what a bench sets up: its journal is there, as a host's is in /run/hostsim/HOST.

While the bench lives it holds a write lock on the file `lock` (fcntl(2), F_SETLK): a folder whose
lock is free was left by a bench that was killed, and `hostsim clean` undoes its journal.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hostsim import protocol
from hostsim.errors import HostsimError
from netns import journal


@contextlib.contextmanager
def claimed(name: str) -> Iterator[Path]:
    """A new folder, named after `name`. At the end what its journal still has is removed, and then
    the folder. Raises OSError; HostsimError if something resists, and then the folder stays."""
    protocol.BENCHES.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=protocol.BENCHES))
    lock = -1
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        record = folder / "journal"
        failures = journal.undo(record) if record.exists() else []
        if not failures:
            shutil.rmtree(folder)
        if lock >= 0:
            os.close(lock)
        if failures:
            raise HostsimError(
                f"bench {name}", "; ".join(failures), "hostsim clean removes what is left"
            )
