# SPDX-License-Identifier: Apache-2.0
"""Programs in VMs on the real kernel: what they are given, what not, and who cannot start."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cext._native import lib

from hostsim.errors import HostsimError
from hostsim.vm import Vm

pytestmark = pytest.mark.root

MakeVm = Callable[..., Vm]


def said(vm: Vm, *argv: str) -> str:
    """What a command that succeeds prints in the VM."""
    done = vm.run(argv)
    assert done.returncode == 0, done
    return done.stdout.decode().strip()


@pytest.fixture
def copies() -> Iterator[None]:
    """Processes are made the way of other machines than x86-64."""
    lib.hs_spawn_copies = 1
    yield
    lib.hs_spawn_copies = 0


def test_with_a_copy_of_the_callers_memory(copies: None, make_vm: MakeVm) -> None:
    vm = make_vm()
    assert said(vm, "hostname") == "a"
    with pytest.raises(HostsimError, match="No such file"):
        vm.popen(["/no/such/program"])


def test_programs_get_what_they_were_given(vm: Vm, tmp_path: Path) -> None:
    program = vm.popen(
        ["sh", "-c", "pwd; echo $A; cat; echo err >&2"],
        cwd="/usr",
        env={"A": "1 2", "PATH": "/bin:/usr/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(b"input\n")
    program.stdin.close()
    assert program.stdout.read() == b"/usr\n1 2\ninput\nerr\n"
    assert program.wait(5) == 0
    program.close()
    program.close()
    elsewhere = vm.popen(["pwd"], cwd="/run/netns", stdout=subprocess.PIPE)
    assert elsewhere.stdout is not None
    assert elsewhere.stdout.read() == b"/\n"
    elsewhere.close()


def test_programs_start_clean(vm: Vm) -> None:
    """No descriptor, signal setting or session of ours."""
    assert said(vm, "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]  # 3: ls reads it
    for line in said(vm, "grep", "^Sig[BI]", "/proc/self/status").splitlines():
        assert int(line.split()[1], 16) == 0, line
    assert said(vm, "sh", "-c", "ulimit -Sn") == "1024"
    assert said(vm, "cat") == ""  # standard input is empty
    program = vm.popen(["sleep", "60"])
    assert os.getsid(program.pid) == program.pid


def test_programs_are_told_no_secret(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("LC_TIME", "C")
    told = {line.partition("=")[0] for line in said(vm, "env").splitlines()}
    assert told <= {*os.environ, "PWD", "SHLVL", "_"}
    assert {"PATH", "LC_TIME"} <= told
    assert "AWS_SECRET_ACCESS_KEY" not in told


def test_the_machines_null_device_cannot_be_changed(vm: Vm, tmp_path: Path) -> None:
    """Programs whose input is nothing have it as file 0; a node that is handed over as it is
    becomes what user 0 of the VM wants."""
    node = tmp_path / "null"
    os.mknod(node, 0o20666, os.makedev(1, 3))
    node.chmod(0o666)
    change = ["chmod", "600", "/proc/self/fd/0"]
    before = os.stat("/dev/null")
    done = vm.run(change)
    assert b"Read-only file system" in done.stderr
    assert said(vm, "sh", "-c", "echo x > /proc/self/fd/0; cat; echo y") == "y"
    after = os.stat("/dev/null")
    assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)
    with node.open("rb") as handed:
        assert vm.run(change, stdin=handed).returncode == 0
    assert node.stat().st_mode & 0o777 == 0o600


def test_programs_that_cannot_start(vm: Vm) -> None:
    for argv, why in ((["nosuch"], "No such file"), (["/etc/passwd"], "Permission denied")):
        with pytest.raises(HostsimError, match=why):
            vm.popen(argv)
    with pytest.raises(ValueError, match="NUL"):
        vm.popen(["echo", "a\0b"])
    with pytest.raises(ValueError, match="no program"):
        vm.popen([])
    with pytest.raises(TimeoutError):
        vm.run(["sleep", "60"], timeout=0.05)
    assert said(vm, "ps", "-eo", "comm=").split() == ["hostsim-init", "ps"]


def test_tools_work_inside(vm: Vm) -> None:
    """What the kept capabilities and the filter must leave: ip, nft, threads, subprocesses."""
    said(vm, "ip", "link", "set", "lo", "up")
    said(vm, "nft", "add", "table", "inet", "t")
    said(vm, "ping", "-c", "1", "127.0.0.1")
    said(vm, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    script = "import threading, subprocess; t = threading.Thread(target=print); t.start(); t.join()"
    said(vm, "python3", "-c", script + "; subprocess.run(['true'], check=True)")
