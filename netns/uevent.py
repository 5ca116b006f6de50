# SPDX-License-Identifier: Apache-2.0
"""Device events for the programs of a VM: kernel and udev messages on its uevent netlink socket.

A VM has no udev daemon; whoever gives it a device says so in its network namespace. The kernel's
format (ACTION@DEVPATH, then KEY=value, all NUL-terminated) is injected through the kernel, which
numbers it and hands it to the listeners of group 1 (lib/kobject_uevent.c, uevent_net_rcv); udev's
goes to group 2 as libudev's monitor format: a header with a magic, and hashes that the listeners'
socket filters look at (systemd, src/libsystemd/sd-device/device-monitor.c).
"""

import functools
import os
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

from cext.ns.netns import socket_at
from netns import netlink

NETLINK_KOBJECT_UEVENT = 15
UDEV_GROUP = 2

_PREFIX = b"libudev\0"
_MAGIC = 0xFEEDCAFE
_HEADER = struct.Struct("=8sIIIIIIII")
_NLMSG_MIN_TYPE = 16
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


@functools.lru_cache(64)  # of few names, again and again
def murmur2(data: bytes) -> int:
    """MurmurHash2 with seed 0, which is how libudev hashes names (32 bits)."""
    value = len(data) & _MASK
    whole = len(data) & ~3
    for offset in range(0, whole, 4):
        k = int.from_bytes(data[offset : offset + 4], "little")
        k = k * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        value = (value * _M & _MASK) ^ k
    rest = data[whole:]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * _M & _MASK
    value = (value ^ value >> 13) * _M & _MASK
    return value ^ value >> 15


def _bloom(tags: str) -> int:
    bits = 0
    for tag in filter(None, tags.split(":")):
        h = murmur2(tag.encode())
        for shift in (0, 6, 12, 18):
            bits |= 1 << (h >> shift & 63)
    return bits


def kernel_message(action: str, path: str, properties: Mapping[str, str]) -> bytes:
    """The kernel's format, without SEQNUM, which the kernel adds."""
    fields = {"ACTION": action, "DEVPATH": path, **properties}
    lines = [f"{action}@{path}", *(f"{key}={value}" for key, value in fields.items())]
    return b"".join(line.encode() + b"\0" for line in lines)


def udev_message(properties: Mapping[str, str]) -> bytes:
    """libudev's monitor format. `properties` has ACTION, DEVPATH, SUBSYSTEM, SEQNUM too."""
    return _headed(_hashes(properties), _body(properties))


def _body(properties: Mapping[str, str]) -> bytes:
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in properties.items())


def _hashes(properties: Mapping[str, str]) -> tuple[int, ...]:
    """What the listeners' filters look at."""
    subsystem = murmur2(properties["SUBSYSTEM"].encode())
    devtype = properties.get("DEVTYPE", "")
    bloom = _bloom(properties.get("CURRENT_TAGS", properties.get("TAGS", "")))
    return (
        socket.htonl(subsystem),
        socket.htonl(murmur2(devtype.encode())) if devtype else 0,
        socket.htonl(bloom >> 32),
        socket.htonl(bloom & _MASK),
    )


def _headed(hashes: tuple[int, ...], body: bytes) -> bytes:
    size = _HEADER.size
    return _HEADER.pack(_PREFIX, socket.htonl(_MAGIC), size, size, len(body), *hashes) + body


class News(NamedTuple):
    """What is said of a device, but for the number: made before there is a hurry to say it."""

    kernel: bytes
    hashes: tuple[int, ...]
    udev: bytes


def news(action: str, path: str, properties: Mapping[str, str]) -> News:
    """action: `add`, `remove` or `change`. path: in sysfs, from /devices on. properties: udev's;
    SUBSYSTEM is needed, DEVNAME is the whole path of the node."""
    kernel = {key: properties[key] for key in ("SUBSYSTEM", "MAJOR", "MINOR") if key in properties}
    if "DEVNAME" in properties:
        kernel["DEVNAME"] = os.path.relpath(properties["DEVNAME"], "/dev")
    body = kernel_message(action, path, kernel)
    full = {
        "ACTION": action,
        "DEVPATH": path,
        **{k: v for k, v in properties.items() if k not in ("ACTION", "DEVPATH", "SEQNUM")},
    }
    message = netlink.pack(_NLMSG_MIN_TYPE, netlink.NLM_F_REQUEST, 0, body)
    return News(message, _hashes(full), _body(full))


class Announcer:
    """Says in one network namespace that devices came and went. Owns its socket until `close`.

    owner: whom the messages are from (SCM_CREDENTIALS, unix(7)): user 0 of the VM, as the machine
    numbers it. libudev believes no other.
    """

    def __init__(self, netns_fd: int, owner: int = 0) -> None:
        self._from = struct.pack("3i", os.getpid(), owner, owner)
        self._socket = socket_at(
            netns_fd, socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT
        )
        self._socket.setblocking(False)
        self._sequence = 0

    def say(self, what: News) -> None:
        """Raises OSError."""
        self._sequence += 1
        self._send(what.kernel, 0)
        self._udev(_headed(what.hashes, what.udev + b"SEQNUM=%d\0" % self._sequence))

    def _udev(self, message: bytes) -> None:
        try:
            self._send(message, UDEV_GROUP)
        except ConnectionRefusedError:
            return  # nobody listens

    def _send(self, message: bytes, group: int) -> None:
        sender = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, self._from)
        self._socket.sendmsg([message], [sender], 0, (0, group))

    def close(self) -> None:
        """Close the socket. Twice is harmless."""
        self._socket.close()
