# SPDX-License-Identifier: Apache-2.0
"""Images made of what people have, and of what nobody should have; VMs that use them."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from cext.vm import lower
from help import roots
from help.recipes import recipe
from hostsim.images import store

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("images")]

HOSTSIM = Path(sys.executable).with_name("hostsim")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = roots.busybox(tmp_path)
    (made / "etc/os-release").write_text('ID=busybox\nPRETTY_NAME="Busy Box"\n')
    (made / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    os.chown(made / "home/user", 1000, 1000)
    (made / "dev").mkdir()
    os.mknod(made / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return made


def hostsim(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HOSTSIM, *words], capture_output=True, text=True, check=False)


def refused(*words: str | Path) -> str:
    """The one line with which a command fails; no image is there afterwards."""
    done = hostsim(*words)
    assert done.returncode == 1, done
    last = done.stderr.splitlines()[-1]
    assert last.startswith("hostsim: ")
    assert "Traceback" not in done.stderr
    assert store.images() == []
    return last


def taken(source: Path, *words: str) -> store.Image:
    done = hostsim("image", "import", "box", source, *words)
    assert done.returncode == 0, done.stderr
    assert "Busy Box" in done.stdout
    return store.resolve("box")


def is_busybox(image: store.Image) -> None:
    """The image has what the root had, less its machine-id and its devices."""
    top = lower.image(str(image.path), image.kind)
    try:
        about = os.stat("home/user", dir_fd=top)
        assert (about.st_uid, about.st_gid) == (1000, 1000)
        assert os.stat("bin/busybox", dir_fd=top).st_uid == 0
        assert os.stat("bin/busybox", dir_fd=top).st_mode & 0o777 == 0o755
        assert os.readlink("bin/sh", dir_fd=top) == "busybox"
        assert os.stat("etc/machine-id", dir_fd=top).st_size == 0
        assert os.stat("etc/machine-id", dir_fd=top).st_uid == 0
    finally:
        os.close(top)


def test_a_directory(root: Path) -> None:
    before = roots.tree(root)
    is_busybox(taken(root))
    assert roots.tree(root) == before


@pytest.mark.parametrize(("option", "ending"), [("", "tar"), ("-z", "tgz"), ("--zstd", "tar.zst")])
def test_an_archive(root: Path, tmp_path: Path, option: str, ending: str) -> None:
    archive = tmp_path / f"root.{ending}"
    words = ("tar", *([option] if option else []), "-cf", str(archive), "-C", str(root), ".")
    subprocess.run(words, check=True)
    is_busybox(taken(archive))


def test_a_file_system_as_it_is(root: Path) -> None:
    subprocess.run(("rm", "-rf", root / "dev", root / "etc/machine-id"), check=True)
    (root / "etc/machine-id").touch()
    file = roots.erofs(root)
    image = taken(file)
    is_busybox(image)
    assert image.digest == store.digest(file)


def layout(root: Path, folder: Path, *tags: str) -> Path:
    """An OCI layout with one layer, as umoci makes it."""
    made = folder / "layout"

    def umoci(*words: str | Path) -> None:
        subprocess.run(("umoci", *words), check=True, capture_output=True)

    umoci("init", "--layout", made)
    for tag in tags:
        umoci("new", "--image", f"{made}:{tag}")
        umoci("insert", "--image", f"{made}:{tag}", root, "/")
    return made


def test_an_oci_layout_and_an_archive_of_it(root: Path, tmp_path: Path) -> None:
    subprocess.run(("rm", "-rf", root / "dev"), check=True)
    made = layout(root, tmp_path, "latest")
    is_busybox(taken(made))
    store.remove("box")
    archive = tmp_path / "oci.tar"
    subprocess.run(("tar", "-cf", archive, "-C", made, "."), check=True)
    is_busybox(taken(archive))


def test_an_oci_layout_with_two_images(root: Path, tmp_path: Path) -> None:
    subprocess.run(("rm", "-rf", root / "dev"), check=True)
    made = layout(root, tmp_path, "one", "two")
    assert "one, two; choose one with --tag" in refused("image", "import", "box", made)
    assert "choose one" in refused("image", "import", "box", made, "--tag", "three")
    is_busybox(taken(made, "--tag", "two"))


def test_an_oci_layout_that_is_damaged(root: Path, tmp_path: Path) -> None:
    made = tmp_path / "layout"
    made.mkdir()
    (made / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    refused("image", "import", "box", made)
    for text in ("", "[" * 5000, "{}", '{"manifests": [3]}', '{"manifests": [{}]}'):
        (made / "index.json").write_text(text)
        refused("image", "import", "box", made)
    (made / "index.json").unlink()
    (made / "index.json").symlink_to("/etc/passwd")
    refused("image", "import", "box", made)


def hostile(path: Path, outside: Path, kind: str) -> None:
    """An archive that would write to `outside`, or worse."""

    def member(name: str, data: bytes = b"", **words: object) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for key, value in words.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(data))

    with tarfile.open(path, "w") as archive:
        member("bin", type=tarfile.DIRTYPE, mode=0o755)
        if kind == "absolute":
            member(f"{outside}/absolute", b"x", mode=0o4777)
        elif kind == "dots":
            member("a/" + "../" * 30 + f"{outside}/dots", b"x")
        elif kind == "link":
            member("door", type=tarfile.SYMTYPE, linkname=str(outside))
            member("door/link", b"x")
        elif kind == "link to a file":
            member("file", type=tarfile.SYMTYPE, linkname=f"{outside}/there")
            member("file", b"x")
        elif kind == "hard link":
            member("hard", type=tarfile.LNKTYPE, linkname=f"{outside}/there")
            member("hard", b"x")
        elif kind == "device":
            member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o666)


@pytest.mark.parametrize(
    "kind", ["absolute", "dots", "link", "link to a file", "hard link", "device"]
)
def test_a_hostile_archive_writes_nothing_outside(tmp_path: Path, kind: str) -> None:
    outside = Path("/tmp") / f"hs-outside-{os.getpid()}"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    try:
        (outside / "there").write_text("as it was")
        (outside / "there").chmod(0o666)
        before = roots.tree(outside)
        hostile(tmp_path / "evil.tar", outside, kind)
        done = hostsim("image", "import", "evil", tmp_path / "evil.tar")
        assert "Traceback" not in done.stderr
        assert roots.tree(outside) == before
        assert (outside / "there").read_text() == "as it was"
        if done.returncode == 0:
            top = lower.image(str(store.resolve("evil").path), "erofs")
            os.close(top)
        else:
            assert store.images() == []
        assert (done.returncode == 0) == (kind in ("absolute", "link to a file")), done.stderr
    finally:
        subprocess.run(("rm", "-rf", outside), check=True)


@pytest.mark.parametrize("kind", ["empty", "text", "zstd", "cut", "no system", "socket", "fifo"])
def test_bad_input(root: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "bad.tar"
    if kind == "empty":
        file.touch()
    elif kind == "text":
        file.write_text("this is no archive\n" * 1000)
    elif kind == "zstd":
        file.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(1000))
    elif kind == "cut":
        subprocess.run(("tar", "-cf", file, "-C", root, "."), check=True)
        os.truncate(file, file.stat().st_size // 2)
    elif kind == "no system":
        (tmp_path / "poor/data").mkdir(parents=True)
        file = tmp_path / "poor"
    elif kind == "socket":
        os.mknod(file, stat.S_IFSOCK | 0o600)
    else:
        os.mkfifo(file)
    refused("image", "import", "box", file)


def test_a_damaged_file_system(root: Path) -> None:
    file = roots.erofs(root)
    with open(file, "r+b") as image:
        image.seek(1024 + 4)
        image.write(os.urandom(60))
    refused("image", "import", "box", file)


def test_an_archive_deeper_than_any_path(tmp_path: Path) -> None:
    archive = tmp_path / "deep.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as out:
        for depth in range(1, 1900, 400):
            info = tarfile.TarInfo("/".join(["d"] * depth))
            info.type = tarfile.DIRTYPE
            out.addfile(info)
    refused("image", "import", "deep", archive)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_that_breaks_off_leaves_nothing(
    tmp_path: Path, images: Path, number: signal.Signals
) -> None:
    """While it unpacks a file that takes long."""
    source = tmp_path / "endless"
    (source / "bin").mkdir(parents=True)
    with open(source / "bin/sparse", "wb") as file:
        file.truncate(12 << 30)
    process = subprocess.Popen(
        [HOSTSIM, "image", "import", "box", source],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as said:
        assert "copying" in said.readline()
        end = time.monotonic() + 20
        while not list(images.glob(".new-*/tree/bin/sparse")):
            assert time.monotonic() < end
            os.sched_yield()
        process.send_signal(number)
        process.wait(30)
    if number == signal.SIGKILL:
        assert hostsim("clean").returncode == 0
    assert list(images.iterdir()) == []
    assert process.returncode != 0


def test_a_vm_has_an_image_and_keeps_it(root: Path, tmp_path: Path) -> None:
    image = taken(root)
    file = tmp_path / "img.toml"
    vm = '[[vm]]\nname = "os"\nroot = "box"\naddress = "198.18.0.1/24"\n'
    file.write_text(f'[host]\nname = "img"\n{vm}')
    up = hostsim("up", file)
    assert up.returncode == 0, up.stderr
    try:
        said = hostsim("--host", "img", "exec", "os", "--", "cat", "/etc/os-release")
        assert "Busy Box" in said.stdout, said.stderr
        row = json.loads(hostsim("image", "list", "--json").stdout)[0]
        assert row["used_by"] == ["img"]
        refusal = hostsim("image", "remove", "box")
        assert refusal.returncode == 1
        assert "in use" in refusal.stderr
        assert store.resolve("box") == image
    finally:
        down = hostsim("down", "img")
    assert down.returncode == 0, down.stderr
    assert hostsim("image", "remove", "box").returncode == 0
    assert store.images() == []


def test_a_vm_whose_image_is_missing_or_damaged_is_refused(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "img.toml"
    file.write_text('[host]\nname = "img"\n[[vm]]\nname = "os"\nroot = "box"\n')
    up = hostsim("up", file)
    assert up.returncode == 1
    assert "there is none" in up.stderr
    image = taken(root)
    with open(image.path, "r+b") as damaged:
        damaged.seek(100_000)
        damaged.write(b"damage")
    up = hostsim("up", file)
    assert up.returncode == 1
    assert "is damaged" in up.stderr


@pytest.mark.timeout(240)
def test_the_five_commands_for_newcomers(tmp_path: Path) -> None:
    """As the README has them, but for those that fetch packages: the image is one of such a system
    that the tests have, under the name that the README builds it by."""
    install, build, *rest = recipe("A new operating system in five commands")
    assert "apt" in install
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = hostsim("image", "import", build.split()[3], roots.booting())
    assert done.returncode == 0, done.stderr
    try:
        done = subprocess.run(
            ("sh", "-e", "-c", "\n".join(rest)),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-2] == "running"
        assert done.stdout.splitlines()[-1].startswith("PRETTY_NAME=")
    finally:
        hostsim("down", "first")
