# SPDX-License-Identifier: Apache-2.0
"""Sockets, interfaces and kernel parameters of another network namespace, without leaving one's
own. Wraps ns/netns.h, ns/sock.h, ns/offload.h, ns/sysctl.h and ns/unread.h."""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.arrays import strings


def socket_at(netns_fd: int, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket of the network namespace behind `netns_fd`, close-on-exec, owned by the caller.

    Raises OSError (EPERM without CAP_SYS_ADMIN, EINVAL if the fd is not a network namespace).
    """
    fd = check(lib.hs_socket_at(netns_fd, family, kind, protocol), "socket in a namespace")
    return socket.socket(family, kind, protocol, fileno=fd)


def socketpair_at(netns_fd: int, family: int, kind: int) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets of the network namespace behind `netns_fd`: one may be handed to who
    lives there. Close-on-exec, owned by the caller. Raises OSError as `socket_at` does."""
    pair = ffi.new("int[2]")
    check(lib.hs_socketpair_at(netns_fd, family, kind, 0, pair), "sockets in a namespace")
    return socket.socket(family, kind, fileno=pair[0]), socket.socket(family, kind, fileno=pair[1])


@contextlib.contextmanager
def inside(netns_fd: int) -> Iterator[None]:
    """The calling thread, and no other, is in the network namespace behind `netns_fd` (setns(2)).

    For code that opens sockets by itself and cannot be told where. It must not start threads: those
    would stay there. Raises OSError as `socket_at` does; the process is aborted if the thread
    cannot return.
    """
    home = check(lib.hs_netns_enter(netns_fd), "network namespace")
    try:
        yield
    finally:
        lib.hs_netns_leave(home)


def new_netns() -> int:
    """A descriptor of a new network namespace that nothing runs in; the caller owns it.

    Raises OSError (EPERM without CAP_SYS_ADMIN).
    """
    return check(lib.hs_netns_new(), "new network namespace")


def offload(netns_fd: int, interface: str, on: bool) -> None:
    """Whether the interface leaves checksums, large segments and VLAN tags to hardware: see
    hs_offload. Raises OSError."""
    check(lib.hs_offload(netns_fd, interface.encode(), on), f"offloads of {interface}")


def unread(netns_fd: int, index: int) -> tuple[int, int]:
    """Frames that an interface's XDP program could not hand on, and those that it dropped: see
    ns/unread.h. Raises OSError."""
    found = ffi.new("struct hs_unread *")
    check(lib.hs_unread(netns_fd, index, found), f"counts of interface {index}")
    return found.full, found.dropped


def write_sysctls(netns_fd: int, values: Mapping[str, str]) -> None:
    """Set kernel parameters of a network namespace; keys are paths below /proc/sys/net.

    Raises OSError that names the parameter.
    """
    keep: list[Any] = []
    paths = list(values)
    failed = ffi.new("size_t *")
    result = lib.hs_sysctl(
        netns_fd,
        strings(keep, paths),
        strings(keep, [values[path] for path in paths]),
        len(paths),
        failed,
    )
    check(result, paths[failed[0]] if failed[0] < len(paths) else "network namespace")
