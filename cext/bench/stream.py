# SPDX-License-Identifier: Apache-2.0
"""A numbered UDP stream: wraps bench/stream.h. As a program, it is one end of it, in a VM:

    python -m cext.bench.stream send ADDRESS PORT SIZE COUNT MS RATE
    python -m cext.bench.stream receive COUNT QUIET_MS     (by file 0: what `listener` makes)

Each prints what it counted as one JSON line.
"""

import json
import socket
import sys
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.ns.netns import socket_at

FIELDS = ("packets", "lost", "reordered", "doubled", "refused", "ns", "cpu_ns")
BUFFER = 32 << 20  # bytes; the receiver must not be what loses


def send(sock: socket.socket, size: int, count: int, ms: int, rate: int) -> dict[str, int]:
    """Send on a connected socket; see hs_stream_send. Raises OSError."""
    out = ffi.new("struct hs_stream *")
    check(lib.hs_stream_send(sock.fileno(), size, count, ms, rate, out), "stream")
    return _counts(out)


def receive(sock: socket.socket, count: int, quiet_ms: int) -> dict[str, int]:
    """Receive on a bound socket; see hs_stream_receive. Raises OSError."""
    out = ffi.new("struct hs_stream *")
    check(lib.hs_stream_receive(sock.fileno(), count, quiet_ms, out), "stream")
    return _counts(out)


def listener(netns_fd: int, port: int) -> socket.socket:
    """A socket of that namespace for `receive`, with a buffer beyond the machine's limit
    (SO_RCVBUFFORCE), which nobody in a VM may ask for. Raises OSError."""
    sock = socket_at(netns_fd, socket.AF_INET6, socket.SOCK_DGRAM, 0)
    sock.setsockopt(socket.SOL_SOCKET, 33, BUFFER)
    sock.bind(("::", port))
    return sock


def _counts(out: Any) -> dict[str, int]:
    return {name: int(getattr(out, name)) for name in FIELDS}


def main(words: list[str]) -> None:
    if words[0] == "send":
        address, numbers = words[1], [int(word) for word in words[2:]]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, numbers[0]))
            print(json.dumps(send(sock, *numbers[1:])), flush=True)
        return
    count, quiet = (int(word) for word in words[1:])
    with socket.socket(fileno=0) as sock:
        print("up", flush=True)
        print(json.dumps(receive(sock, count, quiet)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
