# SPDX-License-Identifier: Apache-2.0
"""Named network namespaces, as ip-netns(8) keeps them: bind mounts in /run/netns.

What `ip netns add` does, without its process: /run/netns is made a shared mount point once, and a
name there is an empty file with /proc/PID/ns/net bound onto it. `ip netns exec`, tcpdump and nft
find it; it lives until the name is removed, even with no process left in it.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cext.ns import mounts, netns

RUN = Path("/run/netns")
_prepared = False


def prepare() -> None:
    """Make /run/netns as `ip netns add` does. Cheap the second time. Raises OSError."""
    global _prepared
    if _prepared:
        return
    RUN.mkdir(parents=True, exist_ok=True)
    with _locked(fcntl.LOCK_EX):
        try:
            mounts.share(str(RUN))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            mounts.bind_tree(str(RUN))
            mounts.share(str(RUN))
    _prepared = True


@contextlib.contextmanager
def _locked(how: int) -> Iterator[None]:
    """With LOCK_EX, nobody else of this project makes or removes a name; iproute2 takes the same
    lock when it makes the mount. With LOCK_SH, nobody makes one: whoever removes a name that it has
    looked at removes that one, or finds it gone. Many remove theirs at a time, because each unmount
    waits for every CPU (namespace_unlock in fs/namespace.c, synchronize_rcu_expedited)."""
    lock = os.open(RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)


def add(name: str, pid: int) -> None:
    """Name the network namespace of a process. Raises OSError (EEXIST: the name is taken)."""
    _bind(name, f"/proc/{pid}/ns/net")


def add_fd(name: str, netns_fd: int) -> None:
    """Name the network namespace behind a descriptor. Raises OSError as `add` does."""
    _bind(name, f"/proc/self/fd/{netns_fd}")


def _bind(name: str, source: str) -> None:
    prepare()
    path = RUN / name
    with _locked(fcntl.LOCK_EX):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
        except FileExistsError:
            raise FileExistsError(
                errno.EEXIST, f"a network namespace {name} exists already"
            ) from None
        try:
            mounts.bind(source, str(path))
        except OSError:
            path.unlink()
            raise


def identity(netns_fd: int) -> str:
    """What tells a network namespace from all others that there are: its inode (namespaces(7))."""
    return str(os.fstat(netns_fd).st_ino)


def names(name: str, netns_fd: int) -> bool:
    """Whether `name` still is the name of the namespace behind the descriptor."""
    try:
        named, wanted = (RUN / name).stat(), os.fstat(netns_fd)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (wanted.st_dev, wanted.st_ino)


def remove(name: str, only: str = "") -> None:
    """Take a name away; a missing one is no error. The namespace goes with its last user.

    only: the `identity` of the namespace that it must be the name of, if it is one's at all;
    otherwise the name is somebody else's, and stays.
    """
    path = RUN / name
    if not path.exists():
        return
    with _locked(fcntl.LOCK_SH):
        if only and os.path.ismount(path) and str(path.stat().st_ino) != only:
            return
        unmount(path)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def unmount(path: Path) -> None:
    """Unmount everything mounted on `path`; nothing mounted, or no such path, is no error."""
    while True:
        try:
            mounts.detach(str(path))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            raise


def write_sysctls(netns_fd: int, values: dict[str, str]) -> None:
    """Set kernel parameters of a network namespace, named as for sysctl(8): `net.ipv4.ip_forward`.

    In an interface's name a dot is written as a slash, as sysctl(8) has it. Raises OSError, and
    ValueError for a parameter outside `net.`, which would be the whole machine's.
    """
    paths = {}
    for name, value in values.items():
        path = name.translate({ord("."): "/", ord("/"): "."})
        if not path.startswith("net/") or ".." in path.split("/"):
            raise ValueError(f"{name} is not a parameter of a network namespace")
        paths[f"/proc/sys/{path}"] = value
    netns.write_sysctls(netns_fd, paths)


def listens(pid: int) -> bool:
    """Whether a TCP socket listens or a UDP socket is bound in the network namespace of `pid`
    (/proc/PID/net, proc(5): state 0A is LISTEN; 07 is what an unconnected UDP socket shows)."""
    for name, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        if any(line.split()[3] == state for line in lines):
            return True
    return False
