# SPDX-License-Identifier: Apache-2.0
"""What user 0 of a VM may try against the rest of the machine, as a program that runs in the VM.

    escape.py netnsid INDEX     links of the namespace at the other end of eth0: listed, one added,
                                number INDEX deleted (IFLA_TARGET_NETNSID, rtnetlink(7))
    escape.py socket            the namespace of the socket that is file 0 (SIOCGSKNS), and a link
                                into it
    escape.py calls NAME=NUMBER[,ARGUMENT...]...   each system call; without arguments, with such
                                that reach no harm
    escape.py families          socket(2) and socketpair(2) of every family

Prints a JSON object: what was tried, and the name of its error, or "done".
"""

import ctypes
import errno
import fcntl
import json
import socket
import struct
import sys
from collections.abc import Callable, Iterator

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
REQUEST_ACK, DUMP, CREATE_EXCL = 5, 0x300, 0x600
IFLA_IFNAME, IFLA_LINKINFO, IFLA_NET_NS_FD, IFLA_TARGET_NETNSID = 3, 18, 28, 46
INFO_KIND, INFO_DATA, PEER = 1, 2, 1
NLMSG_ERROR, NLMSG_DONE = 2, 3
SIOCGSKNS = 0x894C

libc = ctypes.CDLL(None, use_errno=True)


def attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def link(index: int, *attributes: bytes, up: bool = False) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, up, up) + b"".join(attributes)


def ask(kind: int, flags: int, body: bytes) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.bind((0, 0))
        sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags | REQUEST_ACK, 1, 0) + body)
        while True:
            data = sock.recv(1 << 18)
            at = 0
            while at < len(data):
                length, answer = struct.unpack_from("=IH", data, at)
                if answer in (NLMSG_ERROR, NLMSG_DONE):
                    (code,) = struct.unpack_from("=i", data, at + 16)
                    return errno.errorcode[-code] if code else "done"
                at += (length + 3) & ~3


def veth(name: bytes, peer: bytes) -> bytes:
    info = attribute(INFO_KIND, b"veth\0") + attribute(INFO_DATA, attribute(PEER, peer))
    return attribute(IFLA_IFNAME, name + b"\0") + attribute(IFLA_LINKINFO, info)


def netnsid(index: str) -> Iterator[tuple[str, str]]:
    ask(RTM_GETLINK, DUMP, link(0))  # the kernel numbers the other end's namespace when it is shown
    there = attribute(IFLA_TARGET_NETNSID, struct.pack("=i", 0))
    yield "list", ask(RTM_GETLINK, DUMP, link(0, there))
    peer = link(0, attribute(IFLA_IFNAME, b"mine\0"))
    yield "add", ask(RTM_NEWLINK, CREATE_EXCL, link(0, veth(b"evil", peer), there, up=True))
    yield "delete", ask(RTM_DELLINK, 0, link(int(index), there))


def handed() -> Iterator[tuple[str, str]]:
    try:
        namespace = fcntl.ioctl(0, SIOCGSKNS)
    except OSError as error:
        yield "namespace", errno.errorcode[error.errno or 0]
        return
    yield "namespace", "done"
    into = attribute(IFLA_NET_NS_FD, struct.pack("=I", namespace))
    peer = link(0, attribute(IFLA_IFNAME, b"hsevil1\0"), into)
    yield "link", ask(RTM_NEWLINK, CREATE_EXCL, link(0, veth(b"toward", peer)))


def result(returned: int) -> str:
    return errno.errorcode[ctypes.get_errno()] if returned < 0 else "done"


def calls(*named: str) -> Iterator[tuple[str, str]]:
    for one in named:
        name, _, words = one.partition("=")
        number, *given = map(int, words.split(","))
        arguments = given + [0] * (6 - len(given)) if given else [-1] * 6
        yield name, result(libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)))


def families() -> Iterator[tuple[str, str]]:
    number: Callable[[int], ctypes.c_long] = ctypes.c_long
    pair = (ctypes.c_int * 2)()
    for family in (*range(64), 1 << 20, (1 << 32) + socket.AF_VSOCK):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            for name, arguments in (
                ("socket", (number(41), number(family), number(kind), number(0))),
                ("socketpair", (number(53), number(family), number(kind), number(0), pair)),
            ):
                yield f"{name} {family} {int(kind)}", result(libc.syscall(*arguments))


if __name__ == "__main__":
    tries: dict[str, Callable[..., Iterator[tuple[str, str]]]] = {
        "netnsid": netnsid,
        "socket": handed,
        "calls": calls,
        "families": families,
    }
    print(json.dumps(dict(tries[sys.argv[1]](*sys.argv[2:]))))
