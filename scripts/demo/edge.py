# SPDX-License-Identifier: Apache-2.0
"""The demo of host `edge`: real traffic through a chain of VMs, by the switch and past it."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stage import (
    HOSTSIM,
    ROOT,
    Failed,
    ask,
    console,
    expect,
    headline,
    host,
    main,
    note,
    ours,
    pause,
    run,
    saw,
    show,
    table,
    until,
)

import hostsim

sys.path.insert(0, str(ROOT / "tests"))
from help.syscalls import numbers

SERVER = "198.18.0.20"
PORT = 40001
FLOW = f"tcp:198.18.0.10:{PORT}>{SERVER}:5201"
TURNS = 2  # of each policy
WINDOW = 1.0  # seconds of each turn
POLICIES = ("never", "auto")
USER0 = ROOT / "tests" / "help" / "programs" / "user0.py"
LISTEN = """
import socket
listener = socket.create_server(("", 23))
print("up", flush=True)
while True:
    listener.accept()[0].sendall(b"login: ")
"""


@dataclass
class Turn:
    """A stretch of time under one policy. packets: of the hop, by path."""

    policy: str
    packets: dict[str, int]


def inside(vm: str, *words: str) -> tuple[str, ...]:
    return (HOSTSIM, "exec", vm, "--", *words)


def talking(words: list[str]) -> subprocess.Popen[str]:
    """A program whose lines we read; what it says on stderr is among them."""
    null, out, err = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(ours(*words), stdin=null, stdout=out, stderr=err, text=True)


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


def take_turns(files: dict[str, str]) -> list[Turn]:
    """One TCP connection, while the policy changes under it."""
    turns: list[Turn] = []
    seconds = 20 * len(POLICIES) * TURNS * WINDOW  # longer than it takes
    words = ("-c", SERVER, "--cport", str(PORT), "-t", str(seconds))
    with talking([*inside("server", "iperf3", "-s", "-1", "--forceflush")]) as listener:
        assert listener.stdout is not None
        while "listening" not in (line := listener.stdout.readline()):
            if not line:
                raise Failed("iperf3 -s ended")
        with talking([*inside("client", "iperf3", "-i", "0", *words)]) as sender:
            until(hop_packets, "the connection")
            for policy in POLICIES * TURNS:
                run(HOSTSIM, "apply", files[policy])
                old = hop_packets()
                pause(WINDOW)
                new = hop_packets()
                turns.append(Turn(policy, {path: new[path] - old.get(path, 0) for path in new}))
            if sender.poll() is not None:
                raise Failed("the connection broke")
            sender.terminate()
        listener.terminate()
    return turns


def compare(turns: list[Turn]) -> None:
    """The hop's packets under each policy, all turns together."""
    shown = table(f"{FLOW}, packets fw → ids", "by the switch", "past the switch")
    counted = {
        policy: {
            path: sum(turn.packets.get(path, 0) for turn in turns if turn.policy == policy)
            for path in ("switch", "veth")
        }
        for policy in POLICIES
    }
    titles = {"never": "without a rule", "auto": "with its rule"}
    for policy, by in counted.items():
        shown.add_row(titles[policy], f"{by['switch']:,}", f"{by['veth']:,}")
    console.print(shown)
    never, auto = counted["never"], counted["auto"]
    expect(
        never["switch"] > 10 * never["veth"], "without a rule, the hop's packets pass the switch"
    )
    expect(
        auto["veth"] > 10 * auto["switch"],
        "with it, they go straight to the next VM: the same connection, without a break",
    )
    share = auto["veth"] / sum(auto.values())
    saw("of a hop's packets past the switch", f"{share:.1%}", "hostsim flows")


def audit() -> None:
    """Every packet of every flow is where its sender and its receiver say."""
    note("$ hostsim verify")
    rows = until(lambda: settled(ask("verify")), "the books are settled")
    sent = sum(row["sent"] for row in rows)
    expect(True, f"{sent:,} packets sent in {len(rows)} rows: each accounted for, 0 missing")
    saw("packets accounted for", f"{sent:,} of {sent:,}", "hostsim verify")


def settled(rows: list[dict[str, int]]) -> list[dict[str, int]]:
    """The rows, if nothing is on its way."""
    return rows if not any(row["missing"] or row["beside"] for row in rows) else []


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


def attack() -> None:
    """User 0 of fw wants out."""
    note("user 0 of fw: mount, mknod, modprobe, core_pattern, setns, bpf, the switch's ports, ...")
    said = run(*inside("fw", sys.executable, "-I", str(USER0), "1", "0", *numbers())).stdout
    found = json.loads(said)
    expect(found["done"] == [], f"{found['tried']} tries at the machine, each refused")
    saw("tries at the machine that succeed", f"0 of {found['tried']}", "tests/kernel/test_user0.py")


def edge() -> None:
    headline("edge: client ─ switch ─ server, and the VMs fw and ids on the way")
    with host("edge", "edge"), tempfile.TemporaryDirectory() as folder:
        show(*inside("client", "curl", "-s", f"http://{SERVER}/"))
        show(HOSTSIM, "flows")
        headline("one TCP connection, before and after its rule")
        note('hostsim apply, by turns: every route with `bypass = "never"`, and as shipped')
        compare(take_turns(policies(folder)))
        show(HOSTSIM, "rules")
        headline("the books")
        audit()
        headline("the firewall in the chain")
        refuse()
        headline("the fence around a VM")
        attack()


if __name__ == "__main__":
    sys.exit(main(edge))
