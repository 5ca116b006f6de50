# SPDX-License-Identifier: Apache-2.0
"""`hostsim apply`: VMs, endpoints and links that come and go while the rest of the host runs.

HOSTSIM_APPLY_PACKETS: how many packets the others send meanwhile; HOSTSIM_APPLY_RATE: a second.
8,000 and 4,000 if they are not given.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cext.bench import stream
from help.cli import hostsim
from help.waiting import until
from hostsim import Host, HostsimError

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

PACKETS = int(os.environ.get("HOSTSIM_APPLY_PACKETS", "8000"))
RATE = int(os.environ.get("HOSTSIM_APPLY_RATE", "4000"))
MANY = 20
NAME = "hsmem"
ENDS = """
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[endpoint]]
name = "server"
address = "198.18.0.20/24"
"""
HEAD = f'[host]\nname = "{NAME}"\n{ENDS}'
FW = """
[[vm]]
name = "fw"
address = "198.19.0.1/24"
run = "sh -c 'echo fw is there; exec sleep 1000'"
[[endpoint]]
name = "third"
address = ["198.18.0.30/24", "198.19.0.30/24"]
[[route]]
match = { proto = "icmp" }
through = ["fw"]
[[link]]
of = "third"
loss = "100%"
direction = "out"
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with Host.from_toml(HEAD) as made:
        yield made


def file(folder: Path, text: str, head: str = HEAD) -> str:
    path = folder / "next.toml"
    path.write_text(head + text)
    return str(path)


def state(host: Host) -> Any:
    """All that is to be as before after an apply that fails."""
    status = host.status()
    return (
        sorted((node.name, node.pid, node.state) for node in status.nodes),
        sorted(port.name for port in status.switch.ports),
        host.routes(),
        host.links(),
        sorted(name for name in os.listdir("/run/netns") if name.startswith(f"hs-{NAME}-")),
        sorted(one.name for one in Path("/sys/fs/cgroup").glob(f"*/hs-{NAME}/*/")),
        [
            host[name].run("sh", "-c", "ip route; cat /etc/hosts").stdout
            for name in ("client", "server")
        ],
    )


def pinged(host: Host, count: int = 5) -> bool:
    words = ("ping", "-q", "-c", str(count), "-i", "0.05", "-W", "5", "server")
    return f"{count} received" in host["client"].run(*words).stdout


def test_they_come_and_go(host: Host, tmp_path: Path) -> None:
    assert pinged(host)
    before = state(host)
    path = file(tmp_path, FW)
    told = host.apply(path, dry_run=True)
    assert told.changes == (
        "VM fw is added",
        "endpoint third is added",
        "routes: 1 new, 0 gone, 1 in all",
        "links: 1 new, 0 gone, 1 in all",
    )
    assert (told.dry_run, told.added, told.removed) == (True, ("fw", "third"), ())
    assert state(host) == before
    done = host.apply(path)
    assert (done.added, done.changes) == (told.added, told.changes)
    assert list(host) == ["fw", "client", "server", "third"]
    assert "fw is there" in hostsim("--host", NAME, "logs", "fw").stdout
    assert "198.19.0.1" in host["client"].run("getent", "hosts", "fw").stdout
    assert "198.18.0.10" in host["fw"].run("getent", "hosts", "client").stdout
    assert "198.19.0.0/24" in host["client"].run("ip", "route").stdout
    assert pinged(host)
    flow = host.flows("icmp:198.18.0.10:*>198.18.0.20:*")[-1]
    assert [hop.vm for hop in flow.hops] == ["fw"]
    assert [(link.vm, link.loss) for link in host.links()] == [("third", 1.0)]
    assert host["client"].run("ping", "-c", "1", "-W", "0.3", "198.18.0.30").returncode == 1
    pid = next(node.pid for node in host.status().nodes if node.name == "fw")
    host["fw"].restart()
    assert pinged(host)
    gone = host.apply(file(tmp_path, ""))
    assert (gone.removed, gone.routes) == (("fw", "third"), 0)
    assert not Path(f"/proc/{pid}").exists()
    after = state(host)
    assert after[0] == before[0]
    assert after[1:6] == before[1:6]
    assert after[6] == before[6]
    assert pinged(host)
    assert until(lambda: not any(row.missing for row in host.verify()))
    with pytest.raises(HostsimError, match="no VM or endpoint"):
        host["fw"]
    host.apply(path)  # a name that was there comes again
    assert pinged(host)
    host.apply(file(tmp_path, ""))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[vm]]\nname = 'late'\nrun = 'nosuchprogram'\n", "nosuchprogram"),
        ("[[vm]]\nname = 'late'\nroot = '/nonexistent'\n", "nonexistent"),
        ("[[vm]]\nname = 'late'\n[vm.os]\n", "late is an OS, which cannot be added"),
        ("[[vm]]\nname = 'late'\nroot = '/x'\nboot = true\n", "late is an OS, which"),
        ("[[vm]]\nname = 'late'\nnf = 'count'\n", "late is a packet function"),
        (
            "[[vm]]\nname = 'late'\nrate = '10mbit'\n[[link]]\nof = 'client'\ndelay = '5ms'\n",
            "rate",
        ),
    ],
    ids=["no-program", "no-root", "an-os", "a-booted-os", "a-function", "a-link-that-cannot-be"],
)
def test_what_fails_half_way_changes_nothing(
    host: Host, text: str, why: str, tmp_path: Path
) -> None:
    before = state(host)
    good = "[[vm]]\nname = 'good'\naddress = '198.19.0.1/24'\nrun = 'sleep 1000'\n"
    route = "[[route]]\nmatch = { proto = 'icmp' }\nthrough = ['good']\n"
    done = hostsim("--host", NAME, "apply", file(tmp_path, good + text + route), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert why in done.stderr
    assert state(host) == before
    host.apply(file(tmp_path, good + route))
    assert pinged(host)


def test_an_endpoint_is_no_vm(host: Host, tmp_path: Path) -> None:
    swapped = HEAD.replace('[[endpoint]]\nname = "client"', '[[vm]]\nname = "client"')
    done = hostsim("--host", NAME, "apply", file(tmp_path, "", swapped), "--dry-run", check=False)
    assert done.returncode == 1
    assert "client is an endpoint, and a VM in the file" in done.stderr


def test_down_ends_an_apply(host: Host, tmp_path: Path) -> None:
    """Nothing is left of those who were about to come."""
    text = "".join(f"[[vm]]\nname = 'v{n}'\nrun = 'sleep 1000'\n" for n in range(MANY))
    path, told = file(tmp_path, text), []

    def applied() -> None:
        told.append(hostsim("--host", NAME, "apply", path, check=False))

    thread = threading.Thread(target=applied)
    thread.start()
    until(lambda: any(name.startswith(f"hs-{NAME}-v") for name in os.listdir("/run/netns")), 60)
    host.down()
    thread.join(60)
    assert not thread.is_alive()
    assert len(told) == 1
    assert not any(name.startswith(f"hs-{NAME}-") for name in os.listdir("/run/netns"))


def test_others_lose_nothing(host: Host, tmp_path: Path) -> None:
    """20 VMs come and go, with routes through them, until the others have sent all they had."""
    text = "".join(f"[[vm]]\nname = 'v{n}'\naddress = '198.19.0.{n + 1}/24'\n" for n in range(MANY))
    text += "[[route]]\nmatch = { proto = 'tcp' }\nthrough = ['v0', 'v1']\n"
    many, none = tmp_path / "many.toml", tmp_path / "none.toml"
    many.write_text(HEAD + text)
    none.write_text(HEAD)
    counts: list[dict[str, int]] = []
    with host["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(1, 33, stream.BUFFER)  # SO_RCVBUFFORCE
        sock.bind(("198.18.0.20", 9))
        receiver = threading.Thread(
            target=lambda: counts.append(stream.receive(sock, PACKETS, 30_000))
        )
        receiver.start()
        words = ("send", "198.18.0.20", "9", "64", str(PACKETS), "170000", str(RATE))
        with host["client"].popen(sys.executable, "-m", "cext.bench.stream", *words) as sender:
            applied = 0
            while applied < 4 or sender.returncode is None:
                host.apply(none if applied % 2 else many)
                applied += 1
            sent = json.loads(sender.output)["packets"]
        receiver.join(60)
        assert not receiver.is_alive()
    assert counts[0]["packets"] == sent == PACKETS
    assert (counts[0]["lost"], counts[0]["doubled"]) == (0, 0)
    assert until(lambda: not any(row.missing for row in host.verify()))
