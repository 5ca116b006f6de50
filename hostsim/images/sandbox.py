# SPDX-License-Identifier: Apache-2.0
"""Programs that read archives nobody vouches for: run as a user who owns nothing outside a folder.

    with Sandbox(folder) as sandbox:
        sandbox.run("tar", ["tar", "-x"], stdin=file, watch=watch)

In a user namespace of its own the program is root over 65,536 ids, which nobody on the machine has
and which own `folder` alone: it may give files any owner, makes no device node, and writes nothing
outside. It has mount, network, IPC and PID namespaces too, ends with us (prctl(2),
PR_SET_PDEATHSIG), and writes no file larger than FILE_MAX. Whoever fills the disk is ended while
others still have room on it.
"""

import os
import select
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from hostsim.errors import HostsimError

BASE, COUNT = 0x7FFF0000, 65536
"""Above the ranges of VMs (hostsim/idranges.py) and of every container manager
(https://systemd.io/UIDS-GIDS)."""
FILE_MAX = 16 << 30  # bytes
ROOM, ROOM_SHARE = 512 << 20, 50
"""Bytes of the disk that stay free, or one in so many of its size, whichever is less."""
INODES = 1000
PERIOD = 0.2  # seconds between two looks
LOG_MAX = 64 << 10  # bytes of what a program says that are read
CLOSING = ("Exiting with failure status", "Error is not recoverable")
"""What tar says when it gives up, behind its reason."""
PLACE = "/mnt"
TOOLS = {
    "mkfs.erofs": "erofs-utils",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "prlimit": "util-linux",
    "setpriv": "util-linux",
    "skopeo": "skopeo",
    "tar": "tar",
    "umoci": "umoci",
    "unshare": "util-linux",
    "bzip2": "bzip2",
    "gzip": "gzip",
    "lz4": "lz4",
    "xz": "xz-utils",
    "zstd": "zstd",
}
"""Programs, and the Debian packages that have them."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Watch = Callable[[], None]
"""Called some five times a second while a program runs."""
Tell = Callable[[str, float | None], None]
"""Hears what is done at the moment, and how far it is (0 to 1; None: nobody knows)."""


def tool(name: str) -> str:
    """The path of a program. Raises HostsimError with the package that has it."""
    found = shutil.which(name, path=PATH)
    if found is None:
        package = TOOLS[name]
        raise HostsimError(name, "is not installed", f"apt install {package}")
    return found


class Sandbox:
    """See above. folder: becomes the property of the sandbox's root, and its programs' current
    directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("nsenter", "setpriv", "unshare", "prlimit"):
            tool(name)
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sandbox":
        # It ends when its stdin does, which is with us at the latest.
        holder = subprocess.Popen(
            [tool("unshare"), "--user", "sh", "-c", "echo && exec cat >/dev/null"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._holder = holder
        assert holder.stdout is not None
        assert holder.stderr is not None
        if not holder.stdout.readline():
            said = holder.stderr.read().decode(errors="replace").strip()
            self.close()
            raise HostsimError("images", f"no user namespace can be made: {said}", "hostsim check")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {BASE} {COUNT}")
        os.chown(self.folder, BASE, BASE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nobody has the namespace afterwards. Twice is harmless."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.communicate()
            self._holder = None

    def run(
        self,
        what: str,
        argv: Sequence[str],
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        watch: Watch | None = None,
    ) -> None:
        """Run a program to its end. what: it, in an error. Raises HostsimError: it failed, it
        fills the disk."""
        assert self._holder is not None
        script = f'mount --no-canonicalize --bind . {PLACE} && cd {PLACE} && exec "$@"'
        words = [tool("nsenter"), f"--user=/proc/{self._holder.pid}/ns/user", "-S", "0", "-G", "0"]
        words += [tool("setpriv"), "--pdeathsig", "KILL", "--clear-groups"]
        words += [tool("prlimit"), f"--fsize={FILE_MAX}", "--core=0"]
        words += [tool("unshare"), "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child"]
        words += ["sh", "-c", script, "sh", tool(argv[0]), *argv[1:]]
        attend(what, words, self.folder, stdin=stdin, watch=watch)


def alone(words: Sequence[str]) -> list[str]:
    """A command of root's, whose mounts and processes end with us."""
    before = [tool("setpriv"), "--pdeathsig", "KILL"]
    before += [tool("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*before, tool(words[0]), *words[1:]]


def attend(
    what: str,
    words: Sequence[str],
    folder: Path,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    watch: Watch | None = None,
    log: IO[bytes] | None = None,
) -> None:
    """Run a command in a folder, and look after the disk below it meanwhile. log: what it says;
    read for the error. Raises HostsimError."""
    said = log if log is not None else log_file()
    with said:
        process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=stdin,
            stdout=stdout,
            stderr=said,
            env={"PATH": PATH, "LC_ALL": "C.UTF-8", "TMPDIR": str(folder), "HOME": "/"},
        )
        try:
            handle = os.pidfd_open(process.pid)
            try:
                while not select.select([handle], [], [], PERIOD)[0]:
                    _room(what, folder)
                    if watch is not None:
                        watch()
            finally:
                os.close(handle)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            raise HostsimError(what, _last(said, process.returncode))


def log_file() -> IO[bytes]:
    return open(os.memfd_create("hs-image-log", os.MFD_CLOEXEC), "w+b", buffering=0)


def _room(what: str, folder: Path) -> None:
    disk = os.statvfs(folder)
    least = min(ROOM, disk.f_blocks * disk.f_frsize // ROOM_SHARE)
    if disk.f_bavail * disk.f_frsize < least or (disk.f_files and disk.f_favail < INODES):
        raise HostsimError(
            what, f"the disk of {folder.parent} has no room for it", "nothing was kept"
        )


def _last(log: IO[bytes], status: int) -> str:
    """Why a program failed: the first of its last lines that speaks of an error, else the last."""
    size = os.fstat(log.fileno()).st_size
    text = os.pread(log.fileno(), LOG_MAX, max(0, size - LOG_MAX)).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not any(end in line for end in CLOSING)]
    marked = [line for line in lines if line.startswith("E: ") or "annot" in line]
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return (marked or lines[-1:] or [f"it ended with {how}"])[0]
