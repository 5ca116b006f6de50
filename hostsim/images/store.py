# SPDX-License-Identifier: Apache-2.0
"""Where images are kept, and what is known of each.

    image = resolve("trixie")      raises HostsimError: no such image, damaged
    fd = image.hold()              while it is open, `remove` refuses; the caller's
    with working() as folder:      made beside the images, gone at the end
        publish(folder, name)      by one rename: an image is there whole, or not at all

An image is a folder of its name: the file system (`root.erofs` or `root.squashfs`) and what is
known of it (`image.json`). Who uses an image holds a shared lock (flock(2)) on the file, who
removes it the exclusive one. A folder of work is locked by its maker; one that nobody locks was
left by a maker that was killed, and `sweep` removes it.

The digest (SHA-256 of the file) is checked against a file that is not the one it was taken of, by
inode, size and times: on an unchanged file it costs no reading.
"""

import contextlib
import fcntl
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hostsim.errors import HostsimError, reason

ENVIRONMENT = "HOSTSIM_IMAGES"
"""A folder instead of FOLDER."""
FOLDER = Path("/var/lib/hostsim/images")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
ALLOWED = "lower-case letters, digits, - . _, at most 63, a letter or digit first"
KINDS = ("erofs", "squashfs")
KNOWN = "image.json"
NEW, GONE = ".new-", ".gone-"
KNOWN_MAX, RELEASE_MAX = 1 << 20, 64 << 10  # bytes
LINE_MAX = 256
"""Characters of a line of os-release(5): they are shown, and an image may hold anything."""


class Image(NamedTuple):
    """One image. path: of the file. kind: erofs or squashfs. release: the fields of its
    os-release(5), none if it has no such file. size: bytes."""

    name: str
    path: Path
    kind: str
    digest: str
    release: Mapping[str, str]
    size: int

    def hold(self) -> int:
        """A descriptor of the file, the caller's, that keeps the image from being removed. Raises
        HostsimError."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise HostsimError(f"image {self.name}", reason(error)) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise HostsimError(f"image {self.name}", "is being removed") from None
        return fd

    def users(self) -> list[int]:
        """The processes that hold it (proc(5), /proc/locks), sorted."""
        about = self.path.stat()
        where = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return sorted({int(row[4]) for row in rows if row[1:2] == ["FLOCK"] and row[5] == where})


def folder() -> Path:
    """Where the images are."""
    return Path(os.environ.get(ENVIRONMENT) or FOLDER)


def check_name(name: str) -> str:
    """The name. Raises HostsimError if no image can be called so."""
    if not NAME.fullmatch(name):
        raise HostsimError(f"image {name}", "this is no name", f"allowed: {ALLOWED}")
    return name


def resolve(name: str) -> Image:
    """The image of this name, with its digest checked. Raises HostsimError."""
    check_name(name)
    own = folder() / name
    known = _read(own, name)
    path = own / f"root.{known['kind']}"
    try:
        stamp = _stamp(path)
        if stamp != known["stamp"]:
            if stamp["size"] != known["size"] or digest(path) != known["digest"]:
                raise _damaged(name, f"{path.name} is not the file that was made")
            _write(own, known | {"stamp": stamp})
    except OSError as error:
        raise _damaged(name, reason(error)) from None
    return _image(own, known)


def images() -> list[Image]:
    """Every image, by name. An image that cannot be read has the digest "" and the size 0."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for own in sorted(folder().iterdir()):
            if NAME.fullmatch(own.name) and own.is_dir():
                try:
                    found.append(_image(own, _read(own, own.name)))
                except HostsimError:
                    found.append(Image(own.name, own, "damaged", "", {}, 0))
    return found


def exists(name: str) -> bool:
    """Whether the name is taken, by a damaged image too."""
    return os.path.lexists(folder() / name)


def remove(name: str) -> None:
    """Remove an image. Raises HostsimError: there is none, it is in use."""
    check_name(name)
    own = folder() / name
    if not own.is_dir():
        raise _missing(name)
    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            with contextlib.suppress(FileNotFoundError):
                file = stack.enter_context(open(own / f"root.{kind}", "rb"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise HostsimError(
                        f"image {name}", "is in use", "hostsim image list shows by which host"
                    ) from None
        with _alone():
            gone = _new_folder(GONE, folder())
            own.rename(gone / name)
            _delete(gone)


def _new_folder(prefix: str, where: Path) -> Path:
    """A folder that nobody else has. Raises OSError."""
    from tempfile import mkdtemp  # with what it loads, a host is up later

    return Path(mkdtemp(prefix=prefix, dir=where))


@contextlib.contextmanager
def working() -> Iterator[Path]:
    """A folder of work beside the images, locked, with leftovers of killed makers removed first.
    It is gone at the end, however that comes. Raises HostsimError, OSError."""
    top = folder()
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep()
    with _alone():
        path = _new_folder(NEW, top)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        _delete(path)
        os.close(lock)


def publish(
    work: Path, name: str, kind: str, release: Mapping[str, str], made: Mapping[str, Any]
) -> Image:
    """Make work/image, which holds root.KIND alone, the image of this name. made: how it was made,
    kept beside. Raises HostsimError if the name was taken meanwhile."""
    own = work / "image"
    file = own / f"root.{kind}"
    with open(file, "rb") as written:
        os.fsync(written.fileno())
    stamp = _stamp(file)
    known = {
        "kind": kind,
        "digest": digest(file),
        "size": stamp["size"],
        "stamp": stamp,
        "release": dict(release),
        "made": dict(made),
    }
    _write(own, known)
    try:
        own.rename(folder() / name)
    except OSError:
        if exists(name):
            raise taken(name) from None
        raise
    return _image(folder() / name, known)


def sweep() -> list[str]:
    """Remove the folders of work that no maker locks; their names."""
    removed: list[str] = []
    if not folder().is_dir():
        return removed
    with _alone():
        for path in sorted(folder().iterdir()):
            if not path.name.startswith((NEW, GONE)):
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _delete(path)
                    removed.append(path.name)
                except BlockingIOError:
                    pass  # its maker lives
                finally:
                    os.close(lock)
    return removed


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_release(text: str) -> dict[str, str]:
    """The fields of an os-release(5) file. A line that is none, or is too long, is left out."""
    fields = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if len(line) > LINE_MAX or not equals or not re.fullmatch(r"[A-Z0-9_]+", key):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        fields[key] = "".join(one for one in " ".join(words) if one.isprintable())
    return fields


def taken(name: str) -> HostsimError:
    """The error for a name that an image has already."""
    return HostsimError(
        f"image {name}", "there is one of this name", f"hostsim image remove {name} removes it"
    )


def _missing(name: str) -> HostsimError:
    names = ", ".join(image.name for image in images()) or "none"
    return HostsimError(
        f"image {name}", f"there is none; there are: {names}", "hostsim image build makes one"
    )


def _damaged(name: str, why: str) -> HostsimError:
    return HostsimError(
        f"image {name}", f"is damaged: {why}", f"hostsim image remove {name}, then make it again"
    )


def _read(own: Path, name: str) -> dict[str, Any]:
    """What is known of an image. Raises HostsimError."""
    try:
        with open(own / KNOWN, encoding="utf-8") as file:
            known = json.loads(file.read(KNOWN_MAX))
        if known["kind"] not in KINDS or not isinstance(known["release"], dict):
            raise ValueError(known["kind"])
        return {"stamp": None} | {key: known[key] for key in ("digest", "size")} | dict(known)
    except (FileNotFoundError, NotADirectoryError):
        if own.is_dir():
            raise _damaged(name, f"it has no {KNOWN}") from None
        raise _missing(name) from None
    except OSError as error:
        raise HostsimError(f"image {name}", reason(error)) from None
    except (ValueError, KeyError, TypeError):
        raise _damaged(name, f"{KNOWN} cannot be read") from None


def _write(own: Path, known: Mapping[str, Any]) -> None:
    new = own / f"{KNOWN}.new"
    with open(new, "w", encoding="utf-8") as file:
        json.dump(known, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(own / KNOWN)


def _image(own: Path, known: Mapping[str, Any]) -> Image:
    kind = known["kind"]
    path = own / f"root.{kind}"
    return Image(own.name, path, kind, known["digest"], known["release"], known["size"])


def _stamp(path: Path) -> dict[str, int]:
    """What changes if somebody writes the file, or puts another one in its place."""
    about = path.lstat()
    return {
        "inode": about.st_ino,
        "size": about.st_size,
        "mtime": about.st_mtime_ns,
        "ctime": about.st_ctime_ns,
    }


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """No other maker begins, and nobody sweeps."""
    fd = os.open(folder(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _delete(path: Path) -> None:
    """Whatever is in it: rm(1) goes down trees of any depth, and follows no link."""
    subprocess.run(("rm", "-rf", "--one-file-system", "--", str(path)), check=True)
