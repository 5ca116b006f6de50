"""What a hostile OS does; run inside an OS by test_hostile.py.

    hostile.py keep NODE         opens NODE, dups it, hides copies of it, and reports what is read
    hostile.py flood             floods the agent socket with garbage, half and huge messages

`keep` prints `ready` once it has every copy, and `leak N` for N bytes read from copies that were
fetched back after the flip (a line is asked for by a line on standard input), then `end`.
"""

import array
import os
import socket
import struct
import sys
import threading

PATH = "/run/hostsim/agent.sock"
CLONE_FILES = 0x400


def keep(node: str) -> None:
    """Copies: dup, another process, a socket's queue, a queue in a queue, a listener's backlog."""
    fd = os.open(node, os.O_RDONLY | os.O_NONBLOCK)
    os.dup(fd)
    if os.fork() == 0:
        threading.Event().wait()
    a, b = socket.socketpair()
    socket.send_fds(a, [b"x" * 5000], [fd])
    c, d = socket.socketpair()
    inner, outer = socket.socketpair()
    socket.send_fds(inner, [b"y"], [fd])
    socket.send_fds(c, [b"z"], [outer.fileno()])
    outer.close()
    e, f = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    e.send(b"first")
    socket.send_fds(e, [b"second"], [fd])
    os.close(fd)
    print("ready", flush=True)
    sys.stdin.readline()
    found = []
    found += fetch(b, 5000)
    for fd in fetch(d, 1):
        found += fetch(socket.socket(fileno=fd), 1)
    f.recv(100)
    found += fetch(f, 100)
    total = 0
    for fd in found:
        try:
            total += len(os.read(fd, 4096))
        except OSError:
            continue
    print(f"copies {len(found)}", flush=True)
    print(f"leak {total}", flush=True)
    for link in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{link}").startswith("/dev/input"):
                os.open(f"/proc/self/fd/{link}", os.O_RDONLY)
                print("reopened", flush=True)
        except OSError:
            continue
    print("end", flush=True)


def fetch(sock: socket.socket, size: int) -> list[int]:
    _, data, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(64))
    fds = array.array("i")
    for _, _, raw in data:
        fds.frombytes(raw)
    return list(fds)


def flood() -> None:
    """For ever: whatever a socket takes."""
    header = struct.Struct("=2sBBI")
    shapes = [
        b"",
        b"h",
        b"\xff" * 9000,
        header.pack(b"hA", 1, 6, 1),  # RELEASED, though it is not the resident agent
        header.pack(b"hA", 1, 1, 1),  # HELLO
        header.pack(b"hA", 1, 2, 1) + b"mars",
        header.pack(b"hA", 1, 2, 1) + b"play",
        header.pack(b"hA", 1, 19, 1) + b"{}",
        header.pack(b"hA", 9, 4, 1),
    ]
    held: list[socket.socket] = []
    print("ready", flush=True)
    while True:
        for shape in shapes:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.setblocking(False)
            try:
                sock.connect(PATH)
                for _ in range(20):
                    sock.send(shape)
            except OSError:
                pass
            held.append(sock)
            if len(held) > 100:
                for one in held:
                    one.close()
                held.clear()


if sys.argv[1] == "keep":
    keep(sys.argv[2])
else:
    flood()
