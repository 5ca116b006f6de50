# SPDX-License-Identifier: Apache-2.0
"""What is put into a directory where others may put things too: it replaces what is there, follows
nothing, waits for nothing, and leaves nothing else."""

import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cext.vm.tree import open_beneath
from netns import tree

Put = Callable[[int, str], None]


def put_file(directory: int, name: str) -> None:
    tree.write(directory, name, b"ours", 0o640)


def put_link(directory: int, name: str) -> None:
    tree.link(directory, name, "ours")


def put_socket(directory: int, name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        tree.bind(sock, directory, name, 0o640)


PUTS: dict[str, tuple[Put, Callable[[int], bool]]] = {
    "file": (put_file, stat.S_ISREG),
    "link": (put_link, stat.S_ISLNK),
    "socket": (put_socket, stat.S_ISSOCK),
}


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("theirs")
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


@pytest.fixture
def fd(inside: Path) -> Iterator[int]:
    made = os.open(inside, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield made
    os.close(made)


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    """A FIFO opened in the wrong way would wait for ever, and no timeout of Python's ends that."""
    signal.alarm(20)
    yield
    signal.alarm(0)


WAYS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "file": lambda path: path.write_text("theirs"),
    "FIFO": os.mkfifo,
    "link out": lambda path: path.symlink_to("../outside"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", PUTS)
def test_what_has_the_name_is_replaced(inside: Path, fd: int, what: str, way: str) -> None:
    put, is_kind = PUTS[what]
    WAYS[way](inside / "x")
    put(fd, "x")
    found = (inside / "x").lstat()
    assert is_kind(found.st_mode)
    if what != "link":
        assert stat.S_IMODE(found.st_mode) == 0o640
    assert os.listdir(inside) == ["x"]
    outside = inside.parent / "outside"
    assert outside.read_text() == "theirs"
    assert stat.S_IMODE(outside.stat().st_mode) != 0o640


@pytest.mark.parametrize("what", PUTS)
def test_a_directory_stays_and_that_is_said(inside: Path, fd: int, what: str) -> None:
    (inside / "x" / "in").mkdir(parents=True)
    with pytest.raises(OSError, match=r"directory|Directory"):
        PUTS[what][0](fd, "x")
    assert os.listdir(inside) == ["x"]


def test_removing(inside: Path, fd: int) -> None:
    (inside / "x").symlink_to("../outside")
    tree.remove(fd, "x")
    tree.remove(fd, "x")
    assert os.listdir(inside) == []
    assert (inside.parent / "outside").exists()
    (inside / "x").mkdir()
    with pytest.raises(IsADirectoryError):
        tree.remove(fd, "x")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "nothing"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_folder_is_one_or_an_error(inside: Path, fd: int, way: str) -> None:
    with tree.folder(fd, "new") as made:
        tree.write(made, "x", b"", 0o600)
    assert (inside / "new" / "x").exists()
    WAYS[way](inside / "x")
    with pytest.raises(OSError, match="x in a VM"), tree.folder(fd, "x"):
        pass


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "up/outside", "self/outside", "proc/self/root/etc/passwd"]
)
def test_no_way_out(inside: Path, fd: int, path: str) -> None:
    (inside / "up").symlink_to("..")
    (inside / "self").symlink_to(".")
    (inside / "proc").symlink_to("/proc")
    for flags in (os.O_RDONLY, os.O_PATH, os.O_WRONLY | os.O_CREAT):
        mode = 0o600 if flags & os.O_CREAT else 0
        with pytest.raises(OSError, match="in a VM"):
            open_beneath(fd, path, flags, mode)


def test_a_mount_is_entered_only_if_it_is_known_to_be_ours() -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with pytest.raises(OSError, match="cross-device"):
            open_beneath(root, "proc/version", os.O_RDONLY)
        os.close(open_beneath(root, "proc/version", os.O_RDONLY, across=True))
    finally:
        os.close(root)


def test_names_that_others_have_taken(
    inside: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever guesses the names under which things are made is in nobody's way, up to a bound."""
    monkeypatch.setattr(tree, "_numbers", iter(range(100)))
    for number in range(tree.TRIES - 1):
        (inside / f".hostsim-{os.getpid()}-{number}").symlink_to("../outside")
    put_file(fd, "x")
    assert (inside / "x").read_bytes() == b"ours"
    assert (inside.parent / "outside").read_text() == "theirs"
    for number in range(100):
        (inside / f".hostsim-{os.getpid()}-{number}").unlink(missing_ok=True)
        (inside / f".hostsim-{os.getpid()}-{number}").symlink_to("../outside")
    for put in (put_file, put_link, put_socket):
        with pytest.raises(FileExistsError):
            put(fd, "y")
