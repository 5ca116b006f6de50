# SPDX-License-Identifier: Apache-2.0
"""`hostsim apply`: VMs, endpoints and links that come and go while the rest of the host runs.

HOSTSIM_APPLY_PACKETS: how many packets the others send meanwhile; HOSTSIM_APPLY_RATE: a second.
8,000 and 4,000 if they are not given; a quarter of them by each path.
"""

import contextlib
import dataclasses
import os
import socket
import struct
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cext.ns.netns import socket_at
from help.cli import hostsim
from help.streams import Stream, by
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
        [dataclasses.replace(route, packets=0) for route in host.routes()],
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
        ("[[vm]]\nname = 'late'\nrun = 'nosuchprogram'\n[vm.os]\n", "nosuchprogram"),
        ("[[vm]]\nname = 'late'\nroot = '/x'\nboot = true\n", "root: /x: No such file"),
        ("[[vm]]\nname = 'late'\nnf = 'no:such'\n", "late: nf: 'no:such' did not start: No module"),
        (
            "[[vm]]\nname = 'late'\nrate = '10mbit'\n[[link]]\nof = 'client'\ndelay = '5ms'\n",
            "rate",
        ),
    ],
    ids=["no-program", "no-root", "an-os", "a-booted-os", "no-function", "a-link-that-cannot-be"],
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


OTHERS = """
[[vm]]
name = "a"
[[vm]]
name = "b"
[[vm]]
name = "f"
nf = "forward"
[[vm]]
name = "g"
nf = "forward"
[[route]]
match = { proto = "udp", dport = 10 }
through = ["a", "b"]
bypass = "never"
[[route]]
match = { proto = "udp", dport = 11 }
through = ["a", "b"]
bypass = "veth"
[[route]]
match = { proto = "udp", dport = 12 }
through = ["f", "g"]
bypass = "ring"
on_full = "wait"
"""
PATHS = {9: "bridge", 10: "switch", 11: "veth", 12: "ring"}
"""How packets to these ports of the server's go."""


class Announcer(threading.Thread):
    """Says by ARP that a VM has an address, from when it is there until it is gone, or `close`."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name=f"{name} announces")
        self.end = threading.Event()
        self.sent = 0
        self._netns = Path(f"/run/netns/hs-{NAME}-{name}")
        ip = socket.inet_aton(address)
        mac = bytes.fromhex("020000000077")
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + ip + bytes(6) + ip
        self._frame = bytes([255] * 6) + mac + b"\x08\x06" + body
        self.start()

    def close(self) -> None:
        self.end.set()
        self.join()

    def run(self) -> None:
        while not self.end.wait(0.0005):
            with contextlib.suppress(OSError):  # it comes, or goes
                self._announce()

    def _announce(self) -> None:
        with open(self._netns, "rb") as netns:
            sock = socket_at(netns.fileno(), socket.AF_PACKET, socket.SOCK_RAW)
        with sock:
            sock.bind(("eth0", 0))
            while not self.end.wait(0.0005):
                sock.send(self._frame)
                self.sent += 1


def test_an_address_that_moves_is_both_vms_until_one_has_left(host: Host, tmp_path: Path) -> None:
    """Each of the two says meanwhile that it has it, and is heard; a third is not, after that."""

    def spoofed() -> int:
        return host.status().switch.counters["spoofed"]

    def there(name: str) -> str:
        return file(tmp_path, f'[[endpoint]]\nname = "{name}"\naddress = "198.18.0.40/24"\n')

    host.apply(there("one"))
    before = spoofed()
    for leaves, comes in (("one", "other"), ("other", "one")):
        with (
            contextlib.closing(Announcer(leaves, "198.18.0.40")) as leaver,
            contextlib.closing(Announcer(comes, "198.18.0.40")) as comer,
        ):
            until(lambda leaver=leaver: leaver.sent)  # type: ignore[misc]
            host.apply(there(comes))
            until(lambda comer=comer: comer.sent)  # type: ignore[misc]
        assert spoofed() == before
    with contextlib.closing(Announcer("client", "198.18.0.40")):
        assert until(lambda: spoofed() > before)


def test_others_lose_nothing(tmp_path: Path) -> None:
    """20 VMs come and go, with routes through them, and files that cannot be applied come between,
    until the others have sent all they had; these go by each path."""
    text = "".join(f"[[vm]]\nname = 'v{n}'\naddress = '198.19.0.{n + 1}/24'\n" for n in range(MANY))
    text += "[[route]]\nmatch = { proto = 'tcp' }\nthrough = ['v0', 'v1']\n"
    files = {"many": text, "none": "", "bad": text + "[[vm]]\nname = 'w'\nrun = 'nosuchprogram'\n"}
    paths = {}
    for name, more in files.items():
        paths[name] = tmp_path / f"{name}.toml"
        paths[name].write_text(HEAD + OTHERS + more)
    with Host(paths["none"]) as host, contextlib.ExitStack() as closing:
        closing.callback(lambda: print(host.log(1000)))
        share = PACKETS // len(PATHS)
        streams = [Stream(host, port, share, RATE // len(PATHS)) for port in PATHS]
        for one in streams:
            closing.callback(one.close)
        for one in streams:
            path = PATHS[one.port]
            if path != "bridge":
                until(partial(one.goes_by, host, path), 20, f"{one.key} goes by {path}")
        for one in streams:
            one.start()
        applied = 0
        while applied < 4 or any(one.is_alive() for one in streams):
            host.apply(paths["none" if applied % 2 else "many"])
            applied += 1
            if applied % 4 == 1:
                before = state(host)
                with pytest.raises(HostsimError, match="nosuchprogram"):
                    host.apply(paths["bad"])
                assert state(host) == before
        for one in streams:
            one.join()
        assert until(lambda: not any(row.missing for row in host.verify()))
        late = sum((node.drops or {}).get("function-full", 0) for node in host.status().nodes)
        for one in streams:  # a function that the machine gives no turn is the machine's loss
            known = late if PATHS[one.port] == "ring" else 0
            assert one.sent["packets"] == one.came["packets"] + known == share, one.key
            assert one.came["doubled"] == 0, one.key
        assert by(host, streams[2], "veth") > 0
        assert by(host, streams[3], "ring") > 0
