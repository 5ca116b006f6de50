# SPDX-License-Identifier: Apache-2.0
"""VMs on the real kernel: what is its own, what it cannot reach, and that nothing stays."""

import os
import platform
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from help.cli import HOSTSIM
from help.programs import program
from help.waiting import until
from hostsim import fence
from hostsim.errors import HostsimError
from hostsim.vm import Vm
from netns import cgroup, journal, namespace, process

pytestmark = pytest.mark.root

MakeVm = Callable[..., Vm]
KINDS = ("mnt", "pid", "net", "uts", "ipc")
LOCAL = (240, 7)
"""A character device of the range for local use, which no driver has."""
KEPT = (0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 18, 28, 29, 31)
"""CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE,
NET_BROADCAST, NET_ADMIN, NET_RAW, IPC_LOCK, IPC_OWNER, SYS_CHROOT, LEASE, AUDIT_WRITE, SETFCAP
(<linux/capability.h>)."""


def said(vm: Vm, *argv: str) -> str:
    """What a command that succeeds prints in the VM."""
    done = vm.run(argv)
    assert done.returncode == 0, done
    return done.stdout.decode().strip()


def refused(vm: Vm, script: str) -> str:
    """The error of a shell script that fails in the VM."""
    done = vm.run(["sh", "-c", script])
    assert done.returncode != 0, (script, done)
    return done.stderr.decode()


def namespaces(pid: int) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS}


def test_its_namespaces_are_its_own(make_vm: MakeVm) -> None:
    one, two = make_vm("one"), make_vm("two")
    ours, first, second = namespaces(os.getpid()), namespaces(one.pid), namespaces(two.pid)
    for kind in KINDS:
        assert len({ours[kind], first[kind], second[kind]}) == 3, kind
    inside = {kind: said(one, "readlink", f"/proc/self/ns/{kind}") for kind in KINDS}
    assert inside == first


def test_the_network_namespace_has_its_name(vm: Vm, host_name: str) -> None:
    assert vm.netns == f"hs-{host_name}-a"
    link = subprocess.run(
        ["ip", "netns", "exec", vm.netns, "readlink", "/proc/self/ns/net"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert link.stdout.strip() == namespaces(vm.pid)["net"]
    assert f"net:[{os.fstat(vm.netns_fd).st_ino}]" == namespaces(vm.pid)["net"]
    named = subprocess.run(["ip", "netns", "pids", vm.netns], capture_output=True, check=True)
    assert named.stdout.split() == [str(vm.pid).encode()]


def test_host_name_and_processes(vm: Vm) -> None:
    before = socket.gethostname()
    assert said(vm, "hostname") == "a"
    assert socket.gethostname() == before
    lines = said(vm, "ps", "-eo", "pid=,comm=").splitlines()
    assert lines[0].split() == ["1", "hostsim-init"]
    assert {line.split()[1] for line in lines} == {"hostsim-init", "ps"}


def test_every_process_is_in_its_cgroup(vm: Vm) -> None:
    program = vm.popen(["sleep", "60"])
    pids = {int(line) for line in (vm.cgroup / "cgroup.procs").read_text().split()}
    assert pids == {vm.pid, program.pid}
    assert os.fstat(vm.cgroup_fd).st_ino == vm.cgroup.stat().st_ino


def test_dev_holds_the_list_and_nothing_else(vm: Vm) -> None:
    assert set(said(vm, "ls", "/dev").split()) == {
        *("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "input"),
        *("fd", "stdin", "stdout", "stderr"),  # links into /proc/self/fd
    }
    assert said(vm, "find", "/dev", "-type", "b") == ""
    assert said(vm, "ls", "/dev/input", "/dev/shm").split() == ["/dev/input:", "/dev/shm:"]
    assert said(vm, "sh", "-c", "head -c 3 /dev/zero /dev/urandom /dev/random | wc -l") != "0"
    assert "No space left" in refused(vm, "/bin/echo x > /dev/full")
    said(vm, "script", "-qec", "true", "/dev/null")  # opens a terminal of its own


def test_a_device_that_is_not_on_the_list_cannot_be_opened(make_vm: MakeVm) -> None:
    """The node is there, as from a bug elsewhere: the program in the kernel refuses it."""
    plain, system = make_vm("plain"), make_vm("system", os=True)
    for vm in (plain, system):
        os.mknod(f"/proc/self/fd/{vm.input_fd}/local", 0o20666, os.makedev(*LOCAL))
        os.mknod(f"/proc/self/fd/{vm.input_fd}/mem", 0o20666, os.makedev(1, 1))
        os.mknod(f"/proc/self/fd/{vm.input_fd}/disk", 0o60666, os.makedev(7, 0))
        for node in ("local", "mem", "disk"):
            assert "Operation not permitted" in refused(vm, f": < /dev/input/{node}")
        assert "Operation not permitted" in refused(vm, "mknod /dev/x c 1 11")
        assert "Operation not permitted" in refused(vm, "mknod /dev/x b 7 0")
    system.devices.allow(*LOCAL)
    assert "No such device" in refused(system, ": < /dev/input/local")  # past the program
    assert "Operation not permitted" in refused(plain, ": < /dev/input/local")
    system.devices.deny(*LOCAL)
    system.devices.deny(*LOCAL)
    assert "Operation not permitted" in refused(system, ": < /dev/input/local")
    with pytest.raises(HostsimError, match="no list of its own"):
        plain.devices.allow(*LOCAL)


def test_capabilities_are_the_list(vm: Vm) -> None:
    expected = f"{sum(1 << number for number in KEPT):016x}"
    caps = dict(line.split() for line in said(vm, "grep", "^Cap", "/proc/self/status").splitlines())
    for kind in ("CapPrm:", "CapEff:", "CapBnd:"):
        assert caps[kind] == expected, kind
    assert caps["CapInh:"] == caps["CapAmb:"] == "0" * 16
    status = Path(f"/proc/{vm.pid}/status").read_text()
    assert f"CapBnd:\t{expected}" in status
    assert f"CapPrm:\t{expected}" in status


@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs none /mnt",
        "umount /proc/sys",
        "mount -o remount,rw /sys",
        "date -s 12:00",
        "python3 -c 'import os, ctypes; c = ctypes.CDLL(None, use_errno=True);"
        " assert c.reboot(0) == 0, os.strerror(ctypes.get_errno())'",
        "unshare --net true",
        "unshare --user true",
        "unshare --user --map-root-user --mount mount -t proc proc /mnt",
        "nsenter --target 1 --mount --all true",
        "swapoff -a; swapon /etc/passwd",
        "dmesg",
        "chroot /proc/1/root mount -t tmpfs none /mnt",
        "python3 -c 'import socket; socket.socket(socket.AF_VSOCK)'",
        "hostname other && hostname a && false",
    ],
)
def test_root_of_the_vm_is_not_root_of_the_machine(vm: Vm, script: str) -> None:
    refused(vm, script)


@pytest.mark.parametrize("how", ["narrow"] if platform.machine() == "x86_64" else [])
def test_the_other_system_call_table_is_no_way_around(vm: Vm, how: str) -> None:
    """Refused by the filter, or by a kernel that has no such table (the process dies)."""
    code = program("tries", how)
    assert vm.run(code).returncode != 0
    assert subprocess.run(code, check=False).returncode <= 0  # outside


def test_proc_and_sys_are_read_only_but_for_its_network(vm: Vm) -> None:
    """Most of /proc asks for user 0, not for a capability."""
    for path in ("kernel/core_pattern", "vm/drop_caches", "kernel/hostname", "fs/file-max"):
        before = Path(f"/proc/sys/{path}").read_text() if path != "vm/drop_caches" else ""
        assert "Read-only file system" in refused(vm, f"echo 1 > /proc/sys/{path}")
        assert path == "vm/drop_caches" or Path(f"/proc/sys/{path}").read_text() == before
    writable = vm.run(
        [
            *("find", "/proc", "-path", "/proc/[0-9]*", "-prune", "-o"),
            *("-path", "/proc/sys/net", "-prune", "-o"),
            *("-type", "f", "-perm", "/222", "-writable", "-print"),
        ]
    ).stdout.decode()
    assert writable == ""
    assert vm.run(["find", "/sys", "-type", "f", "-writable"]).stdout == b""
    assert said(vm, "ls", "/sys/fs/cgroup") == ""
    assert said(vm, "ls", "/sys/class/net") == "lo"
    said(vm, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    assert said(vm, "cat", "/proc/sys/net/ipv4/ip_forward") == "1"


def contents(path: str) -> bytes:
    """What `head` reads of a file, or the names in a directory; nothing if it cannot be read."""
    where = Path(path)
    if where.is_dir():
        return b"".join(os.fsencode(name) for name in os.listdir(where))
    with where.open("rb") as file:
        try:
            return file.read(1)
        except OSError:
            return b""


@pytest.mark.parametrize("kind", [{}, {"os": True}, {"endpoint": True}, {"files": "shared"}])
def test_what_tells_of_the_machine_is_empty(make_vm: MakeVm, kind: dict[str, object]) -> None:
    there = [path for path in fence.MASKED if Path(path).exists()]
    full = [path for path in there if contents(path)]
    assert {"/proc/slabinfo", "/proc/timer_list", "/sys/kernel/notes"} <= {*full}
    box = make_vm("b", **kind)
    script = 'for one; do if [ -d "$one" ]; then ls -A "$one"; else head -c 1 "$one"; fi; done'
    done = box.run(["sh", "-c", script, "sh", *there])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    for path in there:
        if Path(path).is_dir():
            refused(box, f"mkdir {path}/x")  # nothing can be made in it: it is removed already
        else:
            assert "Read-only file system" in refused(box, f"echo x > {path}")


def test_kernel_parameters_from_outside(vm: Vm) -> None:
    ours = Path("/proc/sys/net/ipv4/conf/lo/rp_filter")
    before = ours.read_text()
    value = "1" if before.strip() == "2" else "2"
    vm.sysctl({"net.ipv4.ip_forward": "1", "net.ipv4.conf.lo.rp_filter": value})
    assert said(vm, "sysctl", "-n", "net.ipv4.ip_forward") == "1"
    assert said(vm, "sysctl", "-n", "net.ipv4.conf.lo.rp_filter") == value
    assert ours.read_text() == before
    with pytest.raises(OSError, match="net/ipv4/none"):
        vm.sysctl({"net.ipv4.none": "1"})
    for name in ("kernel.core_pattern", "net.//.kernel.core_pattern"):
        with pytest.raises(ValueError, match="not a parameter"):
            vm.sysctl({name: "x"})
    assert os.readlink("/proc/thread-self/ns/net") == os.readlink("/proc/self/ns/net")


def test_run_of_the_machine_is_not_there(vm: Vm) -> None:
    assert said(vm, "ls", "/run").split() == ["hostsim", "lock", "udev"]
    assert said(vm, "ls", "/run/hostsim") == ""
    assert said(vm, "grep", "-c", "^tmpfs /run ", "/proc/mounts") == "1"
    assert "netns" not in said(vm, "cat", "/proc/mounts")


def test_a_socket_in_its_run_directory(make_vm: MakeVm) -> None:
    """What an agent's socket needs: bound from outside, seen by this VM alone."""
    one, two = make_vm("one"), make_vm("two")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{one.run_fd}/agent.sock")
        server.listen()
        client = one.popen(
            ["python3", "-c", "import socket; socket.socket(1).connect('/run/hostsim/agent.sock')"]
        )
        assert client.wait(10) == 0
    assert said(two, "ls", "/run/hostsim") == ""
    assert not Path("/run/hostsim/agent.sock").exists()


def test_a_link_cannot_lead_its_directories_astray(vm: Vm) -> None:
    said(vm, "sh", "-c", "rmdir /run/hostsim && ln -s /etc /run/hostsim")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        vm.run_fd  # noqa: B018


def test_orphans_are_reaped(vm: Vm) -> None:
    said(vm, "sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done")
    until(lambda: said(vm, "ps", "-eo", "comm=").split() == ["hostsim-init", "ps"])


def test_init_sleeps(vm: Vm) -> None:
    """Process 1 costs nothing: no wake-up without a child that ends."""
    stat = Path(f"/proc/{vm.pid}/stat")
    until(lambda: stat.read_text().split()[1:3] == ["(hostsim-init)", "S"])

    def switches() -> list[str]:
        lines = Path(f"/proc/{vm.pid}/status").read_text().splitlines()
        return [line for line in lines if "ctxt_switches" in line]

    before = switches()
    said(vm, "true")  # not a child of process 1
    assert switches() == before


def test_the_end_of_process_1_ends_the_vm(vm: Vm) -> None:
    program = vm.popen(["sleep", "60"])
    said(vm, "sh", "-c", "sleep 60 & true")
    os.kill(vm.pid, signal.SIGKILL)
    assert program.wait(5) == -signal.SIGKILL
    assert process.wait_end(vm.pidfd, 5)
    assert not vm.alive
    assert (vm.cgroup / "cgroup.procs").read_text() == ""
    with pytest.raises(HostsimError, match="does not run"):
        vm.popen(["true"])
    vm.stop()


def test_the_end_of_process_1_is_told_before_its_programs_are_reaped(vm: Vm) -> None:
    program = vm.popen(["sleep", "60"])
    life = select.poll()
    life.register(vm.life_fd, select.POLLIN)
    assert life.poll(0) == []
    os.kill(vm.pid, signal.SIGKILL)
    assert life.poll(5000) == [(vm.life_fd, select.POLLERR)]
    assert process.wait_end(program.fileno(), 5)
    assert not process.wait_end(vm.pidfd, 0)  # nobody has asked for the program's status
    program.close()
    assert process.wait_end(vm.pidfd, 5)


TRACE = """
import ctypes, os, sys
pid = next(int(one) for one in os.listdir("/proc") if one.isdigit()
           and open(f"/proc/{one}/cmdline").read().startswith("sleep\\0"))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(0x4206, pid, 0, 0) == 0, ctypes.get_errno()  # PTRACE_SEIZE
print("traced", flush=True)
sys.stdin.read()
"""


def test_a_program_that_is_traced_to_its_end(make_vm: MakeVm) -> None:
    """By another process of the VM, which does not wait for it: it has ended all the same, holds
    nobody up, and is reaped as soon as it can be."""
    vm = make_vm("b")
    traced = vm.popen(["sleep", "600"])
    tracer = vm.popen([sys.executable, "-S", "-W", "ignore", "-c", TRACE], stdin=-1, stdout=-1)
    assert tracer.stdout is not None
    assert tracer.stdout.readline() == b"traced\n"
    traced.kill()
    assert process.wait_end(traced.fileno(), 10)
    assert os.waitid(os.P_PIDFD, traced.fileno(), os.WEXITED | os.WNOHANG) is None
    assert traced.wait(10) == -signal.SIGKILL
    traced.close()
    assert not traced.closed
    assert vm.alive
    assert said(vm, "echo", "fine") == "fine"
    vm.stop()
    assert traced.closed


def test_stop_with_something_left_to_say_to_a_program(vm: Vm, host_name: str) -> None:
    program = vm.popen(["sleep", "60"], stdin=subprocess.PIPE)
    assert program.stdin is not None
    program.stdin.write(b"unheard")
    program.kill()
    program.wait(5)
    vm.stop()
    assert not Path(f"/run/netns/hs-{host_name}-a").exists()


def test_shutdown_from_inside(vm: Vm) -> None:
    vm.popen(["sh", "-c", "kill -TERM 1; sleep 60"])
    until(lambda: not vm.alive)


def test_root_of_the_vm_cannot_kill_it_otherwise(vm: Vm) -> None:
    said(vm, "sh", "-c", "kill -KILL 1; kill -INT 1; kill -HUP 1; kill -USR1 1")
    assert said(vm, "echo", "lives") == "lives"


def test_stop_twice_and_stop_before_start(make_vm: MakeVm, host_name: str) -> None:
    vm = make_vm()
    program = vm.popen(["sh", "-c", "trap '' TERM INT HUP; sleep 60"])
    vm.stop()
    vm.stop()
    assert program.poll() == -signal.SIGKILL
    assert (vm.pid, vm.pidfd, vm.netns_fd) == (-1, -1, -1)
    assert not vm.alive
    never = Vm(host_name, vm.spec, 9)
    never.stop()


def test_stop_does_not_wait_for_who_ignores_it(vm: Vm) -> None:
    """Frozen, stopped, in a session of its own: all the same."""
    vm.popen(["sh", "-c", "setsid sh -c 'kill -STOP $$' & sleep 60"])
    (vm.cgroup / "cgroup.freeze").write_text("1")
    with pytest.raises(HostsimError, match="frozen"):
        vm.popen(["true"])
    begin = time.monotonic()
    vm.stop()
    assert time.monotonic() - begin < 5


def test_thirty_side_by_side(make_vm: MakeVm) -> None:
    with ThreadPoolExecutor(8) as pool:
        vms = list(pool.map(lambda number: make_vm(f"vm{number}"), range(30)))
        assert len({namespaces(vm.pid)["net"] for vm in vms}) == 30
        assert list(pool.map(lambda vm: said(vm, "hostname"), vms)) == [vm.spec.name for vm in vms]
        list(pool.map(lambda vm: vm.stop(), vms))


def test_a_name_that_is_taken_leaves_nothing(make_vm: MakeVm, host_name: str) -> None:
    """The second VM of the same name fails clearly, and the first one is not harmed."""
    first = make_vm("same")
    with pytest.raises(HostsimError, match=r"cgroup .*same exists already"):
        make_vm("same")
    assert first.alive
    assert said(first, "hostname") == "same"
    assert Path(f"/run/netns/{first.netns}").exists()


def test_what_a_killed_daemon_left_goes_by_its_journal(
    host_name: str, tmp_path: Path, make_vm: MakeVm
) -> None:
    child = os.fork()
    if child == 0:  # the daemon: starts a VM and dies without a word
        make_vm("a", pids=50).popen(["sh", "-c", "sleep 60 & sleep 60"])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    group = cgroup.layout().v2
    assert group is not None
    assert (group / f"hs-{host_name}/a/cgroup.procs").read_text()
    assert journal.undo(tmp_path / "journal") == []
    assert journal.undo(tmp_path / "journal") == []


def test_the_names_survive_a_second_user_of_run_netns(vm: Vm) -> None:
    """`ip netns` and ours keep the same directory."""
    name = f"{vm.netns}-x"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "netns", "del", name], check=True)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert vm.netns in listed.stdout.split()
    namespace.remove(f"{vm.netns}-none")


def test_none_starts_in_a_chroot(tmp_path: Path) -> None:
    """The kernel makes no user namespace there (clone(2), EPERM): the line says what would do."""
    root, file = tmp_path / "root", tmp_path / "chrooted.toml"
    root.mkdir()
    file.write_text('[host]\nname = "chrooted"\n[[vm]]\nname = "a"\n')
    script = 'mount --rbind / "$0" && exec chroot "$0" "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, str(root), HOSTSIM, "up", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done
    assert "the kernel makes none in a chroot" in done.stderr
