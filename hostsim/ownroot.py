# SPDX-License-Identifier: Apache-2.0
"""A VM's own root (`root`, `keep`): found, checked, and opened for the start of a VM.

    source = find(name, root)                 where it is and what; raises HostsimError
    with opened(spec, source, size) as own:   what spawn_vm takes

Nothing in a root is believed: what it holds is read by the kernel and by the VM alone. A directory
is shown without what is mounted below it. Whoever changes it while a VM shows it changes what the
VM reads in ways that no file system promises; a lock (flock(2), shared) tells those who ask.
"""

import contextlib
import errno
import fcntl
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cext.vm import lower, spawn
from hostsim import etc
from hostsim.errors import HostsimError
from hostsim.images import store
from hostsim.model import RootSpec, VmSpec

_MAGIC = {"erofs": (1024, b"\xe2\xe1\xf5\xe0"), "squashfs": (0, b"hsqs")}
"""Of each file system that an image may have: where its superblock says so, and how."""
IMPORT = "hostsim image import NAME FILE makes an image of it; then root = NAME"
HOSTS = "127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n"
KEPT = "image"
"""The file in `keep` that says what root its changes were made for."""
NEW = f"{KEPT}.new"
PARTS = ("up", "work")


@dataclass(frozen=True)
class Source:
    """path: a directory if kind is empty, else an image of that file system. identity: what tells
    this root from another one."""

    path: str
    kind: str
    identity: str


def find(name: str, root: RootSpec) -> Source:
    """Where the root of VM `name` is, and what. Raises HostsimError."""
    what = f"VM {name}: root"
    if root.image:
        image = store.resolve(root.path)
        return Source(str(image.path), image.kind, f"image {image.digest}")
    path = Path(root.path)
    try:
        about = path.stat()
    except OSError as error:
        raise HostsimError(
            what, f"{path}: {error.strerror}", "root is a directory or an image"
        ) from None
    if stat.S_ISDIR(about.st_mode):
        if (path / "oci-layout").is_file():
            raise HostsimError(what, f"{path} is an OCI layout", IMPORT)
        if not any((path / place).is_dir() for place in ("bin", "usr", "sbin")):
            raise HostsimError(
                what,
                f"{path} has no bin, sbin or usr",
                "a directory with an operating system in it",
            )
        return Source(str(path.resolve()), "", f"directory {about.st_dev}:{about.st_ino}")
    if not stat.S_ISREG(about.st_mode):
        raise HostsimError(what, f"{path} is neither a directory nor a file")
    with path.open("rb") as file:
        for kind, (offset, magic) in _MAGIC.items():
            file.seek(offset)
            if file.read(len(magic)) == magic:
                return Source(str(path.resolve()), kind, f"{kind} {about.st_size} {_digest(path)}")
    if ".tar" in path.name:
        raise HostsimError(what, f"{path} is an archive", IMPORT)
    raise HostsimError(
        what, f"{path} is no file system of a kind that is known", "erofs or squashfs: mkfs.erofs"
    )


def _digest(path: Path) -> str:
    """Of an image, cheaply: its superblock and what lies next to it, which hold a UUID and the
    checksum of the rest."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.sha256(file.read(64 << 10)).hexdigest()


@contextlib.contextmanager
def opened(
    spec: VmSpec, source: Source, size: str, netns: str, names: str = ""
) -> Iterator[spawn.Own]:
    """What a VM with this root is started with. Its descriptors are closed afterwards: the VM's
    mounts hold what they need. size: of changes in memory; netns: the name of its network
    namespace, for /etc/netns; names: the host's lines of /etc/hosts. Raises HostsimError,
    OSError."""
    root = spec.root
    assert root is not None
    with contextlib.ExitStack() as stack:

        def closing(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        try:
            tree = (
                lower.image(source.path, source.kind)
                if source.kind
                else lower.directory(source.path)
            )
        except OSError as error:
            raise _unmountable(spec.name, source, error) from error
        closing(tree)
        keep = closing(lower.directory(root.keep)) if root.keep else -1
        shares = []
        for path, read_only in spec.share:
            if not os.path.isdir(path):
                raise HostsimError(
                    f"VM {spec.name}: share", f"{path} is no directory", "make it, or leave it out"
                )
            shares.append((closing(lower.directory(path, read_only)), path))
        own = Path(root.keep) / "up" if root.keep else None
        yield spawn.Own(
            f"size={size},mode=0755",
            tree,
            keep,
            tuple(shares),
            _texts(spec.name, own, netns, names),
        )


def hold(source: Source) -> int:
    """A descriptor that holds the root's shared lock; the caller's. Raises HostsimError."""
    fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise HostsimError(
            source.path, "somebody writes it at this moment", "try again when it is done"
        ) from None
    return fd


def claim_keep(name: str, path: str, source: Source) -> int:
    """Have the directory for one VM's changes: made if it is missing, locked, and of this root. A
    descriptor, the caller's, holds the lock. Raises HostsimError, OSError."""
    what = f"VM {name}: keep"
    folder = Path(path)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostsimError(
            what, f"{path}: {error.strerror}", "a directory, or where one can be made"
        ) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostsimError(
                what, f"{path} is another VM's at this moment", "a directory for each VM"
            ) from None
        _close_to_others(what, path, fd)
        told = folder / KEPT
        if os.path.lexists(told):
            if not stat.S_ISREG(told.lstat().st_mode):
                raise ValueError
            made_for = json.loads(told.read_text())["identity"]
            if made_for != source.identity:
                raise HostsimError(
                    what,
                    f"the changes in {path} are to another root than {source.path}",
                    "another directory, or the root that it was made for",
                )
        elif not _new(folder):
            raise HostsimError(what, f"{path} has other files in it", "an empty directory")
        else:
            for part in PARTS:
                (folder / part).mkdir(mode=0o755, exist_ok=True)
            new = folder / NEW
            new.write_text(json.dumps({"root": source.path, "identity": source.identity}))
            new.replace(told)
    except (ValueError, KeyError, TypeError):
        os.close(fd)
        raise HostsimError(what, f"{path}/{KEPT} cannot be read", "an empty directory") from None
    except OSError as error:
        os.close(fd)
        raise HostsimError(
            what, f"{path}: {error.strerror}", "a directory with room, on a disk that is written to"
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _close_to_others(what: str, path: str, fd: int) -> None:
    """Let nobody but root into the directory: what the VM's user 0 makes setuid in it is the
    machine's user 0's on disk. Raises HostsimError, OSError."""
    owner = os.fstat(fd).st_uid
    if owner != 0:
        raise HostsimError(
            what,
            f"{path} belongs to user {owner}, who could run what the VM has made setuid there",
            f"chown root {path}; or a directory that is not there yet",
        )
    os.fchmod(fd, 0o700)


def _new(folder: Path) -> bool:
    """Whether a directory is empty, or somebody was killed who had just begun to make it one for
    changes: there are none yet."""
    there = {one.name for one in folder.iterdir()}
    return there <= {*PARTS, NEW} and not any(
        any((folder / part).iterdir()) for part in there.intersection(PARTS)
    )


def _texts(name: str, up: Path | None, netns: str, names: str) -> tuple[tuple[str, str], ...]:
    """What is written into the root at each start; changes that were kept keep their own."""
    try:
        resolv = Path("/etc/resolv.conf").read_text(errors="replace")
    except OSError:
        resolv = ""
    texts = {
        "/etc/hostname": f"{name}\n",
        "/etc/hosts": names + HOSTS.format(name=name),
        "/etc/resolv.conf": resolv,
    }
    for file, path in etc.named(netns):
        texts[f"/etc/{file}"] = path.read_text(errors="surrogateescape")
    if up is not None:
        texts = {
            path: text
            for path, text in texts.items()
            if path == "/etc/hostname" or not os.path.lexists(f"{up}{path}")
        }
    return tuple(texts.items())


def _unmountable(name: str, source: Source, error: OSError) -> HostsimError:
    """Why a root cannot be mounted, and what to do."""
    what = f"VM {name}: root"
    if error.errno == errno.ENODEV and source.kind:
        return HostsimError(
            what,
            f"this kernel has no {source.kind}",
            f"modprobe {source.kind}; or a directory as root. hostsim check shows what there is",
        )
    if error.errno in (errno.EINVAL, errno.EUCLEAN, errno.EIO, errno.EOPNOTSUPP):
        return HostsimError(
            what, f"{source.path} is damaged, or of a newer kind of {source.kind}: {error.strerror}"
        )
    return HostsimError(what, f"{source.path}: {error.strerror}")


def load_modules(kind: str) -> None:
    """Have the kernel's modules that a root of this kind needs; a kernel without is found out when
    it is mounted."""
    known = Path("/proc/filesystems").read_text().split()
    names = [name for name in ("overlay", kind) if name and name not in known]
    if kind and not Path("/dev/loop-control").exists():
        names.append("loop")
    for name in names:
        subprocess.run(("modprobe", "-q", name), check=False)
