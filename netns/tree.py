# SPDX-License-Identifier: Apache-2.0
"""What the machine puts into a VM's tree: files, links, sockets, directories.

User 0 of the VM may write in the same directories at the same time. So a path is looked up below a
directory that we hold open, and through no link; a new thing is made under a name of its own and
renamed over what is there; nothing that is there is opened for writing or waited for. What is in
the way all the same (a directory, a full file system) raises OSError: it is that VM's affair alone.
"""

import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterator

from cext.vm.tree import open_beneath

_numbers = itertools.count()
TRIES = 16
"""Names that somebody in the VM can take before we do, until that is an error."""


@contextlib.contextmanager
def root(pid: int) -> Iterator[int]:
    """The root directory of a VM's process 1 (O_PATH). Raises OSError."""
    fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def write(directory: int, name: str, data: bytes, mode: int) -> None:
    """A file of these contents, in place of what has the name. Raises OSError."""

    def make(new: str) -> None:
        fd = open_beneath(directory, new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)

    _replace(directory, name, make)


def link(directory: int, name: str, target: str) -> None:
    """A symbolic link, in place of what has the name. Raises OSError."""
    _replace(directory, name, lambda new: os.symlink(target, new, dir_fd=directory))


def bind(sock: socket.socket, directory: int, name: str, mode: int) -> None:
    """Bind a Unix socket to a name, in place of what has it. Raises OSError."""

    def make(new: str) -> None:
        before = os.umask(0o777 & ~mode)  # bind(2) applies it to the socket's 0777; no chmod(2)
        try:
            sock.bind(f"/proc/self/fd/{directory}/{new}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
        finally:
            os.umask(before)

    _replace(directory, name, make)


def remove(directory: int, name: str) -> None:
    """Take away what has the name, unless it is a directory; nothing there is no error. Raises
    OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def opened(directory: int, name: str, mode: int = 0o755) -> int:
    """A descriptor of a directory in this one (O_PATH), made if it is missing. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=directory)
    return open_beneath(directory, name, os.O_PATH | os.O_DIRECTORY)


@contextlib.contextmanager
def folder(directory: int, name: str) -> Iterator[int]:
    """The same, for as long as the block runs. Raises OSError."""
    fd = opened(directory, name)
    try:
        yield fd
    finally:
        os.close(fd)


def _replace(directory: int, name: str, make: Callable[[str], None]) -> None:
    """Make something under a name that nothing has, and rename it over `name`."""
    for left in reversed(range(TRIES)):
        new = f".hostsim-{os.getpid()}-{next(_numbers)}"
        try:
            make(new)
            break
        except FileExistsError:
            if not left:
                raise
    try:
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise
