# SPDX-License-Identifier: Apache-2.0
"""Nodes that an OS is given: whose they are, and what its user 0 can put in the way of them: then
it goes without, and nothing else happens. No device is behind this one."""

import asyncio
import ctypes
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cext.input.opened import Openings
from hostsim.kmc import wire
from hostsim.kmc.agents import AgentPort, Connection, Handler
from hostsim.kmc.osnodes import WORKSHOP, Node, OsNodes
from hostsim.kmc.wire import Message
from hostsim.vm import Vm
from netns import tree

pytestmark = pytest.mark.root

NUMBER, OTHER = os.makedev(13, 95), os.makedev(13, 94)
IN_CREATE = 0x100  # linux/inotify.h


def test_a_node_is_for_the_input_group_to_read_and_write(make_vm: Callable[..., Vm]) -> None:
    vm = make_vm(os=True)
    nodes = OsNodes(vm)
    before = os.umask(0o022)  # a daemon's
    try:
        nodes.give(Node("event31", NUMBER, "/devices/virtual/input/input31/event31"))
    finally:
        os.umask(before)
    found = os.stat("event31", dir_fd=vm.input_fd)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_rdev) == (0o660, 0, NUMBER)
    assert vm.run(["stat", "-c", "%G", "/dev/input/event31"]).stdout == b"input\n"
    nodes.withdraw("event31")
    nodes.settle()
    assert os.listdir(f"/proc/{vm.pid}/root/dev/input") == [WORKSHOP]
    nodes.close()


def test_a_node_appears_when_all_is_ready_for_its_first_reader(make_vm: Callable[..., Vm]) -> None:
    """A program may look for nodes without a pause, and open one before it is announced."""
    vm = make_vm(os=True)
    nodes = OsNodes(vm)
    seen: list[tuple[bool, int]] = []

    def ready(node: int) -> None:
        there = "event31" in os.listdir(f"/proc/{vm.pid}/root/dev/input")
        seen.append((there, os.fstat(node).st_ino))

    nodes.give(NODE, ready)
    assert seen == [(False, os.stat("event31", dir_fd=vm.input_fd).st_ino)]
    nodes.forget("event31")
    nodes.close()


def _names(events: bytes) -> list[str]:
    """Of struct inotify_event: int, and three numbers, of which the last is the name's room."""
    found = []
    while events:
        *_, room = struct.unpack_from("=iIII", events)
        found.append(events[16 : 16 + room].rstrip(b"\0").decode())
        events = events[16 + room :]
    return found


def test_a_program_that_watches_for_new_names_is_told_of_a_node(make_vm: Callable[..., Vm]) -> None:
    vm = make_vm(os=True)
    nodes = OsNodes(vm)
    libc = ctypes.CDLL(None, use_errno=True)
    with open(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as watch:
        directory = f"/proc/{vm.pid}/root/dev/input".encode()
        assert libc.inotify_add_watch(watch.fileno(), directory, IN_CREATE) >= 0
        nodes.give(NODE)
        assert "event31" in _names(watch.read(1 << 16))
        nodes.withdraw("event31")
        nodes.settle()
        nodes.give(NODE)
        assert _names(watch.read(1 << 16))[0] == "event31"  # woken by nothing before
    assert os.stat("event31", dir_fd=vm.input_fd).st_nlink == 1
    nodes.forget("event31")
    nodes.close()


def test_a_node_in_the_workshop_is_of_no_use(make_vm: Callable[..., Vm]) -> None:
    """It is made for the next time. User 0 of an OS without a root of its own is the machine's."""
    vm = make_vm(os=True)
    nodes = OsNodes(vm)
    nodes.give(NODE)
    node = f"/dev/input/{WORKSHOP}/event31"
    assert not Path(f"/proc/{vm.pid}/root{node}").exists()
    nodes.withdraw("event31")
    nodes.settle()
    assert os.stat(f"/proc/{vm.pid}/root{node}").st_rdev == NUMBER
    opened = vm.run(["sh", "-c", f"exec 3< {node}"]).stderr
    assert b"Operation not permitted" in opened
    assert vm.run(["rm", node]).returncode == 0
    nodes.give(NODE)
    assert os.stat("event31", dir_fd=vm.input_fd).st_rdev == NUMBER
    nodes.withdraw("event31")
    nodes.settle()
    assert vm.run(["mv", f"/dev/input/{WORKSHOP}", "/dev/input/mine"]).returncode == 0
    nodes.give(NODE)
    assert os.stat("event31", dir_fd=vm.input_fd).st_rdev == NUMBER
    assert vm.run(["rmdir", "/dev/input/mine"]).returncode == 0
    nodes.withdraw("event31")
    nodes.settle()
    nodes.give(NODE)
    assert os.stat("event31", dir_fd=vm.input_fd).st_rdev == NUMBER
    nodes.forget("event31")
    nodes.close()


NODE = Node(
    "event31",
    NUMBER,
    "/devices/virtual/input/input31/event31",
    {"ID_INPUT": "1"},
    ("by-id/usb-it", "by-path/pci-it"),
)
WAYS = {
    "a FIFO": "rm -rf {0}; mkfifo {0}",
    "a directory": "rm -rf {0}; mkdir -p {0}/in/it",
    "a file": "rm -rf {0}; echo mine > {0}",
    "a link out": "rm -rf {0}; ln -s /etc/hostsim-test-nothing {0}",
    "a link up": "rm -rf {0}; ln -s ../../../../etc {0}",
    "a socket": "rm -rf {0}; python3 -c 'import socket; socket.socket(1).bind(\"{0}\")'",
}
PLACES = (
    "/run/udev/control",
    "/run/udev/data",
    "/run/udev/data/c13:95",
    "/sys/class/input/event31",
    "/sys/class/input/input31",
    "/dev/input/event31",
    f"/dev/input/{WORKSHOP}",
    f"/dev/input/{WORKSHOP}/event31",
    "/dev/input/by-id",
    "/dev/input/by-id/usb-it",
    "/dev/input/by-path",
)


TAKEN = {
    **{way: command for way, command in WAYS.items() if way != "a directory"},
    "nothing": "rm {0}",
    "a link to another device": "ln -sf ../event30 {0}",
    "another device": "ln -f /dev/input/event30 {0}",
}
"""What an OS does with the name of a node that was made for it beforehand."""


@pytest.mark.parametrize("way", TAKEN)
def test_the_node_that_was_made_is_the_one_that_appears(
    vm_with_os: Vm, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Or another one that is made, and no more is said of that: the OS may tidy up."""
    nodes, openings = OsNodes(vm_with_os), Openings()
    watched: list[int] = []

    def made(node: int) -> None:
        openings.watch(node)
        watched.append(os.fstat(node).st_ino)

    nodes.give(Node("event30", OTHER, "/devices/virtual/input/input30/event30"))
    nodes.give(NODE)
    nodes.withdraw("event31")
    nodes.settle()
    place = f"/dev/input/{WORKSHOP}/event31"
    done = vm_with_os.run(["sh", "-c", TAKEN[way].format(place)])
    assert done.returncode == 0, done.stderr
    with caplog.at_level(logging.WARNING):
        nodes.give(NODE, made)
    found = os.stat("event31", dir_fd=vm_with_os.input_fd, follow_symlinks=False)
    assert (stat.S_ISCHR(found.st_mode), found.st_rdev) == (True, NUMBER)
    assert watched[-1] == found.st_ino
    assert not caplog.records
    nodes.forget("event30")
    nodes.forget("event31")
    openings.close()
    nodes.close()


def machine() -> list[str]:
    """Of the machine, what a link out of a VM could have led us to."""
    return [*os.listdir("/etc"), *os.listdir("/"), *os.listdir("/run")]


def spoil(vm: Vm, place: str, way: str) -> None:
    done = vm.run(["sh", "-c", f"mkdir -p {os.path.dirname(place)}; {WAYS[way].format(place)}"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_what_is_in_the_way_is_that_oss_affair(
    make_vm: Callable[..., Vm], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At every place where hostsim writes, before the node is given and while it is; another OS
    gets its node meanwhile. Nothing waits, nothing raises, nothing is written outside."""
    vm, other = make_vm("a", os=True), make_vm("b", os=True)
    before = machine()
    with caplog.at_level(logging.WARNING):
        for place in PLACES:
            spoil(vm, place, way)
            nodes, others = OsNodes(vm), OsNodes(other)
            for each in (nodes, others):
                each.give(NODE)
            spoil(vm, place, way)
            for each in (nodes, others):
                each.withdraw("event31")
                each.settle()
                each.give(NODE)
            assert os.stat("event31", dir_fd=other.input_fd).st_rdev == NUMBER, place
            for each in (nodes, others):
                each.forget("event31")
                each.close()
            vm.run(["rm", "-rf", place])
            nodes = OsNodes(vm)
            nodes.give(NODE)  # and without it, it has everything again
            assert os.stat("event31", dir_fd=vm.input_fd).st_rdev == NUMBER, place
            assert vm.run(["cat", "/run/udev/data/c13:95"]).stdout.endswith(b"V:1\n"), place
            assert vm.run(["readlink", "/dev/input/by-id/usb-it"]).stdout == b"../event31\n"
            nodes.forget("event31")
            nodes.close()
    assert machine() == before
    assert all(record.message.startswith("a goes without ") for record in caplog.records)


def test_a_node_whose_name_cannot_go_is_refused_by_number(vm_with_os: Vm) -> None:
    """A directory in its place cannot be unlinked; the device is out of reach all the same."""

    def opened() -> str:
        return vm_with_os.run(["sh", "-c", "exec 3< /dev/input/mine"]).stderr.decode()

    nodes = OsNodes(vm_with_os)
    nodes.give(NODE)
    spoil(vm_with_os, "/dev/input/event31", "a directory")
    os.mknod("mine", stat.S_IFCHR | 0o666, NUMBER, dir_fd=vm_with_os.input_fd)
    assert "No such device" in opened()  # allowed, and there is no device behind it
    nodes.withdraw("event31")
    assert "Operation not permitted" in opened()
    nodes.close()


@pytest.fixture
def vm_with_os(make_vm: Callable[..., Vm]) -> Vm:
    return make_vm(os=True)


def test_an_os_that_is_gone_is_given_nothing(vm_with_os: Vm) -> None:
    nodes = OsNodes(vm_with_os)
    vm_with_os.kill()
    os.waitid(os.P_PIDFD, vm_with_os.pidfd, os.WEXITED | os.WNOWAIT)
    nodes.give(NODE)
    assert "event31" not in nodes
    nodes.close()


# -- its agent's socket ----------------------------------------------------------------------------


class Nobody(Handler):
    """Hears nothing."""

    def request(self, name: str, connection: Connection, message: Message) -> None: ...
    def released(self, name: str, sequence: int) -> None: ...
    def ready(self, name: str) -> None: ...
    def beat(self, name: str) -> None: ...
    def offence(self, name: str, why: str) -> None: ...


@pytest.mark.parametrize("way", WAYS)
def test_what_is_in_the_way_of_an_agents_socket(vm_with_os: Vm, way: str, tmp_path: Path) -> None:
    """Another thing that has its name is replaced, unless it is a directory: then the OS goes
    without. A link is not followed: its target keeps its mode."""
    target = tmp_path / "secret"
    target.write_text("")
    target.chmod(0o600)
    spoil(vm_with_os, f"/run/hostsim/{wire.NAME}", way)
    if way == "a link out":
        tree.link(vm_with_os.run_fd, wire.NAME, str(target))

    async def main() -> bool:
        port = AgentPort("a", vm_with_os, Nobody())
        try:
            return port.open()
        finally:
            port.close()

    assert asyncio.run(main()) is (way != "a directory")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    if way != "a directory":
        found = os.stat(wire.NAME, dir_fd=vm_with_os.run_fd, follow_symlinks=False)
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o666


def test_names_that_others_have_taken(vm_with_os: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever guesses the names under which things are made gets in nobody's way."""
    taken = [f".hostsim-{os.getpid()}-{n}" for n in range(1000, 1000 + tree.TRIES)]
    monkeypatch.setattr(tree, "_numbers", iter(range(1000, 2000)))
    for name in taken[:-1]:
        os.symlink("/etc/hostsim-test-nothing", name, dir_fd=vm_with_os.input_fd)
    tree.write(vm_with_os.input_fd, "x", b"x", 0o600)
    assert Path(f"/proc/{vm_with_os.pid}/root/dev/input/x").read_bytes() == b"x"
    monkeypatch.setattr(tree, "_numbers", iter(range(1000, 2000)))
    os.symlink("/", taken[-1], dir_fd=vm_with_os.input_fd)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match="exists"):
        tree.bind(sock, vm_with_os.input_fd, "y", 0o600)
