"""What keeps a VM apart, decided outside of it: its files.

    base()             what every VM of this process is started from
    root(spec)         the private root of a VM, or None for the machine's files

What the kernel does of it stands in cext/vm: fence.h, root.h, filter.h, confine.h.
"""

import os
import threading
from pathlib import Path
from typing import NamedTuple

from cext.vm import spawn
from hostsim.errors import HostsimError
from hostsim.model import OWN_DIRECTORIES, VmSpec
from netns import mounts

_known: "Base | None" = None
_once = threading.Lock()


class Base(NamedTuple):
    """What every VM of the process is started from."""

    fd: int
    """The mount namespace."""
    init_fd: int
    """The program that becomes process 1."""
    sealed: tuple[str, ...]
    """What becomes read-only in /proc."""
    layers: tuple[str, ...]
    """The mount points that a private root shows, `/` first."""


def base() -> Base:
    """Made at the first call, and kept. Raises OSError."""
    global _known
    with _once:
        if _known is None:
            init_fd = os.open(spawn.INIT, os.O_PATH | os.O_CLOEXEC)
            fd = spawn.mount_base()
            layers = mounts.with_files(Path("/proc/self/mountinfo").read_bytes(), OWN_DIRECTORIES)
            _known = Base(fd, init_fd, _proc_entries(), layers)
        return _known


def root(spec: VmSpec) -> spawn.Root | None:
    """The private root of a VM; None if it has the machine's files. Raises HostsimError if a
    shared directory is not there."""
    if spec.files == "shared":
        return None
    for path, _ in spec.share:
        if not os.path.isdir(path):
            raise HostsimError(
                f"VM {spec.name}: share", f"{path} is no directory", "make it, or leave it out"
            )
    size = "size=50%" if spec.memory is None else f"size={spec.memory}"
    return spawn.Root(f"{size},mode=0755", base().layers, spec.share)


def _proc_entries() -> tuple[str, ...]:
    """Everything in /proc that is not about processes, and could be written to by user 0."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() or entry.is_symlink():
            continue
        if entry.is_dir() or entry.stat().st_mode & 0o222:
            found.append(entry.path)
    return tuple(sorted(found))
