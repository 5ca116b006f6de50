# SPDX-License-Identifier: Apache-2.0
"""A VM's fence: what its user 0 tries against the switch, the machine and other VMs fails, and
succeeds where the fence is not there (a network namespace of the machine's own user namespace)."""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from help.programs import PROGRAMS, program
from hostsim import fence
from hostsim.errors import HostsimError
from hostsim.vm import Vm

pytestmark = pytest.mark.root

MakeVm = Callable[..., Vm]
ESCAPE = str(PROGRAMS / "escape.py")
NS_GET_USERNS = 0xB701
KEPT = "chown dac_override fowner fsetid kill setgid setuid setpcap setfcap net_bind_service"
KEPT += " net_broadcast net_admin net_raw ipc_lock ipc_owner sys_chroot lease audit_write"
UNFENCED = ("setpriv", "--inh-caps=-all", "--bounding-set=-all,+" + ",+".join(KEPT.split()))
"""A program with a VM's capabilities, in the machine's user namespace."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def links(netns: str) -> set[str]:
    shown = subprocess.run(
        ["ip", "-n", netns, "-json", "link"], check=True, capture_output=True, text=True
    )
    return {link["ifname"] for link in json.loads(shown.stdout)}


def tried(vm: Vm, *words: str, **streams: socket.socket) -> dict[str, str]:
    """What the program says of its tries in the VM."""
    done = vm.run([sys.executable, ESCAPE, *words], **streams)  # type: ignore[arg-type]
    assert done.returncode == 0, done
    return dict(json.loads(done.stdout))


def unfenced(netns: str, *words: str, stdin: int | None = None) -> dict[str, str]:
    """The same in a namespace of the machine's user namespace."""
    argv = ["ip", "netns", "exec", netns, *UNFENCED, sys.executable, ESCAPE, *words]
    done = subprocess.run(argv, stdin=stdin, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.fixture
def switch(host_name: str) -> Iterator[str]:
    """The name of a namespace in a switch's place: links `one` (number 77) and `two`."""
    name = f"{host_name}-switch"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "add", "one", "index", "77", "type", "veth", "peer", "name", "two")
        yield name
    finally:
        ip("netns", "del", name)


def connect(switch: str, netns: str) -> None:
    ip("-n", switch, "link", "add", "p", "type", "veth", "peer", "name", "eth0", "netns", netns)


def test_what_a_vm_owns_is_owned_by_its_fence(make_vm: MakeVm) -> None:
    one, two = make_vm("one"), make_vm("two")
    users = [os.readlink(f"/proc/{pid}/ns/user") for pid in ("self", one.pid, two.pid)]
    assert len(set(users)) == 3
    for kind in ("net", "ipc"):
        fd = os.open(f"/proc/{one.pid}/ns/{kind}", os.O_RDONLY)
        owner = fcntl.ioctl(fd, NS_GET_USERNS)
        assert f"user:[{os.fstat(owner).st_ino}]" == users[1], kind
        os.close(owner)
        os.close(fd)
    ids = one.run(["cat", "/proc/self/uid_map", "/proc/self/gid_map"]).stdout.decode().split()
    assert ids == Path("/proc/self/uid_map").read_text().split() * 2
    program = one.popen(["sleep", "60"])
    assert os.readlink(f"/proc/{program.pid}/ns/user") == users[1]


def test_files_keep_their_owners(vm: Vm, tmp_path: Path) -> None:
    script = f"cd {tmp_path}; echo x > f; chown 1000:1234 f; chmod 4755 f; stat -c %u:%g:%a f"
    assert vm.run(["sh", "-c", script]).stdout.split() == [b"1000:1234:4755"]


def test_the_switch_is_out_of_reach(vm: Vm, switch: str) -> None:
    connect(switch, vm.netns)
    before = links(switch)
    assert tried(vm, "netnsid", "77") == {"list": "EACCES", "add": "EPERM", "delete": "EACCES"}
    assert links(switch) == before


def test_the_switch_is_within_reach_without_a_fence(host_name: str, switch: str) -> None:
    name = f"{host_name}-plain"
    ip("netns", "add", name)
    try:
        connect(switch, name)
        assert unfenced(name, "netnsid", "77") == dict.fromkeys(("list", "add", "delete"), "done")
        assert links(switch) == {"lo", "p", "evil"}
    finally:
        ip("netns", "del", name)


def test_a_socket_that_is_handed_in_opens_no_namespace(vm: Vm) -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        assert tried(vm, "socket", stdin=ours) == {"namespace": "EPERM"}


def test_a_socket_that_is_handed_in_opens_one_without_a_fence(host_name: str, switch: str) -> None:
    name = f"{host_name}-plain"
    ip("netns", "add", name)
    try:
        inside = ("ip", "netns", "exec", switch)
        script = "import socket, subprocess, sys;"
        script += "sys.exit(subprocess.call(sys.argv[1:], stdin=socket.socket(socket.AF_UNIX)))"
        argv = [*inside, sys.executable, "-c", script, "nsenter", f"--net=/run/netns/{name}"]
        done = subprocess.run(
            [*argv, *UNFENCED, sys.executable, ESCAPE, "socket"],
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout) == {"namespace": "done", "link": "done"}
        assert "hsevil1" in links(switch)
    finally:
        ip("netns", "del", name)


CLOSED = {
    **dict.fromkeys(("io_uring_setup", "io_uring_enter", "io_uring_register"), "ENOSYS"),
    **dict.fromkeys(("io_setup", "io_submit", "clone3"), "ENOSYS"),
    **dict.fromkeys(("add_key", "request_key", "keyctl"), "ENOSYS"),
    "userfaultfd": "EPERM",
}


def numbers(names: Sequence[str]) -> list[str]:
    """NAME=NUMBER of this machine's system calls."""
    library = ctypes.CDLL("libseccomp.so.2")
    return [f"{name}={library.seccomp_syscall_resolve_name(name.encode())}" for name in names]


def test_system_calls_that_reach_past_a_vm_are_closed(vm: Vm) -> None:
    words = numbers([*CLOSED])
    assert tried(vm, "calls", *words) == CLOSED
    outside = subprocess.run([sys.executable, ESCAPE, "calls", *words], capture_output=True)
    said = json.loads(outside.stdout)
    assert {name for name in CLOSED if said[name] == CLOSED[name]} <= {"io_uring_setup"}


CLONE_FILES, CLONE_THREAD = 0x400, 0x10000
CLOSE_RANGE_UNSHARE = 2
OWN_TABLES = {
    "a thread": ("clone", CLONE_THREAD),  # the kernel wants more flags: EINVAL, and no thread
    "a new table": ("unshare", CLONE_FILES),
    "a new table, closing": ("close_range", 1 << 20, 1 << 20, CLOSE_RANGE_UNSHARE),
}
"""System calls that give a thread a descriptor table that is not its process's."""


def test_a_thread_has_no_descriptors_of_its_own(vm: Vm) -> None:
    """A revoke takes a device from the table of a process's first thread."""
    words = []
    for what, (name, *arguments) in OWN_TABLES.items():
        number = numbers([str(name)])[0].partition("=")[2]
        words.append(f"{what}={','.join([number, *map(str, arguments)])}")
    assert tried(vm, "calls", *words) == dict.fromkeys(OWN_TABLES, "EPERM")
    outside = subprocess.run([sys.executable, ESCAPE, "calls", *words], capture_output=True)
    said = json.loads(outside.stdout)
    assert said == {"a thread": "EINVAL", "a new table": "done", "a new table, closing": "done"}
    # what is no such table: an ordinary thread (that the kernel refuses), and a mere close
    thread, close = words[0].rpartition(","), words[2].rpartition(",")
    plain = [f"{thread[0]},{CLONE_THREAD | CLONE_FILES}", f"{close[0]},0"]
    assert tried(vm, "calls", *plain) == {"a thread": "EINVAL", "a new table, closing": "done"}


AF_XDP = 44  # not in Python's socket module
ALLOWED = {*map(int, (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)), AF_XDP}
ALLOWED |= {int(socket.AF_NETLINK), int(socket.AF_PACKET)}


def test_socket_families_are_a_list(vm: Vm) -> None:
    said = {what: (int(what.split()[1]), how) for what, how in tried(vm, "families").items()}
    assert {how for family, how in said.values() if family not in ALLOWED} == {"EAFNOSUPPORT"}
    assert {family for family, how in said.values() if how == "done"} == ALLOWED


STOP = """
import os, signal, time
end = time.monotonic() + 8
print("up", flush=True)
while time.monotonic() < end:
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:
        continue
"""


def test_a_stopped_start_does_not_stop_us(vm: Vm) -> None:
    """A process of the VM stops every other one, the one that is about to execute too."""
    stopper = vm.popen([sys.executable, "-c", STOP], stdout=subprocess.PIPE)
    assert stopper.stdout is not None
    assert stopper.stdout.readline() == b"up\n"
    late: list[HostsimError] = []
    while not late and stopper.poll() is None:
        try:
            vm.popen(["true"]).close()
        except HostsimError as error:
            late.append(error)
    assert late, "no start was stopped: the attack does not work, and shows nothing"
    assert {error.why.rpartition(": ")[2] for error in late} == {os.strerror(errno.ETIMEDOUT)}


HOLES = """
import ctypes, errno, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
fd = os.memfd_create("packets")
os.ftruncate(fd, 8192)
memory = mmap.mmap(fd, 8192)
memory[:] = bytes([7]) * 8192
at = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
piece = (ctypes.c_size_t * 2)(at.value, 4096)
KEEP_SIZE, PUNCH_HOLE, REMOVE, DONTNEED, PROCESS_MADVISE = 1, 2, 9, 4, 440
def said(ret):
    return errno.errorcode[ctypes.get_errno()] if ret < 0 else "done"
size = ctypes.c_long(4096)
print(said(libc.fallocate(fd, KEEP_SIZE, ctypes.c_long(0), size)))
print(said(libc.madvise(at, size, DONTNEED)))
print(said(libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, ctypes.c_long(0), size)))
print(said(libc.madvise(at, size, REMOVE)))
me = os.pidfd_open(os.getpid())
print(said(libc.syscall(PROCESS_MADVISE, me, piece, ctypes.c_size_t(1), REMOVE, 0)))
print(set(os.pread(fd, 8192, 0)))
"""


def test_nobody_punches_a_hole_into_packet_memory(vm: Vm) -> None:
    """A neighbour's AF_XDP socket would go on with the pages that were there."""
    done = vm.run([sys.executable, "-c", HOLES])
    said = done.stdout.decode().split("\n")[:-1]
    assert said == ["done", "done", "ENOTSUP", "EINVAL", "EINVAL", "{7}"], done


@pytest.mark.parametrize("sealed", [True, False])
def test_bounds_of_the_kernel_stay(
    make_vm: MakeVm, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    """Fragments that nobody completes count as nobody's memory."""
    if not sealed:
        monkeypatch.setattr(fence, "BOUNDS", {})
        monkeypatch.setattr(fence, "_known", None)
    vm = make_vm()
    with contextlib.ExitStack() as own:
        if not sealed:
            base = fence.base()
            for fd in (base.fd, base.init_fd, base.agent_fd, base.null_fd):
                own.callback(os.close, fd)
        _look_at_bounds(vm, sealed)


def _look_at_bounds(vm: Vm, sealed: bool) -> None:
    names = [f"/proc/sys/net/{name}" for name in fence.BOUNDS]
    there = [name for name in names if vm.run(["test", "-e", name]).returncode == 0]
    assert len(there) >= 3 or not sealed
    for path in there:
        refused = vm.run(["sh", "-c", f"echo 1000000000 > {path}"])
        assert b"Read-only" in refused.stderr, path
    assert vm.run(["sh", "-c", "echo 63 > /proc/sys/net/ipv4/ip_default_ttl"]).returncode == 0
    done = vm.run(program("raw", "fragments", 400, 1 << 30))
    assert done.returncode == 0, done.stderr
    held = int(done.stdout)
    assert held > 0
    assert (held > 16 << 20) is not sealed
