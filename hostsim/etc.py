# SPDX-License-Identifier: Apache-2.0
"""The files of /etc that a VM has besides the machine's, written into its own files at each start.

    /etc/netns/NAME/X    becomes the VM's /etc/X, as ip-netns(8) has it. NAME is the name of its
                         network namespace, hs-HOST-VM.
    /etc/X               if it is a link into the machine's /run, which no VM sees
                         (systemd-resolved's resolv.conf): becomes a copy of what the link leads to,
                         if everybody may read that.
    /etc/hosts           the machine's, behind the names and addresses of the host's VMs and
                         endpoints (hosts(5)); not if /etc/netns/NAME has one.

A copy in the VM's own memory, not a mount: what it writes there stays with it. No program of the VM
runs yet, and its tree is walked through no link all the same.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cext.vm.tree import open_beneath
from hostsim.errors import HostsimError
from hostsim.model import HostSpec

ETC, NAMED = Path("/etc"), Path("/etc/netns")
HOSTS = "hosts"
MOST = 1 << 20
"""Bytes of one file."""
SAME = 1.0
"""Seconds for which VMs that start one after the other are given what one look at /etc found, if
no name came or went in it."""

_last: tuple[float, tuple[Path, str, int] | None, dict[str, Path]] = (-SAME, None, {})


def give(pid: int, netns: str, names: str = "") -> None:
    """Write them. pid: process 1, whose files are its own; netns: its namespace's name; names: the
    host's lines of /etc/hosts. Raises HostsimError for a file of /etc/netns that cannot be given,
    OSError."""
    own = dict(named(netns))
    wanted = dict(links()) | own
    with _directory(pid) as directory:
        for name, source in wanted.items():
            if name in own or _is_link_to(directory, name):
                with contextlib.suppress(FileNotFoundError):  # what a link led to has just gone
                    _put(directory, name, source.read_bytes()[:MOST])
        if names and HOSTS not in own:
            _put(directory, HOSTS, _hosts(names))


def rename(pid: int, before: str, names: str) -> None:
    """Write a VM's /etc/hosts anew if it is as `give` wrote it with the names `before`; one that
    the VM has changed stays. Raises OSError."""
    with _directory(pid) as directory:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(HOSTS, flags, dir_fd=directory)
        except OSError:
            return  # there is none, or something else has its name: the VM's own doing
        with open(fd, "rb") as file:
            was = _hosts(before)
            same = stat.S_ISREG(os.fstat(fd).st_mode) and file.read(len(was) + 1) == was
        if same:
            _put(directory, HOSTS, _hosts(names))


def lines(spec: HostSpec) -> str:
    """The host's lines of /etc/hosts: each VM and endpoint that has addresses. Pure."""
    return "".join(
        f"{address.ip} {one.name}\n"
        for one in (*spec.vms, *spec.endpoints)
        for address in one.addresses
        if one.name != "localhost"
    )


def _hosts(names: str) -> bytes:
    try:
        machines = (ETC / HOSTS).read_bytes()[:MOST]
    except OSError:
        machines = b""
    return names.encode() + machines


@contextlib.contextmanager
def _directory(pid: int) -> Iterator[int]:
    """A VM's /etc, found through no link."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        directory = open_beneath(root, "etc", os.O_PATH | os.O_DIRECTORY, across=True)
        try:
            yield directory
        finally:
            os.close(directory)
    finally:
        os.close(root)


def links(etc: Path = ETC, run: str = "/run") -> Iterator[tuple[str, Path]]:
    """The links of /etc that lead to a file of the machine's /run that everybody may read."""
    for name, target in _into(etc, run).items():
        with contextlib.suppress(OSError):
            about = target.stat()
            if stat.S_ISREG(about.st_mode) and about.st_size <= MOST and about.st_mode & 0o004:
                yield name, target


def _into(etc: Path, run: str) -> dict[str, Path]:
    """The links that lead there now, or did a moment ago; in any thread."""
    global _last
    looked, then, found = _last
    now, this = time.monotonic(), (etc, run, etc.stat().st_mtime_ns)
    if now - looked >= SAME or then != this:
        links = [entry for entry in os.scandir(etc) if entry.is_symlink()]
        targets = {entry.name: Path(os.path.realpath(entry.path)) for entry in links}
        found = {name: path for name, path in targets.items() if path.is_relative_to(run)}
        _last = now, this, found
    return found


def named(netns: str, base: Path = NAMED) -> Iterator[tuple[str, Path]]:
    """The files of /etc/netns/NAME. Raises HostsimError for one that is no file, or too large."""
    try:
        entries = list(os.scandir(base / netns))
    except FileNotFoundError:
        return
    for entry in sorted(entries, key=lambda entry: entry.name):
        path = Path(entry.path)
        if not entry.is_file() or path.stat().st_size > MOST:
            raise HostsimError(
                str(path), "not a file of at most 1 MiB", "only such are given to a VM"
            )
        yield entry.name, path


def _is_link_to(directory: int, name: str) -> bool:
    """Whether the VM's file is the same link as the machine's."""
    with contextlib.suppress(OSError):
        return os.readlink(name, dir_fd=directory) == os.readlink(ETC / name)
    return False


def _put(directory: int, name: str, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    fd = os.open(name, flags | os.O_CLOEXEC, 0o644, dir_fd=directory)
    with open(fd, "wb") as file:
        file.write(data)
        os.fchmod(fd, 0o644)
