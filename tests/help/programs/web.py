# SPDX-License-Identifier: Apache-2.0
"""HTTP.

web.py ok PORT                     says `up`, and answers every request with `ok`
web.py ask HOST PORT NAME          ten requests for NAME over one connection; says its own port
web.py say HOST PORT OWN HEX       from port OWN: says these bytes, `up`, and line after line
web.py files FOLDER PORT [CERT]    serves files, with a CERT (and its key in it) by TLS; says
                                   address and port of each that asks
"""

import functools
import http.client
import http.server
import select
import socket
import ssl
import sys
from collections.abc import Callable


class Ok(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        print(*self.client_address[:2])


def ok(port: str) -> None:
    server = http.server.ThreadingHTTPServer(("", int(port)), Ok)
    print("up")
    server.serve_forever()


def ask(host: str, port: str, name: str) -> None:
    peer = http.client.HTTPConnection(host, int(port), timeout=5)
    own = 0
    for _ in range(10):
        peer.request("GET", "/", headers={"Host": name})
        own = peer.sock.getsockname()[1]
        answer = peer.getresponse()
        answer.read()
        assert answer.status == 200
    print(own)


def say(host: str, port: str, own: str, text: str) -> None:
    with socket.create_connection((host, int(port)), 5, ("", int(own))) as peer:
        peer.sendall(bytes.fromhex(text))
        print("up")
        while not select.select([peer], [], [], 0.02)[0]:
            peer.sendall(b"\r\n")


def files(folder: str, port: str, cert: str = "") -> None:
    handler = functools.partial(Files, directory=folder)
    server = http.server.ThreadingHTTPServer(("", int(port)), handler)
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


COMMANDS: dict[str, Callable[..., None]] = {"ok": ok, "ask": ask, "say": say, "files": files}
COMMANDS[sys.argv[1]](*sys.argv[2:])
