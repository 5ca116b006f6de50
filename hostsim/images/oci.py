# SPDX-License-Identifier: Apache-2.0
"""An OCI image layout (https://github.com/opencontainers/image-spec): the root of one image in it.

    is_layout(tree)                   whether a directory is one
    unpack(work, tree, tag, tell)     the root; umoci applies the layers

umoci takes one manifest by its name, of the OCI's own media types, and no layer of zstd. So its
layout is written anew before: the index names one image, for this machine's processor, and that
under the name `image`; docker's media types become the OCI's; a layer of zstd is decompressed. Then
umoci checks each layer by its digest, and what is in it by the image's own (diff_ids).

Nothing in a layout is believed: no link in it is followed, and what is read here has its digest and
a bound. Raises HostsimError, OSError.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cext.vm.tree import open_beneath
from hostsim.errors import HostsimError, reason
from hostsim.images.sandbox import Sandbox, Tell, tool

WHAT = "import"
NAME_KEY = "org.opencontainers.image.ref.name"
NAME = "image"
DOCUMENT_MAX = 4 << 20
"""Bytes of an index or a manifest (the distribution spec's bound)."""
INDEXES_MAX = 64
"""Indexes that an index may lead to."""
ROWS_MAX = 4096
"""Rows of all of these together."""
LAYERS_MAX = 512
"""Of an image."""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
DOCKERS = {
    "application/vnd.docker.distribution.manifest.v2+json": MANIFEST,
    "application/vnd.docker.container.image.v1+json": CONFIG,
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{LAYER}+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": FOREIGN,
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": f"{FOREIGN}+gzip",
}
"""Docker's media types, and what the OCI calls the same."""
PACKED = ("", "+gzip", "+zstd")
"""What a layer's media type may end with."""
PROCESSORS = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "loongarch64": "loong64",
}
"""What Go, and so the OCI, calls a processor that uname(2) calls otherwise."""
_STEPS = re.compile(r"^\W*((create runtime bundle|unpack (rootfs|manifest|layer)): )*")
"""What umoci puts before its reason."""
PLAIN = ("", "v1", "v8")
"""Variants that any processor of a kind runs."""

Json = dict[str, Any]


def is_layout(tree: Path) -> bool:
    """Whether a directory is an OCI layout."""
    return _is_file(tree / "oci-layout")


def is_docker_archive(tree: Path) -> bool:
    """Whether it is what `docker save` had in its archive before it had a layout."""
    return _is_file(tree / "manifest.json") and _is_file(tree / "repositories")


def unpack(work: Path, tree: Path, tag: str | None, tell: Tell) -> Path:
    """See above. work: a folder for it; tag: the name of the image, needed if there are several."""
    tool("umoci")
    tell("unpacking layers", None)
    whole = work / "oci"
    whole.mkdir()
    layout = whole / "layout"
    tree.rename(layout)
    with Sandbox(whole) as sandbox:
        _Layout(layout, sandbox, tell).prepare(tag)
        words = ["umoci", "unpack", "--image", f"layout:{NAME}", "bundle"]
        try:
            sandbox.run(WHAT, words, watch=lambda: tell("unpacking layers", None))
        except HostsimError as error:
            why = f"umoci cannot unpack the image: {_STEPS.sub('', error.why)}"
            raise HostsimError(WHAT, why, error.hint) from None
    return whole / "bundle/rootfs"


class _Layout:
    """A layout in the sandbox's folder, which is made one that umoci takes."""

    def __init__(self, path: Path, sandbox: Sandbox, tell: Tell) -> None:
        self._path = path
        self._sandbox = sandbox
        self._tell = tell
        self._indexes = self._rows = 0
        self._made: dict[str, Json] = {}  # by the digest of a layer of zstd: what stands for it

    def prepare(self, tag: str | None) -> None:
        """Have its index name one image alone, one that umoci unpacks."""
        chosen = self._translated(self._choose(tag))
        chosen["annotations"] = {NAME_KEY: NAME}
        chosen.pop("platform", None)
        self._write("index.json", json.dumps({"schemaVersion": 2, "manifests": [chosen]}).encode())

    # -- which image ------------------------------------------------------------------------------

    def _choose(self, tag: str | None) -> Json:
        """The descriptor of an image's manifest: of that name, and for this machine."""
        with self._open("index.json", "the OCI layout's index.json") as file:
            known = _rows(_document(file.read(DOCUMENT_MAX), "index.json"), "manifests")
        names = [str((_table(one, "annotations") or {}).get(NAME_KEY, "")) for one in known]
        fits = [one for one, name in zip(known, names, strict=True) if tag is None or name == tag]
        if len({str(one.get("digest")) for one in fits}) > 1:
            fits = [one for one in fits if _is_for_here(one)]
        if len({str(one.get("digest")) for one in fits}) != 1:
            shown = ", ".join(sorted(name or "(without a name)" for name in names)) or "none"
            why = f"the OCI layout has these images: {shown}"
            raise HostsimError(WHAT, why, "choose one with --tag TAG")
        manifests = list(self._manifests(fits[:1]))
        here = [one for one in manifests if _is_for_here(one)]
        if not here:
            others = ", ".join(dict.fromkeys(map(_platform, manifests))) or "no machine"
            raise HostsimError(WHAT, f"the image is for {others}, and this is {_here()}")
        # The first, the specification says; but not one that wants a newer processor.
        return min(here, key=lambda one: _variant(one) not in PLAIN)

    def _manifests(self, descriptors: list[Json]) -> Iterator[Json]:
        """The descriptors of manifests that these lead to, also by indexes."""
        for one in descriptors:
            if _kind(one) not in INDEXES:
                yield one
                continue
            self._indexes += 1
            if self._indexes > INDEXES_MAX:
                raise HostsimError(WHAT, f"the OCI layout has more than {INDEXES_MAX} indexes")
            below = _rows(_document(self._blob(one), "index of images"), "manifests")
            self._rows += len(below)
            if self._rows > ROWS_MAX:
                raise HostsimError(WHAT, f"the OCI layout names more than {ROWS_MAX} images")
            yield from self._manifests(below)

    # -- what umoci is to find --------------------------------------------------------------------

    def _translated(self, descriptor: Json) -> Json:
        """The descriptor of a manifest that umoci takes: this one, or of one that is made of it."""
        _expect(descriptor, MANIFEST)
        manifest = _document(self._blob(descriptor), "manifest")
        config = _table(manifest, "config") or {}
        _expect(config, CONFIG)
        rows = _rows(manifest, "layers")
        if len(rows) > LAYERS_MAX:
            raise HostsimError(WHAT, f"the image has more than {LAYERS_MAX} layers")
        layers = [self._layer(layer) for layer in rows]
        new = manifest | {
            "mediaType": MANIFEST,
            "config": config | {"mediaType": CONFIG},
            "layers": layers,
        }
        if new == {"mediaType": MANIFEST} | manifest:
            return descriptor | {"mediaType": MANIFEST}
        return self._add(json.dumps(new).encode(), MANIFEST)

    def _layer(self, layer: Json) -> Json:
        """The descriptor of a layer that umoci takes."""
        kind = _kind(layer)
        base, plus, packed = kind.partition("+")
        if base not in (LAYER, FOREIGN) or plus + packed not in PACKED:
            raise HostsimError(WHAT, f"a layer is no tar archive, but {_quoted(kind)}")
        if packed != "zstd":
            return layer | {"mediaType": kind}
        digest = str(layer.get("digest"))
        if digest not in self._made:
            self._made[digest] = self._decompressed(layer)
        return self._made[digest]

    def _decompressed(self, layer: Json) -> Json:
        """The same layer as a plain archive. umoci would have checked its digest."""

        def tell() -> None:
            self._tell("decompressing a layer", None)

        tell()
        with self._open_blob(layer) as file:
            _check(file, layer)
            file.seek(0)  # it is not buffered: zstd's position, too
            words = ["zstd", "-d", "-q", "-f", "-o", "layer.tar"]
            try:
                self._sandbox.run(WHAT, words, stdin=file, watch=tell)
            except HostsimError as error:
                why = f"a layer cannot be decompressed: {error.why}"
                raise HostsimError(WHAT, why, error.hint) from None
        made = self._path.parent / "layer.tar"
        with open(made, "rb", opener=_no_link) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        made.rename(self._blobs() / digest)
        return {"mediaType": LAYER, "digest": f"sha256:{digest}", "size": size}

    # -- files ------------------------------------------------------------------------------------

    def _blob(self, descriptor: Json) -> bytes:
        """The contents of an index or a manifest, which are what its descriptor says."""
        with self._open_blob(descriptor) as file:
            if os.fstat(file.fileno()).st_size > DOCUMENT_MAX:
                raise HostsimError(
                    WHAT, f"{descriptor['digest']} is larger than {DOCUMENT_MAX >> 20} MiB"
                )
            _check(file, descriptor)
            file.seek(0)
            return file.read()

    def _open_blob(self, descriptor: Json) -> IO[bytes]:
        digest = str(descriptor.get("digest"))
        found = re.fullmatch(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})", digest)
        if found is None:
            raise HostsimError(WHAT, f"the OCI layout has {_quoted(digest)}, which is no digest")
        algorithm, number = digest.split(":")
        return self._open(f"blobs/{algorithm}/{number}", digest)

    def _open(self, path: str, called: str) -> IO[bytes]:
        """A file of the layout. called: it, in an error."""
        top = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fd = open_beneath(top, path, os.O_RDONLY)
        except OSError as error:
            raise HostsimError(
                WHAT, f"{called} cannot be read: {os.strerror(error.errno or 0)}"
            ) from None
        finally:
            os.close(top)
        file = open(fd, "rb", buffering=0)  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            file.close()
            raise HostsimError(WHAT, f"{called} is no file")
        return file

    def _blobs(self) -> Path:
        """Where blobs are, if that is no link."""
        path = self._path / "blobs/sha256"
        for one in (path.parent, path):
            if one.is_symlink():
                raise HostsimError(WHAT, "the OCI layout's folder of blobs is a link")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _add(self, text: bytes, kind: str) -> Json:
        """A blob more; its descriptor."""
        digest = hashlib.sha256(text).hexdigest()
        self._blobs()
        self._write(f"blobs/sha256/{digest}", text)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(text)}

    def _write(self, name: str, text: bytes) -> None:
        new = self._path.parent / "new"
        new.write_bytes(text)
        new.chmod(0o644)
        new.replace(self._path / name)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _check(file: IO[bytes], descriptor: Json) -> None:
    """Raises HostsimError if a blob is not the one that its descriptor speaks of."""
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    try:
        found = hashlib.file_digest(file, algorithm).hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise HostsimError(WHAT, f"{descriptor['digest']}: {reason(error)}") from None
    if found != digest:
        raise HostsimError(WHAT, f"the blob {descriptor['digest']} is damaged: its digest differs")


def _unreadable(what: str) -> HostsimError:
    return HostsimError(WHAT, f"the OCI layout's {what} cannot be read")


def _document(text: bytes, what: str) -> Json:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _unreadable(what) from None
    if not isinstance(found, dict):
        raise _unreadable(what)
    return found


def _rows(document: Json, key: str) -> list[Json]:
    """A list of tables."""
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _unreadable(f"list of {key}")
    return found


def _table(document: Json, key: str) -> Json | None:
    found = document.get(key)
    if found is not None and not isinstance(found, dict):
        raise _unreadable(key)
    return found


def _kind(descriptor: Json) -> str:
    """Its media type, as the OCI calls it."""
    said = str(descriptor.get("mediaType", ""))
    return DOCKERS.get(said, said)


def _expect(descriptor: Json, kind: str) -> None:
    """Raises HostsimError if it is of another kind."""
    if (found := _kind(descriptor)) != kind:
        raise HostsimError(WHAT, f"what the OCI layout has is no image, but {_quoted(found)}")


def _is_for_here(descriptor: Json) -> bool:
    """Whether an image is for this machine, as far as its descriptor tells."""
    platform = _table(descriptor, "platform")
    return platform is None or _platform(descriptor) == _here()


def _platform(descriptor: Json) -> str:
    platform = _table(descriptor, "platform") or {}
    return _quoted(f"{platform.get('os', '?')}/{platform.get('architecture', '?')}")


def _variant(descriptor: Json) -> str:
    return str((_table(descriptor, "platform") or {}).get("variant", ""))


def _here() -> str:
    machine = os.uname().machine
    return f"linux/{PROCESSORS.get(machine, machine)}"


def _quoted(text: object) -> str:
    """What a layout says, for one line of a message."""
    return "".join(one for one in str(text)[:100] if one.isprintable()) or "nothing"
