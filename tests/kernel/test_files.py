# SPDX-License-Identifier: Apache-2.0
"""A VM's files: what it writes stays in it, what it has in common with the machine is a list."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from help.programs import PROGRAMS
from hostsim.errors import HostsimError
from hostsim.vm import Vm

pytestmark = pytest.mark.root

MakeVm = Callable[..., Vm]
KNOCK = str(PROGRAMS / "knock.py")
SYSTEM = ("/etc/passwd", "/usr/local/bin/hostsim-test", "/etc/modprobe.d/hostsim-test.conf")


def sh(vm: Vm, script: str) -> str:
    done = vm.run(["sh", "-c", script])
    assert done.returncode == 0, done
    return done.stdout.decode()


def state(path: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Owner, mode, time and contents of everything below a directory."""
    found = {}
    for one in sorted([path, *path.rglob("*")]):
        about = one.lstat()
        text = one.read_bytes() if one.is_file() else b""
        found[str(one)] = (about.st_uid, about.st_mode, about.st_mtime_ns, text)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of the machine with a file, a program and a directory."""
    (tmp_path / "file").write_text("the machine's\n")
    (tmp_path / "tool").write_text("#!/bin/sh\necho the machine\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "deep").write_text("deep\n")
    return tmp_path


def test_it_reads_the_machines_files_and_keeps_what_it_writes(vm: Vm, folder: Path) -> None:
    before = state(folder)
    assert sh(vm, f"cat {folder}/file") == "the machine's\n"
    sh(
        vm,
        f"cd {folder} && echo mine > file && chmod u+s tool && chown 1:1 tool && rm -r below"
        " && ln -s /etc x && mkdir below && mv tool below/ && mknod -m 666 pipe p && echo > new",
    )
    assert sh(vm, f"cat {folder}/file; {folder}/below/tool") == "mine\nthe machine\n"
    assert state(folder) == before


def test_the_machines_system_stays_as_it_is(vm: Vm) -> None:
    before = [Path(path).read_bytes() if Path(path).exists() else None for path in SYSTEM]
    sh(vm, " && ".join(f"echo x >> {path}" for path in SYSTEM))
    assert [Path(path).read_bytes() if Path(path).exists() else None for path in SYSTEM] == before


def test_two_vms_do_not_see_each_others_changes(make_vm: MakeVm, folder: Path) -> None:
    one, two = make_vm("one"), make_vm("two")
    sh(one, f"echo one > {folder}/file")
    assert sh(two, f"cat {folder}/file") == "the machine's\n"


def test_nobody_answers_at_a_socket_or_pipe_of_the_machines(vm: Vm, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    reader = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        server.listen()
        words = (str(folder / "socket"), str(folder / "fifo"))
        outside = subprocess.run([sys.executable, KNOCK, *words], check=True, capture_output=True)
        assert json.loads(outside.stdout) == ["done", "done"]
        inside = vm.run([sys.executable, KNOCK, *words])
        assert json.loads(inside.stdout) == ["ECONNREFUSED", "ENXIO"]
    os.close(reader)


def test_a_lock_in_the_vm_holds_nobody_outside(vm: Vm, folder: Path) -> None:
    holder = vm.popen(
        ["flock", f"{folder}/file", "-c", "echo up; sleep 60"], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"up\n"
    subprocess.run(["flock", "--nonblock", folder / "file", "true"], check=True)


def test_what_is_shared_is_shared(make_vm: MakeVm, folder: Path) -> None:
    (folder / "ro").mkdir()
    (folder / "ro" / "file").write_text("ro\n")
    vm = make_vm(share=((str(folder / "below"), False), (str(folder / "ro"), True)))
    sh(vm, f"echo mine > {folder}/below/new; echo x > {folder}/file")
    assert (folder / "below" / "new").read_text() == "mine\n"
    assert (folder / "file").read_text() == "the machine's\n"
    done = vm.run(["sh", "-c", f"echo x > {folder}/ro/file"])
    assert b"Read-only file system" in done.stderr
    (folder / "below" / "later").write_text("later\n")
    assert sh(vm, f"cat {folder}/below/later") == "later\n"


def test_all_can_be_shared(make_vm: MakeVm, folder: Path) -> None:
    vm = make_vm(files="shared")
    sh(vm, f"echo mine > {folder}/file")
    assert (folder / "file").read_text() == "mine\n"


def test_a_shared_directory_that_is_not_there(make_vm: MakeVm, tmp_path: Path) -> None:
    with pytest.raises(HostsimError, match="is no directory"):
        make_vm(share=((str(tmp_path / "none"), False),))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Another file system, mounted below /, at a path that mount data must escape."""
    point = tmp_path / "a:b,c d\\e"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "none", point], check=True)
    try:
        (point / "file").write_text("below\n")
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def test_other_file_systems_are_shown_and_kept_apart_too(mounted: Path) -> None:
    """In a process of its own: what VMs are started from is kept for a process."""
    script = 'cd "$1" && cat file && echo mine > file && cat file && stat -c %a .'
    argv = [
        sys.executable,
        str(PROGRAMS / "one_vm.py"),
        str(mounted.parent),
        "sh",
        "-c",
        script,
        "sh",
    ]
    done = subprocess.run([*argv, str(mounted)], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["below", "mine", "1777"]
    assert (mounted / "file").read_text() == "below\n"


def test_the_machines_root_stays_covered(vm: Vm) -> None:
    """The classic ways out of a changed root: a directory that stays open, and `..`."""
    code = (
        "import os\nbefore = os.open('/', os.O_RDONLY)\nos.mkdir('/x'); os.chroot('/x')\n"
        "os.fchdir(before)\n"
        "for _ in range(64): os.chdir('..')\n"
        "os.chroot('.')\nopen('/hostsim-escaped', 'w').write('x')"
    )
    assert vm.run([sys.executable, "-c", code]).returncode == 0
    assert not Path("/hostsim-escaped").exists()
    assert not Path("/x").exists()
