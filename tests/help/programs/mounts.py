# SPDX-License-Identifier: Apache-2.0
"""What user 0 of a mount namespace that is a copy of a VM's tries against the VM's mounts; says
`done` or the error's name for each, as JSON."""

import ctypes
import errno
import json
import os
import stat
from collections.abc import Callable

RDONLY, REMOUNT, BIND, MOVE, REC = 1, 32, 4096, 8192, 16384
DETACH = 2
libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int) -> None:
    checked(libc.mount(source, target, kind, ctypes.c_ulong(flags), None))


def umount(path: bytes) -> None:
    checked(libc.umount2(path, DETACH))


def node_on_a_mount_of_its_own() -> None:
    mount(b"x", b"/tmp", b"tmpfs", 0)
    os.mknod("/tmp/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))


TRIES: dict[str, Callable[[], None]] = {
    "uncover /proc/sys": lambda: umount(b"/proc/sys"),
    "uncover /sys/firmware": lambda: umount(b"/sys/firmware"),
    "uncover /": lambda: umount(b"/"),
    "/proc without its covers": lambda: mount(b"/proc", b"/mnt", None, BIND),
    "/proc elsewhere": lambda: mount(b"/proc", b"/mnt", None, MOVE),
    "/proc/sys to be written": lambda: mount(None, b"/proc/sys", None, REMOUNT | BIND),
    "/sys without its covers": lambda: mount(b"sysfs", b"/mnt", b"sysfs", 0),
    "a disk": lambda: mount(b"/dev/vda", b"/mnt", b"ext4", RDONLY),
    "a device": lambda: os.mknod("/root/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1)),
    "a device on a mount of its own": node_on_a_mount_of_its_own,
    "the network of process 1": lambda: os.close(os.open("/proc/1/ns/net", os.O_RDONLY)),
    "a mount of its own": lambda: mount(b"x", b"/mnt", b"tmpfs", 0),
    "the VM's files, bound": lambda: mount(b"/usr", b"/mnt", None, BIND | REC),
}


def tried(one: Callable[[], None]) -> str:
    try:
        one()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


if __name__ == "__main__":
    os.makedirs("/mnt", exist_ok=True)
    print(json.dumps({name: tried(one) for name, one in TRIES.items()}))
