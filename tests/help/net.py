# SPDX-License-Identifier: Apache-2.0
"""A switch, VMs and a data plane without a daemon: what the data plane's tests run on.

The test plays the daemon: `pump` does what the classifier asked for. Everything is taken down by
`close`, newest first.
"""

import contextlib
import select
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cext.bench.stream import listener
from help.waiting import until
from hostsim import assembly, members
from hostsim.hostfile.file import parse
from hostsim.teardown import Teardown
from hostsim.vm import Vm
from netns import tc
from netns.journal import Journal
from netns.process import Process


def endpoint(name: str, *addresses: str, more: str = "") -> str:
    """An [[endpoint]]. more: its other lines."""
    listed = ", ".join(f'"{address}"' for address in addresses)
    return f'[[endpoint]]\nname = "{name}"\naddress = [{listed}]\n{more}\n'


ENDS_V4 = endpoint("client", "198.18.0.10/24") + endpoint("server", "198.18.0.20/24")
ENDS = endpoint("client", "198.18.0.10/24", "fd00:18::10/64")
ENDS += endpoint("server", "198.18.0.20/24", "fd00:18::20/64")
ADDRESSES = f"""{ENDS}
[[vm]]
name = "fw"
address = ["198.18.0.1/24", "fd00:18::1/64"]
[[vm]]
name = "ids"
"""


class Net:
    """One host's VMs, switch and data plane. vms: by name."""

    def __init__(self, name: str, text: str, folder: Path) -> None:
        self.spec = parse(f'[host]\nname = "{name}"\n{text}', folder / f"{name}.toml")
        self.vms = members.numbered(self.spec)
        self.closing = Teardown(f"test host {name}")
        try:
            journal = Journal(folder / f"{name}.journal")
            self.closing.push("journal", journal.close)
            self.parts = assembly.assemble(self.spec, self.vms, journal, self.closing)
            self.switch, self.dataplane = self.parts.switch, self.parts.dataplane
            until(lambda: self.vms.keys() <= self.switch.look().linked)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.closing.close()

    def pump(self) -> None:
        """What the daemon does when the classifier speaks, until it has said all."""
        while select.select([self.dataplane], [], [], 0)[0]:
            self.dataplane.on_readable()
            assert self.dataplane.settle()

    def run(self, vm: str, *words: str, check: bool = True, timeout: float = 30) -> str:
        """What a program run in a VM says; with check, it must succeed."""
        done = self.vms[vm].run(words, timeout=timeout)
        text = (done.stdout + done.stderr).decode(errors="replace")
        assert not check or done.returncode == 0, (vm, words, text)
        return text

    def listen(self, vm: str, port: int, words: Sequence[str]) -> Process:
        """`serve` for a program whose file 0 is a UDP socket at that port, with a large buffer."""
        with listener(self.vms[vm].netns_fd, port) as sock:
            return self.serve(vm, words, sock.fileno())

    def serve(self, vm: str, words: Sequence[str], stdin: int = subprocess.PIPE) -> Process:
        """A program in a VM, once it has said its first line, `up`."""
        started = self.vms[vm].popen(words, stdin=stdin, stdout=subprocess.PIPE)
        assert started.stdout is not None
        assert started.stdout.readline() == b"up\n"
        return started

    def ip(self, vm: str, *words: str) -> str:
        """An `ip` command in a VM's namespace, from outside."""
        command = ("ip", "-n", self.vms[vm].netns, *words)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def ping(
        self, count: int, target: str = "198.18.0.20", vm: str = "client", ident: int | None = None
    ) -> None:
        """Echo requests at 100 a second; none may be lost. ident: their identifier, and so their
        flow; if it is not given, each call is a flow of its own."""
        flow = () if ident is None else ("-e", str(ident))
        said = self.run(vm, "ping", "-q", *flow, "-i", "0.01", "-W", "2", "-c", str(count), target)
        assert f"{count} received" in said, said

    def port(self, name: str) -> dict[str, Any]:
        """A port of the switch, as the kernel counts it."""
        (found,) = [port for port in self.switch.ports() if port["name"] == name]
        return dict(found)

    def flow(self, start: str) -> dict[str, Any]:
        """The one flow whose key starts so."""
        (found,) = [row for row in self.dataplane.report.flows() if row["key"].startswith(start)]
        return dict(found)

    def hops(self, start: str) -> list[tuple[str, str, str]]:
        """The hops of that flow: VM, where to, path."""
        return [(hop["vm"], hop["to"], hop["path"]) for hop in self.flow(start)["hops"]]

    def unguarded(self, vm: str) -> None:
        """From now on nobody puts back what the test takes off a VM's port."""
        watch = self.dataplane._watch
        assert watch is not None
        watch.forget(self.vms[vm].port, tc.INGRESS)

    def settled(self) -> list[dict[str, Any]]:
        """The rows of `verify`, once nothing is under way; nothing is missing then."""

        def rest() -> list[dict[str, Any]]:
            rows = self.dataplane.report.verify()
            return rows if not any(row["missing"] or row["beside"] for row in rows) else []

        return list(until(rest))

    def conserved(self) -> None:
        """Everything a VM sent is accounted for, to the packet."""
        for row in self.dataplane.report.flows():
            for hop in row["hops"]:
                parts = hop["paths"].values()
                assert hop["packets"] == sum(part["packets"] for part in parts), row


def seen_in(vm: Vm, path: Path) -> Path:
    """A path among a VM's own files, for us outside of it (proc_pid_root(5))."""
    return Path(f"/proc/{vm.pid}/root{path}")


@contextlib.contextmanager
def made(name: str, text: str, folder: Path) -> Iterator[Net]:
    """A Net for the length of a with block."""
    net = Net(name, text, folder)
    try:
        yield net
    finally:
        net.close()
