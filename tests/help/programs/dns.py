# SPDX-License-Identifier: Apache-2.0
"""DNS by UDP (RFC 1035), at port 53.

dns.py serve            says `up`, and answers every question with 198.18.0.99
dns.py ask HOST NAME    asks five times from one port, for an A record; says the port
"""

import socket
import sys
from collections.abc import Callable

HEADER = 12
REQUEST = "01000001000000000000"
RESPONSE = "85800001000100000000"
ANSWER = "c00c000100010000003c0004c6120063"  # the name at 12, A, IN, 60 s, 198.18.0.99
IDENTITY = bytes.fromhex("1234")


def serve() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", 53))
    print("up")
    while True:
        data, where = sock.recvfrom(512)
        end = HEADER
        while data[end]:
            end += data[end] + 1
        question = data[HEADER : end + 5]
        sock.sendto(data[:2] + bytes.fromhex(RESPONSE) + question + bytes.fromhex(ANSWER), where)


def ask(host: str, name: str) -> None:
    labels = b"".join(bytes([len(word)]) + word.encode() for word in name.split("."))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.connect((host, 53))
    for _ in range(5):
        sock.send(IDENTITY + bytes.fromhex(REQUEST) + labels + bytes([0, 0, 1, 0, 1]))
        assert sock.recv(512)[:2] == IDENTITY
    print(sock.getsockname()[1])


COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "ask": ask}
COMMANDS[sys.argv[1]](*sys.argv[2:])
