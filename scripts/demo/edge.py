"""The demo of host `edge`: real traffic through a chain of VMs, by the switch and past it."""

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TextIO

from stage import (
    HOSTSIM,
    Failed,
    ask,
    console,
    expect,
    headline,
    host,
    main,
    note,
    pause,
    run,
    show,
    table,
    until,
)

import hostsim

SERVER = "198.18.0.20"
PORT = 40001
FLOW = f"tcp:198.18.0.10:{PORT}>{SERVER}:5201"
TURNS = 3  # of each policy
WINDOW = 1.5  # seconds of each turn
INTERVAL = 0.25  # seconds between two of iperf3's figures
PINGS = 200
POLICIES = ("never", "auto")
LISTEN = """
import socket
listener = socket.create_server(("", 23))
print("up", flush=True)
while True:
    listener.accept()[0].sendall(b"login: ")
"""


@dataclass
class Turn:
    """A stretch of time under one policy."""

    policy: str
    packets: dict[str, int]
    gbits: float
    rtt_us: float = 0.0


def inside(vm: str, *words: str) -> tuple[str, ...]:
    return (HOSTSIM, "exec", vm, "--", *words)


def talking(words: list[str]) -> subprocess.Popen[str]:
    """A program whose lines we read; what it says on stderr is among them."""
    out, err = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True)


def hop_packets() -> dict[str, int]:
    """Packets of the flow that left fw for ids, by path."""
    found = [row for row in ask("flows") if row["key"] == FLOW]
    hops = [hop for row in found for hop in row["hops"] if hop["vm"] == "fw"]
    return {path: count["packets"] for hop in hops for path, count in hop["paths"].items()}


def policies(folder: str) -> dict[str, str]:
    """Host files of the same VMs: edge as it ships, and with every bypass forbidden."""
    shipped = Path(hostsim.__file__).parent / "hosts" / "edge.toml"
    never = Path(folder) / "never.toml"
    never.write_text(shipped.read_text().replace('bypass = "auto"', 'bypass = "never"'))
    return {"never": str(never), "auto": str(shipped)}


def read_figures(lines: TextIO, figures: list[tuple[float, float]]) -> None:
    """iperf3's throughput in Gbit/s, with the time it was said."""
    for line in lines:
        found = re.search(r"([\d.]+) Mbits/sec", line)
        if found is not None:
            figures.append((time.monotonic(), float(found[1]) / 1000))


def take_turns(files: dict[str, str]) -> list[Turn]:
    """One TCP connection, while the policy changes under it; then pings, in the same way."""
    turns: list[Turn] = []
    seconds = 10 * TURNS * WINDOW  # longer than it takes
    words = ("-c", SERVER, "--cport", str(PORT), "-t", str(seconds), "-i", str(INTERVAL), "-f", "m")
    server = [*inside("server", "iperf3", "-s", "-1", "--forceflush")]
    with talking(server) as listener:
        assert listener.stdout is not None
        while "listening" not in (line := listener.stdout.readline()):
            if not line:
                raise Failed("iperf3 -s ended")
        client = [*inside("client", "iperf3", "--forceflush", *words)]
        with talking(client) as sender:
            figures: list[tuple[float, float]] = []
            reader = threading.Thread(target=read_figures, args=(sender.stdout, figures))
            reader.start()
            until(hop_packets, "the connection")
            for policy in POLICIES * TURNS:
                run(HOSTSIM, "routes", "apply", files[policy])
                old, begin = hop_packets(), time.monotonic()
                pause(WINDOW)
                end, new = time.monotonic(), hop_packets()
                packets = {path: new[path] - old.get(path, 0) for path in new}
                inner = [gbits for at, gbits in figures if begin + INTERVAL <= at <= end]
                if not inner:
                    raise Failed("iperf3 said nothing in time")
                turns.append(Turn(policy, packets, sum(inner) / len(inner)))
            sender.terminate()
            reader.join()
        listener.terminate()
    for turn in turns:
        run(HOSTSIM, "routes", "apply", files[turn.policy])
        turn.rtt_us = ping()
    return turns


def ping() -> float:
    """The mean round trip of PINGS pings, in microseconds."""
    words = ("ping", "-q", "-c", str(PINGS), "-i", "0.003", SERVER)
    said = run(*inside("client", *words)).stdout
    found = re.search(r"= [\d.]+/([\d.]+)/", said)
    if found is None or " 0% packet loss" not in said:
        raise Failed(f"ping: {said}")
    return float(found[1]) * 1000


def compare(turns: list[Turn]) -> None:
    """Medians over the turns of each policy."""
    shown = table(FLOW, "without a rule", "with its rule", "ratio")
    rows: tuple[tuple[str, str, Callable[[Turn], float]], ...] = (
        ("packets fw → ids by the switch", ",.0f", lambda turn: turn.packets["switch"]),
        ("packets fw → ids past the switch", ",.0f", lambda turn: turn.packets["veth"]),
        ("throughput, Gbit/s", ".1f", lambda turn: turn.gbits),
        ("round trip (ping), µs", ".0f", lambda turn: turn.rtt_us),
    )
    for name, form, value in rows:
        old, new = (median(value(t) for t in turns if t.policy == policy) for policy in POLICIES)
        ratio = "" if form.startswith(",") else f"{new / old:.2f}x"
        shown.add_row(name, format(old, form), format(new, form), ratio)
    console.print(shown)
    note(f"medians of {TURNS} turns of {WINDOW} s; what else this machine does disturbs them")
    never, auto = ([t.packets for t in turns if t.policy == policy] for policy in POLICIES)
    expect(
        sum(count["switch"] for count in never) > 10 * sum(count["veth"] for count in never),
        "without a rule, the hop's packets pass the switch",
    )
    expect(
        sum(count["veth"] for count in auto) > 10 * sum(count["switch"] for count in auto),
        "with it, they go straight to the next VM: the same connection, without a break",
    )


def telnet() -> bool:
    """Whether the client gets a login prompt from the server's port 23."""
    said = run(*inside("client", "curl", "-s", "-m", "2", f"telnet://{SERVER}:23"), ok=False)
    return "login:" in said.stdout


def refuse() -> None:
    with talking([*inside("server", "python3", "-c", LISTEN)]) as listener:
        try:
            assert listener.stdout is not None
            if listener.stdout.readline() != "up\n":
                raise Failed("no listener on port 23")
            expect(not telnet(), "tcp/23: a listener is there, and fw refuses the connection")
            show(HOSTSIM, "exec", "fw", "--", "nft", "flush", "table", "inet", "fw")
            until(telnet, "telnet without fw's rule", 10)
            expect(True, "tcp/23: without fw's rule the same connection gets its prompt")
        finally:
            listener.terminate()


def edge() -> None:
    headline("edge: client ─ switch ─ server, and the VMs fw and ids on the way")
    with host("edge", "edge"), tempfile.TemporaryDirectory() as folder:
        show(*inside("client", "curl", "-s", f"http://{SERVER}/"))
        show(HOSTSIM, "flows")
        headline("one TCP connection, before and after its rule")
        note('hostsim routes apply, by turns: every route with `bypass = "never"`, and as shipped')
        compare(take_turns(policies(folder)))
        show(HOSTSIM, "rules")
        headline("the firewall in the chain")
        refuse()


if __name__ == "__main__":
    sys.exit(main(edge))
