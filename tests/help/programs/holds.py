# SPDX-License-Identifier: Apache-2.0
"""What a program may hold of the kernel's memory by sockets.

holds.py packet BYTES COUNT     rings of so many bytes, to receive, one by one; says how many it got
holds.py send BYTES COUNT       the same, to send
holds.py again BYTES COUNT      one ring at a time, each closed before the next, COUNT times; tries
                                each for 20 s; says how many it got
holds.py threads BYTES COUNT    as `packet`, by 8 threads at once, COUNT each
holds.py same BYTES COUNT       as `threads`, on one socket
holds.py xdp ENTRIES COUNT      AF_XDP sockets with a ring of so many entries
holds.py umem BYTES COUNT       AF_XDP sockets with a umem of so many bytes
holds.py queues BYTES COUNT     packet sockets that ask for a queue of so many bytes, until one gets
                                less than the first: ENOBUFS
holds.py groups MEMBERS COUNT   packet sockets, each with a fanout group of so many members
holds.py sockets 0 COUNT        netlink sockets
holds.py narrow BYTES COUNT     as `packet`, by the system calls of 32 bits
holds.py long BYTES 1           an option that is longer than a page, and none of these

Each stays until standard input ends, and says why it got no more: an errno's name, or `all`.
"""

import collections
import ctypes
import errno
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time

SOL_PACKET, PACKET_RX_RING, PACKET_TX_RING, PACKET_FANOUT = 263, 5, 13, 18
SOL_XDP, XDP_RX_RING, XDP_UMEM_REG, AF_XDP = 283, 2, 4, 44
NARROW = "53 89fb 89c8 89f1 89c6 4489c7 b8 6e010000 cd80 5b c3"
"""setsockopt(edi, esi, edx, ecx, r8d): push rbx; mov ebx, edi; mov eax, ecx; mov ecx, esi;
mov esi, eax; mov edi, r8d; mov eax, 366; int 0x80; pop rbx; ret."""
BLOCK = 1 << 16

kind, size, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
kept: list[object] = []
queues: list[int] = []
got: collections.Counter[str] = collections.Counter()
request = struct.pack("=4I", BLOCK, size // BLOCK, 2048, size // 2048)


def packet() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)


def ring(option: int, here: socket.socket | None = None) -> None:
    one = here or packet()
    one.setsockopt(SOL_PACKET, option, request)
    kept.append(one)


def again() -> None:
    end = time.monotonic() + 20
    while True:
        with packet() as one:
            try:
                one.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                select.select([], [], [], 0.01)


def xdp(option: int, value: bytes) -> None:
    one = socket.socket(AF_XDP, socket.SOCK_RAW, 0)
    one.setsockopt(SOL_XDP, option, value)
    kept.append(one)


def umem() -> None:
    area = mmap.mmap(-1, size)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    kept.append(area)
    xdp(XDP_UMEM_REG, struct.pack("=QQIIII", start, size, 2048, 0, 0, 0))


def queue() -> None:
    one = packet()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    queues.append(one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
    if queues[-1] < queues[0]:
        raise OSError(errno.ENOBUFS, "a shorter one")
    kept.append(one)


def group() -> None:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    one.setsockopt(SOL_PACKET, PACKET_FANOUT, struct.pack("=HHI", len(kept), 0, size))
    kept.append(one)


def narrow() -> None:
    low = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)  # MAP_32BIT
    low.write(request)
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex(NARROW.replace(" ", "")))
    call = ctypes.CFUNCTYPE(*[ctypes.c_int] * 3, ctypes.c_int, ctypes.c_uint32, ctypes.c_int)(
        ctypes.addressof(ctypes.c_char.from_buffer(code))
    )
    at = ctypes.addressof(ctypes.c_char.from_buffer(low))
    one = packet()
    said = call(one.fileno(), SOL_PACKET, PACKET_RX_RING, at, len(request))
    if said < 0:
        raise OSError(-said, os.strerror(-said))
    kept.append(one)


def long() -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo".ljust(size, b"\0"))


one_for_all = packet() if kind == "same" else None
DO = {
    "packet": lambda: ring(PACKET_RX_RING),
    "send": lambda: ring(PACKET_TX_RING),
    "again": again,
    "threads": lambda: ring(PACKET_RX_RING),
    "same": lambda: ring(PACKET_RX_RING, one_for_all),
    "xdp": lambda: xdp(XDP_RX_RING, struct.pack("=I", size)),
    "umem": umem,
    "queues": queue,
    "groups": group,
    "sockets": lambda: kept.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    "narrow": narrow,
    "long": long,
}


def several() -> None:
    for _ in range(count):
        try:
            DO[kind]()
            got["got"] += 1
        except OSError as error:
            got[errno.errorcode[error.errno or 0]] += 1
            if kind != "same":
                break


if kind in ("threads", "same"):
    workers = [threading.Thread(target=several) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
else:
    several()
why = next((name for name in got if name != "got"), "all")
print(got["got"], why, flush=True)
sys.stdin.read()
