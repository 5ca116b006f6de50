# SPDX-License-Identifier: Apache-2.0
"""Datagrams.

udp.py send HOST PORT COUNT [SOURCE [SIZE]]  numbered, from one port (0: any); SIZE: bytes
udp.py many HOST PORT COUNT HEX              each from a socket of its own
udp.py echo PORT [COUNT]                     says `up`, and sends back what comes
udp.py ask HOST PORT COUNT SIZE              one after the other; says `all back`
udp.py say HOST PORT TEXT SECONDS            says the answer, or `nothing`, or `refused`
udp.py take PORT COUNT                       says `up`, and receives so many
udp.py full PORT BYTES                       says `up`, receives nothing before a line comes in;
                                             then says how many its buffer had kept
udp.py ttls                                  by the socket that is file 0: says `up`, and receives
                                             until `end` comes; says how many came with which
                                             TTL, how many were late
udp.py pace HOST PORT SECONDS                from port 4000, one each SECONDS, with its number
                                             and the time, until a line comes in; says how many
udp.py clock HOST PORT                       says `ready`, and receives those until a line comes
                                             in; says number, time sent and received of each
"""

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

IP_RECVTTL = 12
STAMP = struct.Struct("!Qd")


def opened(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)


def number(n: int, size: int) -> bytes:
    return n.to_bytes(4, "big") * (size // 4)


def send(host: str, port: str, count: str, source: str = "0", size: str = "64") -> None:
    sock = opened(host)
    sock.bind(("", int(source)))
    for n in range(int(count)):
        sock.sendto(number(n, int(size)), (host, int(port)))


def many(host: str, port: str, count: str, text: str) -> None:
    for _ in range(int(count)):
        with opened(host) as sock:
            sock.sendto(bytes.fromhex(text), (host, int(port)))


def echo(port: str, count: str = "0") -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("::", int(port)))
    print("up")
    left = int(count) or -1
    while left:
        data, where = sock.recvfrom(65535)
        sock.sendto(data, where)
        left -= 1


def ask(host: str, port: str, count: str, size: str) -> None:
    sock = opened(host)
    sock.settimeout(3)
    sock.connect((host, int(port)))
    for n in range(int(count)):
        sock.send(number(n, int(size)))
        assert sock.recv(65535)[:4] == n.to_bytes(4, "big")
    print("all back")


def say(host: str, port: str, text: str, seconds: str) -> None:
    sock = opened(host)
    sock.settimeout(float(seconds))
    sock.connect((host, int(port)))
    sock.send(text.encode())
    try:
        print(sock.recv(2000).decode())
    except TimeoutError:
        print("nothing")
    except ConnectionRefusedError:
        print("refused")


def take(port: str, count: str) -> None:
    sock = opened("")
    sock.bind(("", int(port)))
    print("up")
    for _ in range(int(count)):
        sock.recv(100)


def full(port: str, size: str) -> None:
    sock = opened("")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(size))
    sock.bind(("", int(port)))
    print("up")
    sys.stdin.readline()
    sock.setblocking(False)
    kept = 0
    try:
        while sock.recv(100):
            kept += 1
    except BlockingIOError:
        print(kept)


def ttls() -> None:
    sock = socket.socket(fileno=0)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    print("up")
    found: dict[int, int] = {}
    last, late, count = -1, 0, 0
    while True:
        data, extra, _, _ = sock.recvmsg(64, 64)
        if data == b"end":
            break
        ttl = int.from_bytes(extra[0][2], "little")
        found[ttl] = found.get(ttl, 0) + 1
        got = int.from_bytes(data[:8], "big")
        late += got < last
        last = max(last, got)
        count += 1
    print(json.dumps({"ttls": found, "late": late, "count": count, "last": last}))


def pace(host: str, port: str, seconds: str) -> None:
    sock = opened(host)
    sock.bind(("", 4000))
    sent, due = 0, time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        due += float(seconds)
        sock.sendto(STAMP.pack(sent, time.monotonic()), (host, int(port)))
        sent += 1
    print(sent)


def clock(host: str, port: str) -> None:
    sock = opened(host)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((host, int(port)))
    print("ready")
    seen = []
    while True:
        ready = select.select([sock, sys.stdin], [], [])[0]
        if sock in ready:
            got, sent = STAMP.unpack(sock.recv(2048))
            seen.append((got, sent, time.monotonic()))
        elif sys.stdin in ready:
            break
    print(json.dumps(seen))


COMMANDS: dict[str, Callable[..., None]] = {
    "send": send, "many": many, "echo": echo, "ask": ask, "say": say, "take": take, "full": full,
    "ttls": ttls, "pace": pace, "clock": clock,
}  # fmt: skip
COMMANDS[sys.argv[1]](*sys.argv[2:])
