# SPDX-License-Identifier: Apache-2.0
"""TAP interfaces: what is sent by one is read from a descriptor, with the header that says what is
left to hardware (Documentation/networking/tuntap.rst; linux/if_tun.h)."""

import contextlib
import fcntl
import os
import socket
import struct
import subprocess

from cext.ns import netns
from netns import messages
from netns.links import Packs, pack_in

TUN = "/dev/net/tun"
TUNSETIFF, TUNSETOFFLOAD, TUNSETIFINDEX = 0x400454CA, 0x400454D0, 0x400454DA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
OFFLOADS = 0x1 | 0x2 | 0x4 | 0x8
"""TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN."""
USO = 0x20 | 0x40
"""TUN_F_USO4, TUN_F_USO6: from Linux 6.2 on."""
MTU_MOST = 65535 - 14
SOL_PACKET, PACKET_VNET_HDR, SO_SNDBUFFORCE = 263, 15, 32


def make(netns_fd: int, name: str, index: int, queue: int, mtu: int = 1500) -> int:
    """A TAP that is up, with this number, in the namespace behind a descriptor; it goes with the
    descriptor that this returns, which does not block, and is the caller's. queue: packets that
    wait there; mtu: MTU_MOST at most, of what a `sender` sends out of it. Raises OSError."""
    with netns.inside(netns_fd):
        fd = _open()
    try:
        fcntl.ioctl(fd, TUNSETIFINDEX, struct.pack("=I", index))
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags))
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS | USO)
        except OSError:
            fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS)

        def fill(batch: Packs) -> None:
            batch.packed(messages.quiet(index, queue, mtu))
            batch.packed(messages.up(index))

        pack_in(netns_fd, fill)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open() -> int:
    """A descriptor of no interface yet. A module that is not there is loaded, unless the machine
    has made its node beforehand: then the kernel does that (kmod-static-nodes.service)."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(TUN, flags)
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):  # no modprobe
            subprocess.run(("modprobe", "-q", "tun"), check=False)
        return os.open(TUN, flags)


def sender(netns_fd: int, mark: int, room: int) -> socket.socket:
    """A packet socket of that namespace that sends what is read from a TAP, header and all, out of
    any interface, with this mark. It hears nothing, and does not block. room: bytes that may be
    under way. Raises OSError."""
    made = netns.socket_at(netns_fd, socket.AF_PACKET, socket.SOCK_RAW, 0)
    with contextlib.ExitStack() as undo:
        undo.callback(made.close)
        made.setblocking(False)
        made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, room)
        undo.pop_all()
    return made
