# SPDX-License-Identifier: Apache-2.0
"""How an image is made: of a Debian suite, or of what somebody has.

    build(name, suite, include, mirror, tell)     mmdebstrap, then mkfs.erofs
    import_(name, source, tag, tell)              a directory, archive, OCI layout, file system

Both return the Image, and leave nothing if they break off. `tell` hears what is done at the moment,
and how far it is (0 to 1; None: nobody knows). What is imported is hostile: see sandbox. Files of a
directory /dev are left out, for a VM's /dev is made from outside; /etc/machine-id is emptied.
"""

import contextlib
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from cext.vm import lower
from hostsim.errors import HostsimError, reason
from hostsim.images import oci, store
from hostsim.images.sandbox import BASE, Sandbox, Tell, alone, attend, log_file, tool
from hostsim.images.store import Image

ALWAYS = ("systemd-sysv", "dbus", "udev", "iproute2")
"""Packages of every image that is built: without them nothing boots."""
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
SYSTEMS = {"erofs": (1024, b"\xe2\xe1\xf5\xe0"), "squashfs": (0, b"hsqs")}
STAGES = (
    ("automatically chosen mode", 0.0),
    ("running apt-get update", 0.05),
    ("downloading packages", 0.15),
    ("extracting archives", 0.4),
    ("installing essential", 0.5),
    ("installing remaining", 0.65),
    ("cleaning package lists", 0.9),
    ("creating tarball", 0.93),
)
"""What mmdebstrap says, and how far it is then."""
TAR = (
    "-x", "--numeric-owner", "--same-owner", "-p", "--delay-directory-restore",
    "--xattrs", "--xattrs-include=security.capability",
    "--anchored", "--wildcards", "--exclude=./dev/*", "--exclude=dev/*", "--exclude=/dev/*",
)  # fmt: skip
NO_SYSTEM = "a root has bin, sbin or usr"


def build(name: str, suite: str, include: Sequence[str], mirror: str | None, tell: Tell) -> Image:
    """A Debian suite, with the packages of ALWAYS and `include`. Raises HostsimError, OSError."""
    _free(name)
    packages = [*ALWAYS, *(one for one in include if one not in ALWAYS)]
    words = ["mmdebstrap", "--variant=minbase", "--format=tar", f"--include={','.join(packages)}"]
    words += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    words += [suite, "-", *([mirror] if mirror else [])]
    for needed in ("mmdebstrap", "mkfs.erofs", "tar"):
        tool(needed)
    with store.working() as work:
        archive = work / "root.tar"
        log = log_file()

        def watch() -> None:
            said = os.pread(log.fileno(), 64 << 10, 0).decode(errors="replace")
            text, far = next(
                ((text, far) for text, far in reversed(STAGES) if text in said), STAGES[0]
            )
            tell(f"{suite}: {text}", far * 0.9)

        with open(archive, "wb") as out:
            try:
                attend(f"build {name}", alone(words), work, stdout=out, watch=watch, log=log)
            except HostsimError as error:
                hint = "hostsim image import takes a root made elsewhere"
                raise HostsimError(error.what, error.why, hint) from None
        with open(archive, "rb") as file:
            tree = _unpack(work, file, "unpacking", tell)
        archive.unlink()
        return _finish(work, name, tree, {"suite": suite, "packages": packages}, tell)


def import_(name: str, source: Path, tag: str | None, tell: Tell) -> Image:
    """See above. tag: of an OCI layout with several images. Raises HostsimError, OSError."""
    _free(name)
    made = {"from": str(source)}
    try:
        about = source.stat()
    except OSError as error:
        raise HostsimError(f"import {source}", error.strerror or str(error)) from None
    if not (stat.S_ISDIR(about.st_mode) or stat.S_ISREG(about.st_mode)):
        raise HostsimError(f"import {source}", "is neither a directory nor a file")
    if stat.S_ISDIR(about.st_mode):
        tool("mkfs.erofs")
        with store.working() as work:
            tree = _copy(work, source, tell)
            return _finish(work, name, _root(work, tree, tag, tell), made, tell)
    with open(source, "rb", opener=_no_wait) as file:
        kind = next((kind for kind, (at, magic) in SYSTEMS.items() if _at(file, at, magic)), None)
        with store.working() as work:
            if kind is not None:
                return _as_it_is(work, name, file, kind, made, tell)
            tool("mkfs.erofs")
            tree = _unpack(work, file, "unpacking", tell)
            return _finish(work, name, _root(work, tree, tag, tell), made, tell)


def _free(name: str) -> None:
    if store.exists(store.check_name(name)):
        raise store.taken(name)


def _no_wait(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _at(file: IO[bytes], offset: int, magic: bytes) -> bool:
    return os.pread(file.fileno(), len(magic), offset) == magic


def _copy(work: Path, source: Path, tell: Tell) -> Path:
    """The files of a directory, by a pipe: what reads it is root, and what writes is not."""
    tell("copying", None)
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    words = [tool("setpriv"), "--pdeathsig", "KILL", tool("tar"), "-c", "--numeric-owner"]
    words += ["--one-file-system", "--xattrs", "--xattrs-include=security.capability"]
    words += ["--warning=no-file-ignored", "-C", str(source), "."]
    with subprocess.Popen(words, stdout=theirs, stderr=subprocess.PIPE) as reader:
        os.close(theirs)
        try:
            with open(ours, "rb", buffering=0) as pipe:
                tree = _unpack(work, pipe, "copying", tell)
        finally:
            if reader.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    reader.wait(5)
            reader.kill()
        assert reader.stderr is not None
        said = reader.stderr.read(4096).decode(errors="replace").splitlines()
    if reader.returncode != 0:
        raise HostsimError(f"import {source}", (said or ["it cannot be read"])[0])
    return tree


def _unpack(work: Path, file: IO[bytes], text: str, tell: Tell) -> Path:
    """The tree of an archive, of any compression."""
    tree = work / "tree"
    tree.mkdir(mode=0o755)
    words = ["tar", *TAR]
    size = os.fstat(file.fileno()).st_size
    if size:
        file.seek(0)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        for magic, program in MAGIC.items():
            if _at(file, 0, magic):
                words.append(f"--use-compress-program={tool(program)}")
    elif stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise HostsimError("import", "the file is empty")

    def watch() -> None:
        # The program reads by our descriptor, so it moves our position.
        tell(text, os.lseek(file.fileno(), 0, os.SEEK_CUR) / size if size else None)

    with Sandbox(tree) as sandbox:
        sandbox.run("import", [*words, "-f", "-"], stdin=file, watch=watch)
    if stat.S_IMODE(tree.lstat().st_mode) & 0o555 != 0o555:
        tree.chmod(0o755)
    return tree


def _root(work: Path, tree: Path, tag: str | None, tell: Tell) -> Path:
    """The root in an unpacked archive, or in a directory's copy: an OCI layout's, or all of it."""
    if oci.is_layout(tree):
        return oci.unpack(work, tree, tag, tell)
    if tag is not None:
        raise HostsimError("import", "only an OCI layout has tags", "leave --tag out")
    if oci.is_docker_archive(tree):
        raise HostsimError(
            "import", "this is an archive of docker save", "skopeo copy makes an oci-archive"
        )
    return tree


def _finish(work: Path, name: str, tree: Path, made: dict[str, Any], tell: Tell) -> Image:
    """The image of a tree."""
    top = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not any(os.path.lexists(tree / place) for place in ("bin", "sbin", "usr")):
            raise HostsimError(f"import {name}", "there is no operating system", NO_SYSTEM)
        _empty_machine_id(top)
        release = _release(top)
    finally:
        os.close(top)
    tell("writing the file system", None)
    out = work / "out"
    out.mkdir()
    tree.rename(out / "tree")
    with Sandbox(out) as sandbox:
        words = ["mkfs.erofs", "--quiet", "root.erofs", "tree"]
        far = 0.95
        sandbox.run("mkfs.erofs", words, watch=lambda: tell("writing the file system", far))
    return _publish(work, out / "root.erofs", name, "erofs", release, made, tell)


def _as_it_is(
    work: Path, name: str, file: IO[bytes], kind: str, made: dict[str, Any], tell: Tell
) -> Image:
    """A file that is a file system already: copied, and mounted once."""
    copy, size = work / f"root.{kind}", os.fstat(file.fileno()).st_size
    with open(copy, "wb") as out:
        done = 0
        while count := os.sendfile(out.fileno(), file.fileno(), done, 16 << 20):
            done += count
            tell("copying", done / max(size, done))
    try:
        top = lower.image(str(copy), kind)
    except OSError as error:
        raise HostsimError(
            f"import {name}", f"this kernel mounts no such {kind}: {reason(error)}", "hostsim check"
        ) from None
    try:
        release = _release(top)
        if not any(_is_there(top, place) for place in ("bin", "sbin", "usr")):
            raise HostsimError(f"import {name}", "there is no operating system", NO_SYSTEM)
    except OSError as error:
        raise HostsimError(f"import {name}", f"the {kind} is damaged: {reason(error)}") from None
    finally:
        os.close(top)
    return _publish(work, copy, name, kind, release, made, tell)


def _publish(
    work: Path,
    file: Path,
    name: str,
    kind: str,
    release: dict[str, str],
    made: dict[str, Any],
    tell: Tell,
) -> Image:
    tell("taking its digest", 0.98)
    own = work / "image"
    own.mkdir()
    file.rename(own / f"root.{kind}")
    os.chown(own / f"root.{kind}", 0, 0)
    os.chmod(own / f"root.{kind}", 0o600)
    return store.publish(work, name, kind, release, made)


def _empty_machine_id(top: int) -> None:
    """As machine-id(5) wants it of an image: a file without contents, which the first start fills
    in; each start, if nobody keeps it. Follows no link out of the tree."""
    directory = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        etc = os.open("etc", directory, dir_fd=top)
    except OSError:
        return  # no etc, or one that leads elsewhere
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("machine-id", dir_fd=etc)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open("machine-id", flags, 0o444, dir_fd=etc)
        os.fchown(fd, BASE, BASE)
        os.close(fd)
    except IsADirectoryError:
        pass
    finally:
        os.close(etc)


def _release(top: int) -> dict[str, str]:
    """os-release(5) of a tree; nothing if there is none. Follows no link."""
    for place in ("usr/lib", "etc"):
        with contextlib.suppress(OSError):
            return store.parse_release(_text(top, [*place.split("/"), "os-release"]))
    return {}


def _is_there(top: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=top, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _text(top: int, words: Sequence[str]) -> str:
    """A file's text, as far as it is short. Raises OSError, also at a link."""
    at = os.dup(top)  # of a mount, an O_PATH descriptor
    try:
        for word in words[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(word, flags, dir_fd=at)
            os.close(at)
            at = below
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(words[-1], flags, dir_fd=at), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("not a file")
            return file.read(store.RELEASE_MAX).decode(errors="replace")
    finally:
        os.close(at)
