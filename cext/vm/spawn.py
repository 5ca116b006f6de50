"""Processes in namespaces of their own, mounts, kernel parameters. Wraps spawn.h, ns/sysctl.h."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from cext import HERE, check
from cext._native import ffi, lib

INIT = HERE / "hostsim-init"
"""The program that is process 1 of every VM."""


class SpawnError(OSError):
    """A process could not be started; `step` says in which step, in words."""

    def __init__(self, error: int, step: str) -> None:
        super().__init__(error, f"{step}: {os.strerror(error)}")
        self.step = step


def mount_base() -> int:
    """A mount namespace for VMs to start from (see hs_mount_base); the caller owns the descriptor.

    Raises OSError.
    """
    return check(lib.hs_mount_base(), "mount namespace")


def spawn_vm(
    hostname: str,
    base_fd: int,
    init_fd: int,
    cgroup_fd: int,
    life_fd: int,
    join: Sequence[int],
    sealed: Sequence[str],
) -> tuple[int, int]:
    """Start process 1 of a VM (see hs_vm_spec); its pid and a pidfd that the caller owns.

    Raises SpawnError.
    """
    keep: list[Any] = []
    spec = ffi.new("struct hs_vm_spec *")
    spec.hostname = _kept(keep, ffi.new("char[]", hostname.encode()))
    spec.base_fd = base_fd
    spec.init_fd = init_fd
    spec.cgroup_fd = cgroup_fd
    spec.life_fd = life_fd
    spec.join = _kept(keep, ffi.new("int[]", list(join)))
    spec.joins = len(join)
    spec.sealed = _strings(keep, sealed)
    return _spawned(lib.hs_vm_spawn, spec)


def spawn_program(
    pidfd: int,
    cgroup_fd: int,
    join: Sequence[int],
    paths: Sequence[str],
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str | None,
    fds: tuple[int, int, int],
    *,
    tty: bool = False,
    die_with_caller: bool = False,
) -> tuple[int, int]:
    """Start a program in the VM of the process `pidfd` (see hs_exec_spec); pid and pidfd, the
    caller's to reap and close.

    With die_with_caller, the calling thread is left in the VM's namespaces. Raises SpawnError.
    """
    keep: list[Any] = []
    spec = ffi.new("struct hs_exec_spec *")
    spec.pidfd = pidfd
    spec.cgroup_fd = cgroup_fd
    spec.join = _kept(keep, ffi.new("int[]", list(join)))
    spec.joins = len(join)
    spec.paths = _strings(keep, paths)
    spec.argv = _strings(keep, argv)
    spec.env = _strings(keep, [f"{key}={value}" for key, value in env.items()])
    spec.cwd = ffi.NULL if cwd is None else _kept(keep, ffi.new("char[]", os.fsencode(cwd)))
    spec.fds = list(fds)
    spec.tty = tty
    spec.die_with_caller = die_with_caller
    return _spawned(lib.hs_vm_exec, spec)


def open_terminal(ptmx: str) -> tuple[int, int]:
    """A new terminal of the devpts instance with this multiplexer: the descriptors of its master
    and its slave, the caller's. Raises OSError."""
    slave = ffi.new("int *")
    master = check(lib.hs_terminal(os.fsencode(ptmx), slave), ptmx)
    return master, slave[0]


def bind(source: str, target: str, flags: int = 0) -> None:
    """Bind-mount `source` onto `target`, both existing (mount(2), MS_BIND). Raises OSError."""
    _mount(source, target, lib.MS_BIND | flags)


def bind_tree(path: str) -> None:
    """Make a directory a mount point of its own, with what is mounted below it. Raises OSError."""
    _mount(path, path, lib.MS_BIND | lib.MS_REC)


def share(path: str) -> None:
    """Let mounts below the mount point reach its copies in other namespaces (mount_namespaces(7)).

    Raises OSError (EINVAL: not a mount point).
    """
    _mount("none", path, lib.MS_SHARED | lib.MS_REC)


def detach(path: str) -> None:
    """Unmount, even where it is in use (MNT_DETACH). Raises OSError (EINVAL: not mounted)."""
    if lib.umount2(os.fsencode(path), lib.MNT_DETACH) < 0:
        raise OSError(ffi.errno, f"unmount {path}: {os.strerror(ffi.errno)}")


def write_sysctls(netns_fd: int, values: Mapping[str, str]) -> None:
    """Set kernel parameters of a network namespace; keys are paths below /proc/sys/net.

    Raises OSError that names the parameter.
    """
    keep: list[Any] = []
    paths = list(values)
    failed = ffi.new("size_t *")
    result = lib.hs_sysctl(
        netns_fd,
        _strings(keep, paths),
        _strings(keep, [values[path] for path in paths]),
        len(paths),
        failed,
    )
    check(result, paths[failed[0]] if failed[0] < len(paths) else "network namespace")


def _mount(source: str, target: str, flags: int) -> None:
    if lib.mount(os.fsencode(source), os.fsencode(target), b"none", flags, ffi.NULL) < 0:
        raise OSError(ffi.errno, f"mount on {target}: {os.strerror(ffi.errno)}")


def _spawned(function: Any, spec: Any) -> tuple[int, int]:
    out = ffi.new("struct hs_spawned *")
    result = function(spec, out)
    if result < 0:
        raise SpawnError(-result, ffi.string(lib.hs_spawn_step(out.step)).decode())
    return out.pid, out.pidfd


def _kept(keep: list[Any], value: Any) -> Any:
    keep.append(value)
    return value


def _strings(keep: list[Any], values: Sequence[str]) -> Any:
    """A NULL-terminated array; raises ValueError where a string holds a NUL."""
    encoded = [os.fsencode(value) for value in values]
    if any(b"\0" in value for value in encoded):
        raise ValueError("a NUL character in an argument")
    items = [_kept(keep, ffi.new("char[]", value)) for value in encoded]
    return _kept(keep, ffi.new("char *[]", [*items, ffi.NULL]))
