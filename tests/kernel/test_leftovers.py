# SPDX-License-Identifier: Apache-2.0
"""Whatever a host could leave is seen, kind by kind, and seen to be gone."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext.bpf import objects as bpf
from help.programs import program
from hostsim import leftovers
from netns import cgroup

pytestmark = pytest.mark.root

DROP = "1,6 0 0 0,"  # classic BPF, as tc-bpf(8) takes it: return 0


@pytest.fixture
def before() -> frozenset[str]:
    return leftovers.snapshot()


def new(before: frozenset[str]) -> str:
    return "\n".join(leftovers.difference(before, leftovers.snapshot()))


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


@pytest.fixture
def namespace() -> Iterator[str]:
    ip("netns", "add", "hs-left-a")
    yield "hs-left-a"
    ip("netns", "del", "hs-left-a")


def test_a_named_network_namespace(before: frozenset[str], namespace: str) -> None:
    assert f"network namespace {namespace}" in new(before)


def test_a_link_and_its_filter_in_the_root_namespace(before: frozenset[str]) -> None:
    ip("link", "add", "hsleft0", "type", "veth", "peer", "name", "hsleft1")
    try:
        subprocess.run(("tc", "qdisc", "add", "dev", "hsleft0", "clsact"), check=True)
        words = ("filter", "add", "dev", "hsleft0", "egress", "bpf", "bytecode", DROP)
        subprocess.run(("tc", *words), check=True)
        found = new(before)
        assert "link hsleft1 in the root namespace" in found
        assert "tc clsact on hsleft0" in found
        assert "tc filter bpf 0x1 on hsleft0 egress" in found
    finally:
        ip("link", "del", "hsleft0")
    assert leftovers.settle(before) == []


def test_a_bpf_program(before: frozenset[str]) -> None:
    loaded = bpf.Object("devices")
    assert "BPF program" in new(before)
    loaded.close()
    assert leftovers.settle(before) == []


def test_a_cgroup_and_a_process_in_it(before: frozenset[str]) -> None:
    root = cgroup.layout().v2
    assert root is not None
    group = root / "hs-left" / "vm"
    group.mkdir(parents=True)
    try:
        with subprocess.Popen(("cat",), stdin=subprocess.PIPE) as process:
            (group / "cgroup.procs").write_text(str(process.pid))
            found = new(before)
            assert f"cgroup {group}" in found
            assert f"process {process.pid} " in found
    finally:
        group.rmdir()
        group.parent.rmdir()
    assert leftovers.settle(before) == []


def test_a_socket_that_outlives_a_group_does_not_keep_its_programs(before: frozenset[str]) -> None:
    root = cgroup.layout().v2
    assert root is not None
    path = root / "hs-left-socket"
    path.mkdir()
    loaded = bpf.Object("devices")
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        subprocess.Popen(program("tries", "hand-over"), stdin=theirs.fileno()) as child,
    ):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            bpf.attach_cgroup(loaded.program("device"), fd, bpf.CGROUP_DEVICE, bpf.ALLOW_MULTI)
            os.close(fd)
            (path / "cgroup.procs").write_text(str(child.pid))
            ours.send(b"x")
            _, (kept,), _, _ = socket.recv_fds(ours, 1, 1)
            child.wait(10)
        finally:
            loaded.close()
            cgroup.remove(path)
    left = leftovers.settle(before, 2.0)
    os.close(kept)
    assert left == []


def test_a_child_of_ours(before: frozenset[str]) -> None:
    with subprocess.Popen(("cat",), stdin=subprocess.PIPE) as process:
        assert f"process {process.pid} " in new(before)
    assert new(before) == ""


def test_shared_memory(before: frozenset[str]) -> None:
    memory = os.memfd_create("hs-left")
    assert "memfd /memfd:hs-left" in new(before)
    os.close(memory)
    assert new(before) == ""


def test_a_file_and_a_mount_of_a_host(before: frozenset[str]) -> None:
    folder = leftovers.RUN / "left-by-test"
    folder.mkdir(parents=True)
    try:
        subprocess.run(("mount", "-t", "tmpfs", "hs-left", str(folder)), check=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "control.sock"))
            found = new(before)
        assert f"file {folder}/control.sock" in found
        assert f"mount tmpfs on {folder}" in found
    finally:
        subprocess.run(("umount", str(folder)), check=True)
        folder.rmdir()


def test_settle_gives_up_at_its_deadline(before: frozenset[str], namespace: str) -> None:
    left = set(leftovers.settle(before, 0.2))
    assert {f"mount nsfs on /run/netns/{namespace}", f"network namespace {namespace}"} <= left


def test_a_test_that_leaves_something_fails(tmp_path: Path) -> None:
    """The fixture that guards every other kernel test, in a run of its own."""
    (tmp_path / "conftest.py").write_text(
        Path(__file__).parents[1].joinpath("conftest.py").read_text()
    )
    (tmp_path / "test_it.py").write_text(
        "import subprocess\nimport pytest\n@pytest.mark.root\ndef test_it():\n"
        "    subprocess.run(('ip', 'netns', 'add', 'hs-left-b'), check=True)\n"
    )
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib")
    config = Path(__file__).parents[2] / "pyproject.toml"
    words = ("-c", str(config), "--rootdir", str(tmp_path), str(tmp_path))
    try:
        done = subprocess.run(
            (*command, *words), cwd=tmp_path, capture_output=True, text=True, check=False
        )
    finally:
        ip("netns", "del", "hs-left-b")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "left behind" in done.stdout
    assert "network namespace hs-left-b" in done.stdout
