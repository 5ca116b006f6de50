# SPDX-License-Identifier: Apache-2.0
"""Images: names, what is kept of them, damage, use, makers that broke off. No root."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostsim.cli import main
from hostsim.errors import HostsimError
from hostsim.images import sandbox, store


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the images of one test are."""
    path = tmp_path / "images"
    monkeypatch.setenv(store.ENVIRONMENT, str(path))
    return path


@pytest.fixture
def image() -> store.Image:
    return make("one")


def make(name: str, contents: bytes = b"a file system") -> store.Image:
    with store.working() as work:
        (work / "image").mkdir()
        (work / "image/root.erofs").write_bytes(contents)
        return store.publish(work, name, "erofs", {"ID": "debian"}, {"from": "a test"})


def test_what_is_published_is_found(image: store.Image, folder: Path) -> None:
    assert store.resolve("one") == image
    assert image.path == folder / "one/root.erofs"
    assert image.size == len(b"a file system")
    assert image.digest == store.digest(image.path)
    assert dict(image.release) == {"ID": "debian"}
    assert store.images() == [image]
    assert sorted(path.name for path in folder.iterdir()) == ["one"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "A", "-a", ".a", "a b", "a\n", "a\0", "x" * 64, "é"]
)
def test_names_that_are_refused(name: str, folder: Path) -> None:
    for act in (store.resolve, store.remove, store.check_name):
        with pytest.raises(HostsimError, match="is no name"):
            act(name)
    assert not folder.exists()


def test_no_such_image_is_said_with_those_that_there_are(image: store.Image) -> None:
    for act in (store.resolve, store.remove):
        with pytest.raises(HostsimError, match="there is none; there are: one"):
            act("two")


def test_a_name_is_given_once(image: store.Image) -> None:
    with pytest.raises(HostsimError, match="there is one of this name"):
        make("one", b"another")
    assert image.path.read_bytes() == b"a file system"


def test_a_file_that_was_changed_is_refused(image: store.Image) -> None:
    image.path.write_bytes(b"A file system")
    with pytest.raises(HostsimError, match="damaged"):
        store.resolve("one")


def test_a_file_that_was_only_touched_is_read_again_and_taken(image: store.Image) -> None:
    os.utime(image.path, (1, 1))
    assert store.resolve("one") == image
    known = (image.path.parent / store.KNOWN).read_text()
    assert store.resolve("one") == image
    assert (image.path.parent / store.KNOWN).read_text() == known


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"kind": "ext4"}', '{"kind": 3}', "null", "\xff"]
)
def test_what_is_known_and_cannot_be_read(image: store.Image, text: str) -> None:
    (image.path.parent / store.KNOWN).write_text(text, encoding="latin-1")
    with pytest.raises(HostsimError, match="damaged"):
        store.resolve("one")
    assert [(one.name, one.digest) for one in store.images()] == [("one", "")]
    store.remove("one")
    assert store.images() == []


def test_an_image_without_its_file_is_damaged_and_can_be_removed(image: store.Image) -> None:
    image.path.unlink()
    with pytest.raises(HostsimError, match="damaged"):
        store.resolve("one")
    assert main.main(["image", "list"]) == 0
    store.remove("one")


def test_an_image_in_use_is_not_removed(image: store.Image) -> None:
    fd = image.hold()
    try:
        assert image.users() == [os.getpid()]
        with pytest.raises(HostsimError, match="is in use"):
            store.remove("one")
        assert store.resolve("one") == image
    finally:
        os.close(fd)
    assert image.users() == []
    store.remove("one")
    with pytest.raises(HostsimError, match="No such file"):
        image.hold()


def test_a_maker_that_fails_leaves_nothing(folder: Path) -> None:
    def fail() -> None:
        with store.working() as work:
            (work / "deep/deeper").mkdir(parents=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(folder.iterdir()) == []


KILLED = """
import os, signal
from hostsim.images import store
with store.working() as work:
    (work / "a file").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_maker_left_goes_with_the_next_one_and_a_living_ones_stays(
    folder: Path,
) -> None:
    assert subprocess.run((sys.executable, "-c", KILLED), check=False).returncode == -9
    assert len(list(folder.iterdir())) == 1
    with store.working() as work:
        assert list(folder.iterdir()) == [work]
        assert store.sweep() == []
        assert list(folder.iterdir()) == [work]
    assert list(folder.iterdir()) == []


def test_sweep_takes_no_image(image: store.Image, folder: Path) -> None:
    (folder / f"{store.NEW}left").mkdir()
    (folder / f"{store.GONE}left").mkdir()
    assert sorted(store.sweep()) == [f"{store.GONE}left", f"{store.NEW}left"]
    assert store.images() == [image]


def test_os_release_as_people_write_it() -> None:
    text = 'ID=debian\n# a remark\nPRETTY_NAME="Debian \\"12\\""\n'
    text += "A='x y'\nbad line\nB=\"open\n=x\nb=1\n"
    text += "C=a\x1b[31mb\n"
    text += f"LONG={'x' * store.LINE_MAX}\n{'K' * store.LINE_MAX}=x\n"
    assert store.parse_release(text) == {
        "ID": "debian",
        "PRETTY_NAME": 'Debian "12"',
        "A": "x y",
        "C": "a[31mb",
    }


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "tar: ../../x: Member name contains '..'\n"
            "tar: Exiting with failure status due to previous errors\n",
            "tar: ../../x: Member name contains '..'",
        ),
        (
            "tar: Unexpected EOF in archive\ntar: Error is not recoverable: exiting now\n",
            "tar: Unexpected EOF in archive",
        ),
        ("", "it ended with status 2"),
    ],
)
def test_the_reason_is_what_comes_before_the_end(tmp_path: Path, said: str, shown: str) -> None:
    (tmp_path / "log").write_text(said)
    with open(tmp_path / "log", "rb") as log:
        assert sandbox._last(log, 2) == shown


def test_a_missing_program_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox, "PATH", str(tmp_path))
    with pytest.raises(HostsimError, match="is not installed; apt install erofs-utils"):
        sandbox.tool("mkfs.erofs")


@pytest.mark.parametrize(
    "words",
    [
        ("image",),
        ("image", "fly"),
        ("image", "build"),
        ("image", "build", "x", "--suite", "--setup-hook=id"),
        ("image", "build", "x", "--mirror", "-x"),
        ("image", "import", "x"),
        ("image", "remove"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 2
    assert capsys.readouterr().err.startswith("hostsim: ")


def test_the_list(image: store.Image, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["image", "list"]) == 0
    shown = capsys.readouterr().out
    assert "one" in shown
    assert image.digest[:12] in shown
    assert main.main(["image", "list", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["name"] == "one"
    assert row["digest"] == image.digest
    assert row["used_by"] == []
    assert row["state"] == "ok"
