# SPDX-License-Identifier: Apache-2.0
"""How long the daemon's loop is busy at a stretch while much is asked of it, and done to it.

A host of many VMs with a route through each; an endpoint that has opened as many flows as its ports
allow, and then asks for a new name with each datagram, so that every connection's contents come to
the daemon; five clients that ask for flows, rules, the books, an explanation and the status, again
and again; with --changing, two more that restart VMs, and impair a link and mend it. The value is
the daemon's own `loop_ms`, the longest stretch; what it was goes to stderr.
"""

import argparse
import contextlib
import itertools
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from hostsim.bench import common
from hostsim.cli import client
from hostsim.errors import HostsimError
from hostsim.model import Json

HOST = "bench-loop"
CLIENT, SERVER = "198.18.255.1", "198.18.255.2"
FLOW = f"udp:{CLIENT}:10001>{SERVER}:1001"
OPEN = f"""
import socket
for port in range(10001, 60001):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("{CLIENT}", port))
            sock.sendto(b"x", ("{SERVER}", 1001 + port % MANY))
        except OSError:
            pass
"""
ASK = f"""
import socket
number = 0
while True:
    name = str(number).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        head = bytes([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(name)])
        sock.sendto(head + name + b"\\x07example\\0\\0\\1\\0\\1", ("{SERVER}", 53))
    number += 1
"""
QUESTIONS: tuple[tuple[str, dict[str, str]], ...] = (
    ("flows", {}),
    ("rules", {}),
    ("verify", {}),
    ("explain", {"vm": "client", "flow": FLOW}),
    ("status", {}),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench loop`."""
    common.add_arguments(parser, ["stall"], runs=1)
    parser.add_argument("--vms", type=int, default=300, metavar="N", help="default 300")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="default 10")
    parser.add_argument(
        "--changing", action="store_true", help="restart VMs and impair a link meanwhile"
    )


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    stall = common.Case("stall", "ms", lambda: ours(options.vms, options.seconds, options.changing))
    return common.run("loop", [stall], options)


def host_file(vms: int) -> str:
    """The host: VMs v1 and up, a route through each, one by contents, and the two ends."""
    lines = [f'[host]\nname = "{HOST}"\n']
    lines += [
        f'[[endpoint]]\nname = "{name}"\naddress = "{address}/15"\n'
        for name, address in (("client", CLIENT), ("server", SERVER))
    ]
    for n in range(1, vms + 1):
        lines.append(f'[[vm]]\nname = "v{n}"\naddress = "198.18.{n >> 8}.{n & 255}/15"\n')
    wanted = 'proto = "udp", dport = 53, dns_name = "*.example"'
    lines.append(f'[[route]]\nmatch = {{ {wanted} }}\nthrough = ["v1"]\n')
    for n in range(1, vms + 1):
        wanted = f'proto = "udp", dport = {1000 + n}'
        lines.append(f'[[route]]\nmatch = {{ {wanted} }}\nthrough = ["v{n}"]\n')
    return "".join(lines)


def ours(vms: int, seconds: float, changing: bool = False) -> float:
    """The longest stretch in ms."""
    inside = common.hostsim("--host", HOST, "exec", "client", "--", sys.executable, "-c")
    with tempfile.TemporaryDirectory(prefix="hostsim-bench-") as folder:
        file = Path(folder) / "host.toml"
        file.write_text(host_file(vms))
        common.timed("loop", common.hostsim("up", str(file)))
        try:
            common.timed("loop", [*inside, OPEN.replace("MANY", str(vms))])
            with subprocess.Popen([*inside, ASK], stdin=subprocess.DEVNULL) as flood:
                try:
                    return _asked(seconds, changing)
                finally:
                    flood.kill()
        finally:
            common.timed("loop", common.hostsim("down", HOST))


def _asked(seconds: float, changing: bool) -> float:
    """Ask in five threads for so long; the longest stretch that the daemon tells of meanwhile."""
    client.ask(HOST, "status")
    ended = threading.Event()
    longest: list[tuple[float, str]] = []
    work: list[float] = []

    def asking(op: str, words: dict[str, str]) -> None:
        while not ended.is_set():
            with contextlib.suppress(HostsimError):
                answer = client.ask(HOST, op, **words)
                if op == "status":
                    longest.append((answer["loop_ms"], answer["loop_what"]))
                    work.append(answer["loop_cpu_ms"])

    def restarting() -> None:
        for name in itertools.cycle(("v2", "v3")):
            if ended.is_set():
                return
            client.ask(HOST, "restart", vm=name)

    def impairing() -> None:
        for words in itertools.cycle((["loss=1%"], [])):
            if ended.is_set() and words:
                return
            client.ask(HOST, "link", of="v4", direction="both", words=words)

    threads = [threading.Thread(target=asking, args=one) for one in QUESTIONS]
    if changing:
        threads += [threading.Thread(target=one) for one in (restarting, impairing)]
    for thread in threads:
        thread.start()
    ended.wait(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    last = client.ask(HOST, "status")
    longest.append((float(last["loop_ms"]), str(last["loop_what"])))
    work.append(float(last["loop_cpu_ms"]))
    ms, what = max(longest)
    said = f"{ms:.1f} ms: {what}; at most {max(work):.1f} ms of it are the loop's own"
    print(f"hostsim: bench loop: {said}", file=sys.stderr)
    return ms
