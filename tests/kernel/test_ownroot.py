# SPDX-License-Identifier: Apache-2.0
"""VMs with a root of their own: what they see, whom their files belong to, what stays of them."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from help import cli, roots
from help.cli import HOSTSIM
from help.terminal import Terminal
from hostsim import idranges
from hostsim.errors import HostsimError
from hostsim.kmc.osnodes import Node, OsNodes
from hostsim.model import RootSpec
from hostsim.vm import Vm
from netns.uevent import Announcer, news

pytestmark = pytest.mark.root

MakeVm = Callable[..., Vm]
COUNT = 65536


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return roots.busybox(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def image(root: Path) -> Path:
    return roots.erofs(root)


def own(path: Path, **keys: object) -> RootSpec:
    return RootSpec(str(path), **keys)  # type: ignore[arg-type]


def said(vm: Vm, script: str) -> str:
    """What a shell script that succeeds prints in the VM."""
    done = vm.run(["sh", "-c", script])
    assert done.returncode == 0, done
    return done.stdout.decode().strip()


@pytest.mark.parametrize("users", ["own", "machine"])
@pytest.mark.parametrize("kind", ["directory", "erofs"])
def test_it_sees_its_root_and_changes_only_its_own(
    make_vm: MakeVm, root: Path, image: Path, kind: str, users: str
) -> None:
    before = roots.tree(root)
    vm = make_vm(root=own(image if kind == "erofs" else root, users=users))
    assert said(vm, "ls /bin/busybox; ls /usr 2>/dev/null; id -u; cat /etc/hostname") == (
        "/bin/busybox\n0\na"
    )
    said(
        vm,
        "echo changed > /etc/passwd; rm /bin/ls; chmod 700 /root; mkdir /new; chown 7 /etc/group",
    )
    assert said(vm, "cat /etc/passwd; stat -c %u /etc/group") == "changed\n7"
    assert said(vm, "stat -c %u:%g / /bin/busybox /run /dev/null /tmp /new") == "\n".join(
        ["0:0"] * 6
    )
    vm.stop()
    assert roots.tree(root) == before
    again = make_vm("b", root=own(image if kind == "erofs" else root, users=users))
    assert "user" in said(again, "cat /etc/passwd; ls /bin")


def test_its_root_user_is_nobody_outside(make_vm: MakeVm, root: Path) -> None:
    one, two = make_vm("one", root=own(root)), make_vm("two", root=own(root))
    plain = make_vm("plain")
    assert one.owner >= idranges.FIRST
    assert two.owner >= one.owner + COUNT
    assert plain.owner == 0
    assert said(one, "cat /proc/self/uid_map").split() == ["0", str(one.owner), str(COUNT)]
    assert Path(f"/proc/{one.pid}").stat().st_uid == one.owner
    sleeper = one.popen(["sleep", "60"])
    try:
        assert Path(f"/proc/{sleeper.pid}").stat().st_uid == one.owner
    finally:
        sleeper.close()


def test_ids_are_counted_for_it_alone(make_vm: MakeVm, root: Path) -> None:
    """Its user namespace belongs to its own id, so that what it uses up of inotify instances (128
    for each user) is nobody else's."""
    vm = make_vm(root=own(root))
    with open(f"/proc/{vm.pid}/ns/user", "rb") as user:
        import fcntl
        import struct

        found = fcntl.ioctl(user, 0xB704, struct.pack("I", 0))  # NS_GET_OWNER_UID
    assert struct.unpack("I", found)[0] == vm.owner


def test_what_it_keeps_is_there_next_time_with_other_ids(
    make_vm: MakeVm, image: Path, root: Path, tmp_path: Path
) -> None:
    keep = tmp_path / "keep"
    first = make_vm("first", root=own(image, keep=str(keep)))
    said(first, "echo mine > /root/file; chown 1000:5 /root/file; rm /etc/group; mv /home /house")
    with pytest.raises(HostsimError, match="another VM's at this moment"):
        make_vm("other", root=own(image, keep=str(keep)))
    first.stop()
    assert (keep / "up/root/file").stat().st_uid == 1000
    between = make_vm("between", root=own(image))  # has the ids that the first one had
    second = make_vm("second", root=own(image, keep=str(keep)))
    assert second.owner != between.owner
    assert said(second, "cat /root/file; stat -c %u:%g /root/file; ls /house") == (
        "mine\n1000:5\nuser"
    )
    assert second.run(["ls", "/etc/group"]).returncode != 0
    second.stop()
    third = make_vm("third", root=own(image, keep=str(keep), users="machine"))
    assert said(third, "cat /root/file; stat -c %u:%g /root/file") == "mine\n1000:5"
    third.stop()
    with pytest.raises(HostsimError, match="to another root"):
        make_vm("fourth", root=own(root, keep=str(keep)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(HostsimError, match="has other files in it"):
        make_vm("fifth", root=own(image, keep=str(tmp_path / "full")))


def test_only_root_gets_at_what_it_keeps(make_vm: MakeVm, image: Path, tmp_path: Path) -> None:
    """A program that the VM's user 0 makes setuid is the machine's user 0's on disk."""
    keep = tmp_path / "keep"
    keep.mkdir(mode=0o755)
    vm = make_vm(root=own(image, keep=str(keep)))
    said(vm, "cp /bin/busybox /bin/evil; chmod 4755 /bin/evil")
    evil = (keep / "up/bin/evil").stat()
    assert (evil.st_uid, evil.st_mode & 0o7777) == (0, 0o4755)
    assert keep.stat().st_mode & 0o7777 == 0o700
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 1000, 1000)
    with pytest.raises(HostsimError, match="belongs to user 1000"):
        make_vm("b", root=own(image, keep=str(theirs)))


def test_a_keep_without_room(make_vm: MakeVm, image: Path, tmp_path: Path) -> None:
    """The error says so, and with room it can be had."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", tmp_path], check=True)
    owned = own(image, keep=str(tmp_path / "keep"), users="machine")  # Linux 6.1 maps no tmpfs
    try:
        fill = tmp_path / "fill"
        with contextlib.suppress(OSError), open(fill, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(HostsimError, match=r"keep: .*: No space left on device"):
            make_vm("a", root=owned)
        fill.unlink()
        vm = make_vm("b", root=owned)
        said(vm, "echo mine > /root/file")
        vm.stop()
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(HostsimError, match=r"keep: .*: Read-only file system"):
            make_vm("c", root=owned)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_start_that_was_killed_leaves_a_keep_that_can_be_had(
    make_vm: MakeVm, image: Path, tmp_path: Path
) -> None:
    for part in ("up", "work"):
        (tmp_path / "keep" / part).mkdir(parents=True)
    (tmp_path / "keep/image.new").write_text("{")
    vm = make_vm(root=own(image, keep=str(tmp_path / "keep")))
    said(vm, "echo mine > /root/file")
    vm.stop()
    (tmp_path / "keep/image").unlink()
    os.mkfifo(tmp_path / "keep/image")
    with pytest.raises(HostsimError, match="keep/image cannot be read"):
        make_vm("c", root=own(image, keep=str(tmp_path / "keep")))
    (tmp_path / "changed/up/file").mkdir(parents=True)
    with pytest.raises(HostsimError, match="has other files in it"):
        make_vm("b", root=own(image, keep=str(tmp_path / "changed")))


def test_shares_are_bound_with_their_owners(make_vm: MakeVm, root: Path, tmp_path: Path) -> None:
    rw, ro = tmp_path / "rw", tmp_path / "ro"
    rw.mkdir()
    ro.mkdir()
    (rw / "mine").write_text("m")
    vm = make_vm(root=own(root), share=((str(rw), False), (str(ro), True)))
    said(vm, f"cat {rw}/mine; echo x > {rw}/made; chown 1000 {rw}/made")
    assert (rw / "made").stat().st_uid == 1000
    assert vm.run(["touch", f"{ro}/x"]).returncode != 0
    assert not vm.run(["ls", str(tmp_path.parent)]).stdout.decode().count("own")


def test_a_link_in_the_root_leads_nowhere_outside(make_vm: MakeVm, tmp_path: Path) -> None:
    """What a root has in the way of what is mounted and written there: links to the machine's."""
    root = roots.busybox(tmp_path)
    outside, share = tmp_path / "outside", tmp_path / "share"
    outside.mkdir()
    share.mkdir()
    (outside / "hostname").write_text("machine")
    for name in ("run", share.parts[1]):
        (root / name).symlink_to(outside)
    (root / "etc/hostname").symlink_to(outside / "hostname")
    (root / "etc/hosts").symlink_to("/proc/1/environ")
    before = roots.tree(outside)
    # A link that leads to nothing inside is in the way of a mount: that VM does not start.
    with pytest.raises(HostsimError):
        make_vm(root=own(root), share=((str(share), False),))
    assert roots.tree(outside) == before
    (root / "run").unlink()
    (root / share.parts[1]).unlink()
    vm = make_vm("b", root=own(root), share=((str(share), False),))
    assert said(vm, "cat /etc/hostname") == "b"
    assert roots.tree(outside) == before


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda at: at / "missing", "No such file"),
        (lambda at: (at / "empty", (at / "empty").mkdir())[0], "has no bin"),
        (
            lambda at: (at / "a.erofs", (at / "a.erofs").write_bytes(b"x" * 5000))[0],
            "no file system",
        ),
        (lambda at: (at / "r.tar.gz", (at / "r.tar.gz").write_bytes(b"x"))[0], "is an archive"),
        (
            lambda at: (
                at / "bad.erofs",
                (at / "bad.erofs").write_bytes(b"\0" * 1024 + b"\xe2\xe1\xf5\xe0" + b"\xff" * 4096),
            )[0],
            "damaged",
        ),
    ],
)
def test_what_is_no_root_is_refused(
    make_vm: MakeVm, tmp_path: Path, make: Callable[[Path], Path], why: str
) -> None:
    with pytest.raises(HostsimError, match=why):
        make_vm(root=own(make(tmp_path)))


def test_devices_and_messages_are_its_root_users(make_vm: MakeVm, root: Path) -> None:
    """A node belongs to its user 0 and its own group `input`; a udev message comes from user 0, for
    libudev believes no other (SCM_CREDENTIALS in the VM)."""
    vm = make_vm(os=True, root=own(root))
    nodes = OsNodes(vm)
    try:
        nodes.give(Node("event250", os.makedev(13, 250 + 64), "/devices/virtual/x"))
        assert said(vm, "stat -c %u:%g:%a /dev/input/event250") == "0:77:660"
    finally:
        nodes.close()


@pytest.fixture
def host(tmp_path: Path, image: Path) -> Iterator[Path]:
    text = '[host]\nname = "hsown"\n[[vm]]\nname = "box"\naddress = "198.18.98.1/24"\n'
    text += f'root = "{image}"\nrun = "sh -c \'echo ran in $(hostname); exec sleep 1000\'"\n'
    text += '[[endpoint]]\nname = "out"\naddress = "198.18.98.2/24"\n'
    with cli.host(text, tmp_path) as state:
        yield state


def test_a_host_of_one(host: Path) -> None:
    assert "ran in box" in (host / "box.log").read_text()
    assert cli.hostsim("exec", "box", "--", "sh", "-c", "id -u; ls /").stdout.startswith("0\nbin\n")
    assert cli.hostsim("exec", "out", "--", "ping", "-c", "1", "-W", "5", "198.18.98.1")
    assert cli.hostsim("exec", "box", "--", "nosuch", check=False).returncode == 127
    shell = Terminal([HOSTSIM, "shell", "box"], SHELL="/bin/sh", ENV="")
    try:
        shell.expect("$ ")
        shell.type("tty; test -w $(tty) && echo mine$((1 + 1)); stat -c %u:%g $(tty)\n")
        shell.expect("mine2\r\n0:5\r\n")
        shell.type("exit\n")
        assert shell.wait() == 0
    finally:
        shell.close()


def test_what_a_killed_daemon_leaves(tmp_path: Path, image: Path) -> None:
    """Its VM lives, and its ids are nobody's until `clean`."""
    text = f'[host]\nname = "hsownk"\n[[vm]]\nname = "box"\nroot = "{image}"\n'
    file = tmp_path / "hsownk.toml"
    file.write_text(text)
    cli.hostsim("up", str(file))
    try:
        pid = cli.ask("status")["vms"][0]["pid"]
        owner = Path(f"/proc/{pid}").stat().st_uid
        cli.kill_daemon("hsownk")
        taken = idranges.take(Path("/sys/fs/cgroup"))
        try:
            assert taken.base != owner
        finally:
            taken.close()
    finally:
        cli.hostsim("clean")
    again = idranges.take(Path("/sys/fs/cgroup"))
    try:
        assert again.base == owner
    finally:
        again.close()


def test_messages_come_from_its_user_0(make_vm: MakeVm, root: Path) -> None:
    """As a udev reader in the VM sees them. The socket is made in its namespaces from outside."""
    from cext.ns.netns import socket_at

    vm = make_vm(root=own(root))
    heard = socket_at(vm.netns_fd, socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
    announcer = Announcer(vm.netns_fd, vm.owner)
    try:
        heard.bind((0, 2))
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        heard.settimeout(10)
        announcer.say(news("add", "/devices/x", {"SUBSYSTEM": "input"}))
        _, told, _, _ = heard.recvmsg(4096, 256)
        assert int.from_bytes(told[0][2][4:8], "little") == vm.owner
    finally:
        announcer.close()
        heard.close()
