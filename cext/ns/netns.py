"""Sockets and interfaces in another network namespace, without leaving one's own. Wraps ns/netns.h,
ns/sock.h and ns/offload.h."""

import socket

from cext import check
from cext._native import lib


def socket_at(netns_fd: int, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket of the network namespace behind `netns_fd`, close-on-exec, owned by the caller.

    Raises OSError (EPERM without CAP_SYS_ADMIN, EINVAL where the fd is not a network namespace).
    """
    fd = check(lib.hs_socket_at(netns_fd, family, kind, protocol), "socket in a namespace")
    return socket.socket(family, kind, protocol, fileno=fd)


def new_netns() -> int:
    """A descriptor of a new network namespace that nothing runs in; the caller owns it.

    Raises OSError (EPERM without CAP_SYS_ADMIN).
    """
    return check(lib.hs_netns_new(), "new network namespace")


def offload_off(netns_fd: int, interface: str) -> None:
    """The interface leaves no checksum and no large segment to hardware: see hs_offload_off. Raises
    OSError."""
    check(lib.hs_offload_off(netns_fd, interface.encode()), f"offloads of {interface}")
