# SPDX-License-Identifier: Apache-2.0
"""User 0 of a VM who wants out of it: tries what reaches the machine, and system calls at random.

    user0.py SEED COUNT NAME=NUMBER...

Prints a JSON object: {"done": [the tries that succeeded], "tried": how many, "calls": how many
system calls came back, "fuzzed": how many were made}. NAME=NUMBER: this machine's system calls.
Each try and each call is made by a process of its own, for a moment.
"""

import ctypes
import errno
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import escape  # type: ignore[import-not-found]

MOMENT = 0.2  # seconds
ANSWER = 200
"""The descriptor of what this program prints."""
NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80)
"""CLONE_NEW* (sched.h)."""
KEEP_OUT = frozenset(
    {
        *("exit", "exit_group", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "clone", "vfork"),
        *("rt_tgsigqueueinfo", "pidfd_send_signal", "fork", "clone3"),
    }
)
"""System calls that would end or multiply this program, and show nothing."""

libc = ctypes.CDLL(None, use_errno=True)
Try = Callable[[], object]


class Refused(Exception):
    """By the kernel."""


def call(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    words += [ctypes.c_long(0)] * (6 - len(words))
    found = int(libc.syscall(ctypes.c_long(number), *words))
    if found == -1:
        raise Refused(errno.errorcode.get(ctypes.get_errno(), "?"))
    return found


def in_a_process(function: Try) -> str:
    """`done`, `refused`, `ended` (by a signal) or `stuck`."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ANSWER)  # what goes there is the program's alone
        said = b"refused"
        try:
            function()
            said = b"done"
        except (OSError, Refused, ValueError):
            pass
        finally:
            os.write(write, said)
            os._exit(0)
    os.close(write)
    stuck = not select.select([read], [], [], MOMENT)[0]
    said = b"stuck" if stuck else os.read(read, 20) or b"ended"
    os.close(read)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return said.decode()


def write_to(path: str, text: str) -> Try:
    return lambda: os.write(os.open(path, os.O_WRONLY), text.encode())


def node(kind: int, major: int, minor: int) -> Try:
    return lambda: os.mknod(f"/dev/shm/{kind}-{major}-{minor}", kind | 0o600, major << 8 | minor)


def machine_sockets(family: int) -> Try:
    return lambda: socket.socket(family, socket.SOCK_STREAM)


def escaped(words: Iterator[tuple[str, str]]) -> None:
    if not any(how == "done" for _, how in words):
        raise Refused


def by_a_socket() -> None:
    """The network namespace of file 0, unless that is ours."""
    import fcntl

    there = os.fstat(fcntl.ioctl(0, escape.SIOCGSKNS))
    if os.path.samestat(there, os.stat("/proc/self/ns/net")):
        raise Refused


def more_than_one_may() -> None:
    """Larger than the machine's limit, by a privilege."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 28)  # SO_RCVBUFFORCE


def type_into_a_terminal() -> None:
    import fcntl
    import termios

    for fd in range(64):
        try:
            fcntl.ioctl(fd, termios.TIOCSTI, b"x")
        except OSError:
            continue
        return
    raise Refused


def join(setns: int, kind: str) -> Try:
    return lambda: call(setns, os.open(f"/proc/1/ns/{kind}", os.O_RDONLY), 0)


def tries(numbers: dict[str, int]) -> dict[str, Try]:
    """By name; each raises OSError or Refused if the kernel keeps it off."""

    def of(name: str, *arguments: int | bytes | None) -> Try:
        return lambda: call(numbers[name], *arguments)

    time = struct.pack("=qq", 1, 0)
    found: dict[str, Try] = {
        "mount": of("mount", b"none", b"/mnt", b"tmpfs", 0, None),
        "bind": of("mount", b"/proc", b"/mnt", None, 4096, None),
        "remount": of("mount", None, b"/proc/sys", None, 32 | 4096, None),
        "umount /proc/sys": of("umount2", b"/proc/sys", 2),
        "umount /proc/slabinfo": of("umount2", b"/proc/slabinfo", 2),
        "umount /": of("umount2", b"/", 2),
        "fsopen": of("fsopen", b"tmpfs", 0),
        "open_tree": of("open_tree", -100, b"/", 1),
        "pivot_root": of("pivot_root", b"/", b"/mnt"),
        "open_by_handle_at": of("open_by_handle_at", -100, bytes(64), 0),
        "init_module": of("init_module", bytes(64), 64, b""),
        "finit_module": of("finit_module", 0, b"", 0),
        "delete_module": of("delete_module", b"ext4", 0o4000),
        "kexec_load": of("kexec_load", 0, 0, None, 0),
        "swapon": of("swapon", b"/dev/null", 0),
        "acct": of("acct", b"/tmp/acct"),
        "settimeofday": of("settimeofday", time, None),
        "clock_settime": of("clock_settime", 0, time),
        "sethostname": of("sethostname", b"evil", 4),
        "setdomainname": of("setdomainname", b"evil", 4),
        "syslog": of("syslog", 5, bytes(64), 64),
        "quotactl": of("quotactl", 0x80000100, b"/dev/vda", 0, None),
        "perf_event_open": of("perf_event_open", bytes(128), -1, 0, -1, 0),
        "bpf": of("bpf", 0, struct.pack("=IIIII", 2, 4, 4, 1, 0) + bytes(100), 120),
        "io_uring_setup": of("io_uring_setup", 1, bytes(120)),
        "io_setup": of("io_setup", 1, bytes(8)),
        "userfaultfd": of("userfaultfd", 1),
        "add_key": of("add_key", b"user", b"x", b"x", 1, -4),
        "request_key": of("request_key", b"user", b"hostsim-probe", None, -3),
        "keyctl": of("keyctl", 10, -4, b"user", b"hostsim-probe", 0),
        "fanotify_init": of("fanotify_init", 4, 0),
        "descriptors of its own": of("unshare", 0x400),
        "SCHED_FIFO": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "nice -20": lambda: os.setpriority(os.PRIO_PROCESS, 0, -20),
        "real-time input": of("ioprio_set", 1, 0, 1 << 13),
        "never killed": write_to("/proc/self/oom_score_adj", "-1000"),
        "core_pattern": write_to("/proc/sys/kernel/core_pattern", "|/bin/false"),
        "modprobe": write_to("/proc/sys/kernel/modprobe", "/bin/false"),
        "sysrq": write_to("/proc/sysrq-trigger", "h"),
        "uevent": write_to("/sys/devices/virtual/mem/null/uevent", "add"),
        "max_user_namespaces": write_to("/proc/sys/user/max_user_namespaces", "1"),
        "rmem_max": write_to("/proc/sys/net/core/rmem_max", "1"),
        "disk": node(0o60000, 8, 0),
        "memory": node(0o20000, 1, 1),
        "kmsg": node(0o20000, 1, 11),
        "kcore": lambda: os.read(os.open("/proc/kcore", os.O_RDONLY), 1)[0],
        "switch": lambda: escaped(escape.netnsid("10001")),
        "socket": by_a_socket,
        "SO_RCVBUFFORCE": more_than_one_may,
        "TIOCSTI": type_into_a_terminal,
        "cgroup": lambda: os.listdir("/sys/fs/cgroup")[0],
        "netns": lambda: os.listdir("/run/netns")[0],
        "vsock": machine_sockets(40),
        "alg": machine_sockets(38),
    }
    for flag in NAMESPACES:
        found[f"unshare {flag:x}"] = of("unshare", flag)
    for kind in ("mnt", "net", "pid", "uts", "user"):
        found[f"setns {kind}"] = join(numbers["setns"], kind)
    return found


def at_random(source: random.Random) -> int | ctypes.Array[ctypes.c_char]:
    """An argument: a number, or the address of some bytes, which may be a path."""
    paths = (b"/etc/passwd", b"/", b"/proc/1/root", b"/dev/null", b"/proc/self/fd/0", b"/run")
    which = source.randrange(5)
    if which == 0:
        return source.choice((0, 1, 2, 3, 4, 5, 8, 16, 64, 4096))
    if which == 1:
        return source.choice((-1, -2, -100, 1 << 31, 1 << 63, (1 << 64) - 1))
    if which == 2:
        return source.getrandbits(source.randrange(1, 33))
    if which == 3:
        return ctypes.create_string_buffer(source.choice(paths))
    return ctypes.create_string_buffer(source.randbytes(256))


def fuzz(source: random.Random, numbers: list[int], count: int) -> Iterator[str]:
    for _ in range(count):
        number, given = source.choice(numbers), [at_random(source) for _ in range(6)]
        words = [one if isinstance(one, int) else ctypes.addressof(one) for one in given]
        signed = [(one + (1 << 63)) % (1 << 64) - (1 << 63) for one in words]
        yield in_a_process(lambda number=number, signed=signed: call(number, *signed))  # type: ignore[misc]


def meddle() -> None:
    """What changes the VM's own files, and no others."""
    for command in (
        "echo evil >> /etc/passwd",
        "rm -rf /etc/ssl /etc/cron.d",
        "mkdir -p /etc/modprobe.d && echo 'install evil /bin/false' > /etc/modprobe.d/evil.conf",
        "chmod u+s /bin/sh",
        f"echo evil >> {Path(__file__)}",
        "for fd in 0 1 2; do chmod 0 /proc/self/fd/$fd; done 2>/dev/null",
        "for name in null zero full; do chmod 0 /dev/$name; done",
    ):
        os.system(command)


def main(seed: str, count: str, *named: str) -> None:
    numbers = {name: int(number) for name, _, number in (one.partition("=") for one in named)}
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(1, ANSWER)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    said = {name: in_a_process(function) for name, function in tries(numbers).items()}
    usable = [number for name, number in numbers.items() if name not in KEEP_OUT and number >= 0]
    calls = list(fuzz(random.Random(int(seed)), sorted(usable), int(count)))
    answer = {
        "done": sorted(name for name, how in said.items() if how == "done"),
        "tried": len(said),
        "calls": calls.count("done") + calls.count("refused"),
        "fuzzed": len(calls),
    }
    meddle()
    os.write(ANSWER, json.dumps(answer).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
