# SPDX-License-Identifier: Apache-2.0
"""Connections.

tcp.py echo ADDRESS PORT             says `ready`, and sends back what comes, to many at once
tcp.py talk HOST PORT SECONDS FILE   a number each SECONDS, which has to come back before the
                                     next goes; the last that came back is in FILE
tcp.py sink PORT                     says `up`; takes what comes, and says `done` to each peer
tcp.py fill HOST PORT BYTES          sends so many to a sink; says its own port
tcp.py connect HOST PORT SECONDS     says `connected`
tcp.py silent PORT                   says `up`; takes connections, and never looks at them
tcp.py pieces HOST PORT COUNT        `GET /`, and then a byte at a time, COUNT pieces in all
tcp.py begin HOST PORT COUNT         so many connections that begin a word and end
tcp.py tls-echo CERT KEY PORT        says `up`, and sends back what comes, by TLS
tcp.py tls-say HOST PORT NAME        asks for NAME by TLS, and has 20 kB sent back; says its own
                                     port
"""

import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable


def echo(address: str, port: str) -> None:
    server = socket.create_server((address, int(port)))
    print("ready")
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],)).start()


def serve(peer: socket.socket) -> None:
    while data := peer.recv(65536):
        peer.sendall(data)


def talk(host: str, port: str, seconds: str, file: str) -> None:
    peer = socket.create_connection((host, int(port)))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(1_000_000):
        peer.send(b"%d\n" % number)
        assert peer.recv(100) == b"%d\n" % number
        with open(file, "w") as out:
            out.write(str(number))
        threading.Event().wait(float(seconds))


def sink(port: str) -> None:
    listener = socket.create_server(("", int(port)))
    print("up")
    while True:
        peer = listener.accept()[0]
        while peer.recv(1 << 20):
            pass
        peer.sendall(b"done")
        peer.close()


def fill(host: str, port: str, size: str) -> None:
    peer = socket.create_connection((host, int(port)), 5)
    peer.sendall(b"x" * int(size))
    peer.shutdown(socket.SHUT_WR)
    assert peer.recv(4) == b"done"
    print(peer.getsockname()[1])


def connect(host: str, port: str, seconds: str) -> None:
    socket.create_connection((host, int(port)), float(seconds))
    print("connected")


def silent(port: str) -> None:
    listener = socket.create_server(("", int(port)), backlog=4096)
    print("up")
    signal.pause()
    listener.close()


def pieces(host: str, port: str, count: str) -> None:
    peer = socket.create_connection((host, int(port)))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for n in range(int(count)):
        peer.send(b"x" if n else b"GET /")


def begin(host: str, port: str, count: str) -> None:
    for _ in range(int(count)):
        with socket.create_connection((host, int(port))) as peer:
            peer.send(b"GE")


def tls_echo(cert: str, key: str, port: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = socket.create_server(("", int(port)))
    print("up")
    while True:
        with context.wrap_socket(listener.accept()[0], server_side=True) as peer:
            serve(peer)


def tls_say(host: str, port: str, name: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection((host, int(port)), 5)
    with context.wrap_socket(raw, server_hostname=name) as peer:
        for _ in range(20):
            peer.sendall(b"x" * 1000)
            got = 0
            while got < 1000:
                got += len(peer.recv(65536))
        print(peer.getsockname()[1])


COMMANDS: dict[str, Callable[..., None]] = {
    "echo": echo, "talk": talk, "sink": sink, "fill": fill, "connect": connect, "silent": silent,
    "pieces": pieces, "begin": begin, "tls-echo": tls_echo, "tls-say": tls_say,
}  # fmt: skip
COMMANDS[sys.argv[1]](*sys.argv[2:])
