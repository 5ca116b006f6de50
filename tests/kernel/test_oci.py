# SPDX-License-Identifier: Apache-2.0
"""OCI layouts as other tools write them, and as nobody should: each becomes the right image, or is
refused with one line. The layouts are made by hand, from the specification."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cext.vm import lower
from hostsim.images import oci, store

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("images")]

HOSTSIM = Path(sys.executable).with_name("hostsim")
HERE = {"os": "linux", "architecture": oci.PROCESSORS.get(os.uname().machine, os.uname().machine)}
OTHER = {"os": "linux", "architecture": "s390x"}
INDEX, LIST = oci.INDEXES
DOCKERS = {kind: dockers for dockers, kind in oci.DOCKERS.items()}
RELEASE = ("usr/lib/os-release", b'ID=box\nPRETTY_NAME="Box"\n')

Json = dict[str, Any]
Member = tuple[str, bytes | None] | tarfile.TarInfo
"""A file and what is in it, a directory (None), or anything else."""


class Layout:
    """An OCI layout in the making."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "layout"
        (self.path / "blobs/sha256").mkdir(parents=True)
        (self.path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, kind: str, data: bytes) -> Json:
        digest = hashlib.sha256(data).hexdigest()
        self.file(digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    def file(self, digest: str) -> Path:
        return self.path / "blobs/sha256" / digest.removeprefix("sha256:")

    def document(self, kind: str, document: Json) -> Json:
        return self.blob(
            kind, json.dumps({"schemaVersion": 2, "mediaType": kind} | document).encode()
        )

    def image(self, *layers: bytes, packed: str = "gzip", docker: bool = False) -> Json:
        """The descriptor of an image of these archives."""

        def called(kind: str) -> str:
            return DOCKERS[kind] if docker else kind

        kind = oci.LAYER if not packed else f"{oci.LAYER}+{packed}"
        blobs = [self.blob(called(kind), pack(layer, packed)) for layer in layers]
        diffs = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        rootfs = {"type": "layers", "diff_ids": diffs}
        config = self.blob(called(oci.CONFIG), json.dumps(HERE | {"rootfs": rootfs}).encode())
        return self.document(called(oci.MANIFEST), {"config": config, "layers": blobs})

    def index(self, *descriptors: Json, kind: str = INDEX) -> Json:
        return self.document(kind, {"manifests": descriptors})

    def named(self, *descriptors: Json) -> Path:
        """The layout, with these in its index."""
        text = json.dumps({"schemaVersion": 2, "manifests": descriptors})
        (self.path / "index.json").write_text(text)
        return self.path


@pytest.fixture
def made(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def pack(layer: bytes, packed: str) -> bytes:
    if packed == "gzip":
        return gzip.compress(layer)
    if packed == "zstd":
        return subprocess.run(("zstd", "-qc"), input=layer, capture_output=True, check=True).stdout
    return layer


def layer(*members: Member) -> bytes:
    """An archive of these."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data or b""))
    return out.getvalue()


def link(name: str, target: str, hard: bool = False) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
    info.linkname = target
    return info


def of(text: str) -> bytes:
    """The one layer of an image whose os-release says this."""
    return layer((RELEASE[0], f"ID=box\nPRETTY_NAME={text}\n".encode()))


def hostsim(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HOSTSIM, *words], capture_output=True, text=True, check=False)


def taken(source: Path, *words: str) -> store.Image:
    done = hostsim("image", "import", "box", source, *words)
    assert done.returncode == 0, done.stderr
    return store.resolve("box")


def is_called(image: store.Image) -> str:
    return image.release["PRETTY_NAME"]


def refused(source: Path, *words: str) -> str:
    """The one line with which an import fails. Nothing is there afterwards."""
    done = hostsim("image", "import", "box", source, *words)
    assert done.returncode == 1, done
    lines = [line for line in done.stderr.splitlines() if " s  " not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("hostsim: import: ")
    assert "install" not in lines[0]  # it is no tool that is missing
    assert store.images() == []
    return lines[0]


def contents(image: store.Image) -> dict[str, bytes | str | None]:
    """Each file's contents, each link's target; None for a directory."""
    found: dict[str, bytes | str | None] = {}
    top = lower.image(str(image.path), image.kind)
    try:
        root = Path(f"/proc/self/fd/{top}")
        for folder, folders, files in os.walk(root):
            for name in folders + files:
                path = Path(folder, name)
                key = str(path.relative_to(root))
                if path.is_symlink():
                    found[key] = os.readlink(path)
                else:
                    found[key] = None if path.is_dir() else path.read_bytes()
    finally:
        os.close(top)
    return found


# -- which image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [INDEX, LIST])
def test_of_several_processors_this_machines_is_taken(made: Layout, kind: str) -> None:
    other = made.image(of("other")) | {"platform": OTHER}
    newer = made.image(of("newer")) | {"platform": HERE | {"variant": "v4"}}
    here = made.image(of("here"), docker=kind == LIST) | {"platform": HERE}
    proof = made.image(of("proof")) | {"platform": {"os": "unknown", "architecture": "unknown"}}
    source = made.named(made.index(proof, other, newer, here, kind=kind))
    assert is_called(taken(source)) == "here"


def test_several_processors_beside_each_other(made: Layout) -> None:
    other = made.image(of("other")) | {"platform": OTHER}
    here = made.image(of("here")) | {"platform": HERE}
    assert is_called(taken(made.named(other, here))) == "here"


def test_an_index_of_indexes(made: Layout) -> None:
    other = made.index(made.image(of("other")) | {"platform": OTHER})
    here = made.index(made.index(made.image(of("here")) | {"platform": HERE}))
    assert is_called(taken(made.named(made.index(other, here)))) == "here"


def test_one_image_by_two_names(made: Layout) -> None:
    image = made.image(of("one"))
    names = [image | {"annotations": {oci.NAME_KEY: name}} for name in ("latest", "12")]
    assert is_called(taken(made.named(*names))) == "one"


def test_an_image_for_other_machines_alone(made: Layout) -> None:
    other = made.image(of("other")) | {"platform": OTHER}
    line = refused(made.named(made.index(other)))
    assert f"is for linux/s390x, and this is linux/{HERE['architecture']}" in line


def test_two_images_without_names(made: Layout) -> None:
    assert "choose one with --tag" in refused(made.named(made.image(of("a")), made.image(of("b"))))


def test_more_indexes_than_anybody_needs(made: Layout) -> None:
    below = made.index(made.image(of("one")))
    for _ in range(5):
        below = made.index(*[below] * 20)
    assert "more than 64 indexes" in refused(made.named(below))


def test_more_images_than_anybody_has(made: Layout) -> None:
    """They are few bytes in the layout, and would be many in memory."""
    index = made.document(oci.INDEXES[0], {"manifests": [{}] * (oci.ROWS_MAX + 1)})
    assert f"more than {oci.ROWS_MAX} images" in refused(made.named(index))
    half = made.document(oci.INDEXES[0], {"manifests": [{}] * (oci.ROWS_MAX // 2 + 1)})
    index = made.document(oci.INDEXES[0], {"manifests": [half, half]})
    assert f"more than {oci.ROWS_MAX} images" in refused(made.named(index))


def test_more_layers_than_anybody_has(made: Layout) -> None:
    image = made.image(layer(RELEASE))
    manifest = json.loads(made.file(image["digest"]).read_bytes())
    manifest["layers"] *= oci.LAYERS_MAX + 1
    named = made.named(made.document(oci.MANIFEST, manifest))
    assert f"more than {oci.LAYERS_MAX} layers" in refused(named)


# -- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("packed", ["", "gzip", "zstd"])
def test_layers_of_each_compression(made: Layout, packed: str, docker: bool) -> None:
    under, over = layer(RELEASE, ("a", b"under")), layer(("a", b"over"), ("b", b"b"))
    image = taken(made.named(made.image(under, over, packed=packed, docker=docker)))
    assert contents(image)["a"] == b"over"
    assert contents(image)["b"] == b"b"
    assert is_called(image) == "Box"


def test_a_layer_that_is_named_often_is_decompressed_once(
    made: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file could be hours of work."""
    image = made.image(*[layer(RELEASE)] * 5, packed="zstd")
    asked, decompressed = [], oci._Layout._decompressed

    def counted(self: oci._Layout, layer: Json) -> Json:
        asked.append(layer["digest"])
        return decompressed(self, layer)

    monkeypatch.setattr(oci._Layout, "_decompressed", counted)
    work = tmp_path / "work"
    work.mkdir()
    root = oci.unpack(work, made.named(image), None, lambda step, done: None)
    assert (root / RELEASE[0]).read_bytes() == RELEASE[1]
    assert len(asked) == 1


def test_whiteouts(made: Layout) -> None:
    under = layer(
        RELEASE, ("d", None), ("d/gone", b"x"), ("d/stays", b"x"), ("e", None), ("e/old", b"x"),
        ("f", None), ("f/below", b"x"), ("g/h/deep", b"x"),
    )  # fmt: skip
    over = layer(
        ("d/.wh.gone", b""), ("e/new", b"y"), ("e/.wh..wh..opq", b""), (".wh.f", b""),
        ("g/.wh.h", b""), ("g/h/again", b"y"),
    )  # fmt: skip
    found = contents(taken(made.named(made.image(under, over))))
    assert {name: data for name, data in found.items() if name[0] in ".defg"} == {
        "d": None, "d/stays": b"x", "e": None, "e/new": b"y", "g": None, "g/h": None,
        "g/h/again": b"y",
    }  # fmt: skip


def test_a_hard_link_to_a_file_of_a_lower_layer(made: Layout) -> None:
    under, over = layer(RELEASE, ("a", b"one")), layer(link("b", "a", hard=True))
    image = taken(made.named(made.image(under, over)))
    assert contents(image)["b"] == b"one"
    top = lower.image(str(image.path), image.kind)
    try:
        assert os.stat("a", dir_fd=top).st_ino == os.stat("b", dir_fd=top).st_ino
    finally:
        os.close(top)


def test_a_file_that_becomes_a_directory_and_the_other_way_round(made: Layout) -> None:
    under = layer(RELEASE, ("a", b"file"), ("b", None), ("b/below", b"x"), link("c", "b"))
    over = layer(("a", None), ("a/below", b"y"), ("b", b"file"), ("c", None), ("c/below", b"z"))
    found = contents(taken(made.named(made.image(under, over))))
    assert {name: found.get(name) for name in ("a/below", "b", "b/below", "c/below")} == {
        "a/below": b"y", "b": b"file", "b/below": None, "c/below": b"z",
    }  # fmt: skip
    assert "b/below" not in found


@pytest.mark.parametrize("empty", ["no members", "no bytes"])
def test_an_empty_layer(made: Layout, empty: str) -> None:
    nothing = layer() if empty == "no members" else b""
    assert is_called(taken(made.named(made.image(layer(RELEASE), nothing)))) == "Box"


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder that anybody may write to."""
    path = Path("/tmp") / f"hs-outside-oci-{os.getpid()}"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    (path / "there").write_text("as it was")
    (path / "there").chmod(0o666)
    try:
        yield path
    finally:
        subprocess.run(("rm", "-rf", path), check=True)


def test_links_that_lead_out_stay_as_they_are_and_are_not_followed(
    made: Layout, outside: Path
) -> None:
    under = layer(RELEASE, link("door", str(outside)), link("up", "../../../../.."))
    over = layer(("door/through", b"x"), (f"up{outside}/up", b"x"), ("door/there", b"x"))
    dots = layer((f"../../../..{outside}/dots", b"x"), (f"{outside}/absolute", b"x"))
    found = contents(taken(made.named(made.image(under, over, dots))))
    assert [path.name for path in outside.iterdir()] == ["there"]
    assert (outside / "there").read_text() == "as it was"
    assert found["door"] == str(outside)
    assert found[f"{outside}/absolute".lstrip("/")] == b"x"


# -- what is damaged -----------------------------------------------------------------------------


@pytest.mark.parametrize("packed", ["", "gzip", "zstd"])
def test_a_layer_with_another_digest(made: Layout, packed: str) -> None:
    image = made.image(layer(RELEASE), packed=packed)
    blob = json.loads(made.file(image["digest"]).read_bytes())["layers"][0]
    made.file(blob["digest"]).write_bytes(pack(layer(RELEASE, ("more", b"x")), packed))
    assert "digest" in refused(made.named(image))


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_a_layer_that_is_not_what_the_image_was_made_of(made: Layout, packed: str) -> None:
    """Its own digest is right, that of what is in it is not."""
    image = made.image(layer(RELEASE), packed=packed)
    manifest = json.loads(made.file(image["digest"]).read_bytes())
    kind = manifest["layers"][0]["mediaType"]
    manifest["layers"] = [made.blob(kind, pack(layer(RELEASE, ("evil", b"x")), packed))]
    assert "diffid mismatch" in refused(made.named(made.document(oci.MANIFEST, manifest)))


@pytest.mark.parametrize("what", ["index", "manifest"])
def test_a_document_with_another_digest(made: Layout, what: str) -> None:
    image = made.image(layer(RELEASE))
    named = image if what == "manifest" else made.index(image)
    text = made.file(named["digest"]).read_bytes()
    made.file(named["digest"]).write_bytes(text.replace(b" ", b"  ", 1))
    assert "is damaged: its digest differs" in refused(made.named(named))


@pytest.mark.parametrize("lost", ["layer", "config", "manifest"])
def test_a_blob_that_is_not_there(made: Layout, lost: str) -> None:
    image = made.image(layer(RELEASE))
    manifest = json.loads(made.file(image["digest"]).read_bytes())
    digests = {
        "layer": manifest["layers"][0]["digest"],
        "config": manifest["config"]["digest"],
        "manifest": image["digest"],
    }
    made.file(digests[lost]).unlink()
    refused(made.named(image))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"layers": 3}', '{"layers": [], "config": 1}'])
def test_a_manifest_that_is_none(made: Layout, text: str) -> None:
    refused(made.named(made.blob(oci.MANIFEST, text.encode())))


def test_a_layer_that_is_no_archive(made: Layout) -> None:
    chart = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    image = made.image(layer(RELEASE))
    manifest = json.loads(made.file(image["digest"]).read_bytes())
    manifest["layers"][0]["mediaType"] = chart
    assert chart in refused(made.named(made.document(oci.MANIFEST, manifest)))


@pytest.mark.parametrize("damage", ["cut", "text"])
@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_a_layer_that_cannot_be_unpacked(made: Layout, packed: str, damage: str) -> None:
    image = made.image(layer(RELEASE), packed=packed)
    manifest = json.loads(made.file(image["digest"]).read_bytes())
    kind = manifest["layers"][0]["mediaType"]
    whole = made.file(manifest["layers"][0]["digest"]).read_bytes()
    bad = whole[: len(whole) // 2] if damage == "cut" else b"no archive" * 100
    manifest["layers"] = [made.blob(kind, bad)]
    refused(made.named(made.document(oci.MANIFEST, manifest)))


@pytest.mark.parametrize("place", ["index.json", "blobs", "blobs/sha256", "manifest"])
def test_links_in_a_layout_are_not_followed(made: Layout, tmp_path: Path, place: str) -> None:
    """A whole layout lies where the link leads."""
    image = made.image(layer(RELEASE), packed="zstd")
    source = made.named(image)
    path = made.file(image["digest"]) if place == "manifest" else source / place
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    refused(source)


def test_an_image_without_layers(made: Layout) -> None:
    done = hostsim("image", "import", "box", made.named(made.image()))
    assert done.returncode == 1
    assert "there is no operating system" in done.stderr.splitlines()[-1]
    assert store.images() == []
