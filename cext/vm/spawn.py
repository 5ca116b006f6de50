# SPDX-License-Identifier: Apache-2.0
"""Processes in namespaces of their own. Wraps vm/spawn.h."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cext import HERE, check
from cext._native import ffi, lib
from cext.arrays import kept, strings

INIT = HERE / "hostsim-init"
"""The program that is process 1 of every VM but those that boot their own."""
OWNERS = "mapping the owners of its files"
"""The step that a file system without idmapped mounts fails."""
FENCE = "making the user namespace"
"""The step that a chroot fails (clone(2), EPERM)."""
TTY = 5
"""The group of terminals (`tty`), in every distribution."""


class SpawnError(OSError):
    """A process could not be started; `step` says in which step, in words."""

    def __init__(self, error: int, step: str) -> None:
        super().__init__(error, f"{step}: {os.strerror(error)}")
        self.step = step


class Root(NamedTuple):
    """A private root (cext/vm/root.h). size: the limit of what changes take, as tmpfs(5) has it;
    layers: `/` first, a parent before what is mounted below it; shares: paths, and whether they
    are read-only."""

    size: str
    layers: tuple[str, ...]
    shares: tuple[tuple[str, bool], ...] = ()


class Own(NamedTuple):
    """A root of its own (cext/vm/root.h). lower, keep, shares: detached mounts (cext/vm/lower.py),
    the caller's; keep: -1 if the changes are in memory, up to `size`; shares: with the path of each
    inside; texts: files that are written, with their text."""

    size: str
    lower: int
    keep: int
    shares: tuple[tuple[int, str], ...]
    texts: tuple[tuple[str, str], ...]


class Boot(NamedTuple):
    """An init of the root's own (hs_boot). console: a terminal, and a detached mount of it; notify:
    a datagram socket; size: of /tmp. Descriptors are the caller's."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    console: tuple[int, int]
    notify: int
    size: str


def mount_base() -> int:
    """A mount namespace for VMs to start from (see hs_mount_base); the caller owns the descriptor.

    Raises OSError.
    """
    return check(lib.hs_mount_base(), "mount namespace")


def prepare() -> None:
    """Make beforehand what the first start makes otherwise (see hs_spawn_prepare); in any thread.

    Raises OSError.
    """
    check(lib.hs_spawn_prepare(), "system call filter")


def open_null() -> int:
    """/dev/null as it may be handed to a VM (see hs_root_null); the caller owns the descriptor.

    Raises OSError.
    """
    return check(lib.hs_root_null(), "/dev/null")


def open_program(path: str) -> int:
    """A program by a descriptor through which nobody writes to it (see hs_root_program); the caller
    owns it. Raises OSError."""
    return check(lib.hs_root_program(os.fsencode(path)), path)


def spawn_vm(
    hostname: str,
    base_fd: int,
    init_fd: int,
    cgroup_fd: int,
    life_fd: int,
    join: Sequence[int],
    sealed: Sequence[str],
    masked: Sequence[str],
    size: str,
    root: Root | Own | None,
    boot: Boot | None = None,
    owner: int = 0,
    *,
    nests: bool = False,
) -> tuple[int, int]:
    """Start process 1 of a VM (see hs_vm_spec); its pid and a pidfd that the caller owns. size: of
    /run and of /dev/shm, as tmpfs(5) has it; root: None for the machine's files; owner: the id
    outside of its user 0, and the first of 65536; nests: with `Own` and an owner, whether its
    programs may make user namespaces.

    Raises SpawnError.
    """
    keep: list[Any] = []
    spec = ffi.new("struct hs_vm_spec *")
    spec.hostname = kept(keep, ffi.new("char[]", hostname.encode()))
    spec.base_fd = base_fd
    spec.init_fd = init_fd
    spec.cgroup_fd = cgroup_fd
    spec.life_fd = life_fd
    spec.join = kept(keep, ffi.new("int[]", list(join)))
    spec.joins = len(join)
    spec.sealed = strings(keep, sealed)
    spec.masked = strings(keep, masked)
    spec.run = kept(keep, ffi.new("char[]", f"size={size},mode=0755".encode()))
    spec.shm = kept(keep, ffi.new("char[]", f"size={size},mode=1777".encode()))
    pts = f"ptmxmode=0666,mode=0620,gid={owner + TTY}"
    spec.pts = kept(keep, ffi.new("char[]", pts.encode()))
    spec.root = _root(keep, root) if isinstance(root, Root) else ffi.NULL
    spec.own = _own(keep, root, boot) if isinstance(root, Own) else ffi.NULL
    spec.boot = ffi.NULL if boot is None else _boot(keep, boot)
    spec.owner = owner
    spec.nests = nests
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
    program: int = -1,
    nests: bool = False,
) -> tuple[int, int]:
    """Start a program in the VM of the process `pidfd` (see hs_exec_spec); pid and pidfd, the
    caller's to reap and close.

    program: if not -1, what is started (`open_program`), whatever `paths` say; it must be linked
    statically. nests: as the VM was started. With die_with_caller, the calling thread is left in
    the VM's namespaces. Raises SpawnError.
    """
    keep: list[Any] = []
    spec = ffi.new("struct hs_exec_spec *")
    spec.pidfd = pidfd
    spec.cgroup_fd = cgroup_fd
    spec.join = kept(keep, ffi.new("int[]", list(join)))
    spec.joins = len(join)
    spec.program_fd = program
    spec.paths = strings(keep, paths)
    spec.argv = strings(keep, argv)
    spec.env = strings(keep, [f"{key}={value}" for key, value in env.items()])
    spec.cwd = ffi.NULL if cwd is None else kept(keep, ffi.new("char[]", os.fsencode(cwd)))
    spec.fds = list(fds)
    spec.tty = tty
    spec.nests = nests
    spec.die_with_caller = die_with_caller
    return _spawned(lib.hs_vm_exec, spec)


def open_terminal(ptmx: str) -> tuple[int, int]:
    """A new terminal of the devpts instance with this multiplexer: the descriptors of its master
    and its slave, the caller's. Raises OSError."""
    slave = ffi.new("int *")
    master = check(lib.hs_terminal(os.fsencode(ptmx), slave), ptmx)
    return master, slave[0]


def _escaped(path: str) -> str:
    """A path in mount data: overlayfs reads `:` and `\\` in it, mount(2) reads `,`."""
    return "".join("\\" + c if c in ":,\\" else c for c in path)


def _root(keep: list[Any], root: Root) -> Any:
    made = kept(keep, ffi.new("struct hs_root *"))
    made.size = kept(keep, ffi.new("char[]", root.size.encode()))
    layers = [
        f"lowerdir={_escaped(path)},upperdir=/run/{n}/up,workdir=/run/{n}/work"
        for n, path in enumerate(root.layers)
    ]
    made.layers = strings(keep, layers)
    made.points = strings(keep, [f"/run/root{path.rstrip('/')}" for path in root.layers])
    made.lower = strings(keep, root.layers)
    made.shares = kept(keep, ffi.new("struct hs_share[]", max(1, len(root.shares))))
    made.share_count = len(root.shares)
    for n, (path, read_only) in enumerate(root.shares):
        made.shares[n].path = kept(keep, ffi.new("char[]", os.fsencode(path)))
        made.shares[n].read_only = read_only
    return made


def _own(keep: list[Any], own: Own, boot: Boot | None) -> Any:
    made = kept(keep, ffi.new("struct hs_own *"))
    made.size = kept(keep, ffi.new("char[]", own.size.encode()))
    if boot is not None:
        made.tmp = kept(keep, ffi.new("char[]", f"size={boot.size},mode=1777".encode()))
    made.lower_fd = own.lower
    made.keep_fd = own.keep
    made.share_fds = kept(keep, ffi.new("int[]", [fd for fd, _ in own.shares] or [-1]))
    made.shares = strings(keep, [path for _, path in own.shares])
    made.texts = kept(keep, ffi.new("struct hs_text[]", len(own.texts) + 1))
    for n, (path, text) in enumerate(own.texts):
        made.texts[n].path = kept(keep, ffi.new("char[]", os.fsencode(path)))
        made.texts[n].text = kept(keep, ffi.new("char[]", os.fsencode(text)))
    return made


def _boot(keep: list[Any], boot: Boot) -> Any:
    made = kept(keep, ffi.new("struct hs_boot *"))
    made.argv = strings(keep, boot.argv)
    made.env = strings(keep, [f"{key}={value}" for key, value in boot.env.items()])
    made.console_fd, made.console_tree = boot.console
    made.notify_fd = boot.notify
    made.lock = kept(keep, ffi.new("char[]", b"size=5m,mode=1777"))
    return made


def _spawned(function: Any, spec: Any) -> tuple[int, int]:
    out = ffi.new("struct hs_spawned *")
    result = function(spec, out)
    if result < 0:
        raise SpawnError(-result, ffi.string(lib.hs_spawn_step(out.step)).decode())
    return out.pid, out.pidfd
