# SPDX-License-Identifier: Apache-2.0
"""Frames, put on a device as they are (packet(7)).

raw.py frames DEVICE               those in a JSON list on standard input, in hexadecimal
raw.py repeat DEVICE COUNT HEX     one, so many times, filled up to 60 bytes
raw.py wrong DEVICE COUNT HEAD     that many, HEAD (both addresses) and then IP of either version
                                   with bytes changed and ends cut off; always the same ones
raw.py fragments COUNT BYTES       first fragments of 60 kB, to oneself, of which nobody sends the
                                   rest, after an attempt to have BYTES of them held; says how many
                                   bytes are (lo is brought up)
raw.py syn ADDRESS                 a TCP SYN by scapy to port 80; says flags, address and TTL of
                                   the answer
"""

import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

V4 = bytes.fromhex("08004500003400010000401100000a0000010a00000204d2000900200000") + bytes(40)
V6 = bytes.fromhex("86dd6000000000282c40") + bytes(15) + b"1" + bytes(15) + b"2" + bytes(48)
ETH_P_IP = 0x800


def opened(device: str) -> socket.socket:
    """It receives nothing."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((device, 0))
    return raw


def frames(device: str) -> None:
    raw = opened(device)
    for frame in json.load(sys.stdin):
        raw.send(bytes.fromhex(frame))


def fragments(count: str, most: str) -> None:
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/ipfrag_high_thresh").write_text(most)
    here = socket.inet_aton("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(int(count)):
            size, more = 20 + 60000, 0x2000
            head = struct.pack("!BBHHHBBH", 0x45, 0, size, number, more, 64, 17, 0)
            raw.sendto(head + here + here + bytes(60000), ("127.0.0.1", 0))
    lines = Path("/proc/net/sockstat").read_text().splitlines()
    (held,) = [line.split()[4] for line in lines if line.startswith("FRAG:")]
    print(held)


def repeat(device: str, count: str, frame: str) -> None:
    raw = opened(device)
    for _ in range(int(count)):
        raw.send(bytes.fromhex(frame).ljust(60, bytes(1)))


def wrong(device: str, count: str, head: str) -> None:
    draw = random.Random(7)
    raw = opened(device)
    for n in range(int(count)):
        body = bytearray(draw.choice((V4, V6)))
        for _ in range(draw.randrange(4)):
            body[draw.randrange(2, len(body))] = draw.randrange(256)
        if n % 2:
            body[8 if body[0] == 8 else 9] = draw.randrange(256)
        raw.send((bytes.fromhex(head) + bytes(body))[: draw.randrange(14, 80)])


def syn(address: str) -> None:
    from scapy.layers.inet import IP, TCP
    from scapy.sendrecv import sr1

    ask = IP(dst=address) / TCP(sport=4321, dport=80, flags="S")
    answer = sr1(ask, timeout=5, verbose=0)
    assert answer is not None
    print(answer[TCP].flags, answer[IP].src, answer[IP].ttl)


COMMANDS: dict[str, Callable[..., None]] = {
    "frames": frames, "fragments": fragments, "repeat": repeat, "wrong": wrong, "syn": syn,
}  # fmt: skip
COMMANDS[sys.argv[1]](*sys.argv[2:])
