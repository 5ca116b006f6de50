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


@contextlib.contextmanager
def claimed(name: str) -> Iterator[Path]:
    """A new folder, named after `name`; it goes at the end. Raises OSError."""
    protocol.BENCHES.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=protocol.BENCHES))
    lock = -1
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)
