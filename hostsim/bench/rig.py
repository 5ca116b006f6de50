# SPDX-License-Identifier: Apache-2.0
"""What the benches of the data plane run on: a host without a daemon, and the peers' switches.

A rig has two ends, the VMs `a` and `b` at 198.18.0.10 and .20; `start` runs a program in one. The
ends are the same everywhere, the switch between them is not: `Ours` is hostsim's, `Bridge` a Linux
bridge made by ip(8), `Ovs` Open vSwitch's userspace datapath, in a namespace and a folder of its
own. Everything is removed by `close`, which may be called twice, and after SIGKILL by
`hostsim clean`.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Protocol

from cext.bench.stream import listener
from hostsim import assembly, members
from hostsim.bench import common
from hostsim.bench.folder import claimed
from hostsim.errors import HostsimError
from hostsim.hostfile.file import parse
from hostsim.switch import bridge_netfilter_off
from hostsim.teardown import Teardown
from netns import namespace
from netns.journal import Journal

ADDRESS = {"a": "198.18.0.10", "b": "198.18.0.20"}
STREAM_PORT = 9000
Counts = dict[str, dict[str, int]]
DEADLINE = 20.0  # seconds for anything that is waited for

VMS = "".join(
    f'[[vm]]\nname = "{name}"\naddress = "{address}/24"\n' for name, address in ADDRESS.items()
)


OFFLOADS = """
import array, fcntl, socket, struct, sys
sock = socket.socket()
for command in (0x17, 0x1F, 0x24):  # ETHTOOL_STXCSUM, _STSO, _SGSO (linux/ethtool.h)
    value = array.array("I", [command, int(sys.argv[1])])
    request = struct.pack("16sQ", b"eth0", value.buffer_info()[0]).ljust(40, bytes(1))
    fcntl.ioctl(sock, 0x8946, request)  # SIOCETHTOOL
"""
"""Sets whether eth0 takes packets without a checksum, and super-packets, as it does at first."""


class Program(Protocol):
    """What `start` returns; subprocess.Popen and netns.process.Process both are."""

    @property
    def stdout(self) -> IO[bytes] | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Rig(Protocol):
    """A switch with two ends."""

    def start(self, end: str, argv: Sequence[str]) -> Program: ...
    def receive(self, end: str, count: int, quiet_ms: int) -> Program: ...
    def pump(self) -> None: ...
    def close(self) -> None: ...


class _Ends:
    """The VMs of a rig: on every switch they are the same, with their cgroups and namespaces."""

    def __init__(self, name: str, text: str = "") -> None:
        self.closing = Teardown(f"bench {name}")
        self._offloads = True
        claim = contextlib.ExitStack()
        self.closing.push("folder", claim.close)
        try:
            self.folder = claim.enter_context(claimed(name))
            self.spec = parse(f'[host]\nname = "{name}"\n{VMS}{text}', self.folder / "bench.toml")
            self.journal = Journal(self.folder / "journal")
            self.closing.push("journal", self.journal.close)
            self.vms = members.numbered(self.spec)
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        """Start the VMs, and what is between them. Raises HostsimError, OSError."""
        members.start(self.vms, self.journal, self.closing)

    def start(self, end: str, argv: Sequence[str]) -> Program:
        """Run a program at an end; its output is a pipe."""
        return self.vms[end].popen(argv, stdout=subprocess.PIPE)

    def receive(self, end: str, count: int, quiet_ms: int) -> Program:
        """Start the receiving end of a stream to port STREAM_PORT (cext.bench.stream)."""
        argv = [sys.executable, "-m", "cext.bench.stream", "receive", str(count), str(quiet_ms)]
        with listener(self.vms[end].netns_fd, STREAM_PORT) as sock:
            return self.vms[end].popen(argv, stdin=sock.fileno(), stdout=subprocess.PIPE)

    def offloads(self, on: bool) -> None:
        """Whether the ends leave checksums and segments to eth0, or finish them before it. Raises
        HostsimError."""
        if on != self._offloads:
            for vm in self.vms.values():
                _run("ip", "netns", "exec", vm.netns, sys.executable, "-c", OFFLOADS, str(int(on)))
            self._offloads = on

    def close(self) -> None:
        """Remove everything."""
        self.closing.close()


class Ours(_Ends):
    """Two VMs on hostsim's switch. text: routes and more VMs."""

    def _build(self) -> None:
        made = assembly.assemble(self.spec, self.vms, self.journal, self.closing)
        self.dataplane = made.dataplane

    def pump(self) -> None:
        """Do what the classifier asked for."""
        self.dataplane.on_readable()
        self.dataplane.settle()


class Bridge(_Ends):
    """The same VMs on a Linux bridge in a namespace, by ip(8). text: more VMs."""

    def _build(self) -> None:
        super()._build()
        self.switch = f"hs-{self.spec.name}-switch"
        self.journal.add("netns", name=self.switch)
        _run("ip", "netns", "add", self.switch)
        self._connect()
        self._join()

    def _connect(self) -> None:
        for end, vm in self.vms.items():
            inside = vm.netns
            veth = ("type", "veth", "peer", "name", "eth0", "netns", inside)
            _run("ip", "-n", self.switch, "link", "add", "dev", end, *veth)
            _run("ip", "-n", self.switch, "link", "set", "dev", end, "up")
            _run("ip", "-n", inside, "link", "set", "dev", "lo", "up")
            _run("ip", "-n", inside, "link", "set", "dev", "eth0", "up")
            for address in vm.spec.addresses:
                _run("ip", "-n", inside, "addr", "add", str(address), "dev", "eth0")

    def _join(self) -> None:
        bridge = ("type", "bridge", "mcast_snooping", "0")
        _run("ip", "-n", self.switch, "link", "add", "dev", "br0", *bridge)
        _run("ip", "-n", self.switch, "link", "set", "dev", "br0", "up")
        for end in self.vms:
            _run("ip", "-n", self.switch, "link", "set", "dev", end, "master", "br0")

    def without_netfilter(self) -> None:
        """As hostsim's switch is: bridged packets are not shown to iptables (br_netfilter)."""
        fd = os.open(namespace.RUN / self.switch, os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespace.write_sysctls(fd, bridge_netfilter_off())
        finally:
            os.close(fd)

    def pump(self) -> None:
        """Nobody asks."""


class Ovs(Bridge):
    """The same two namespaces on Open vSwitch's userspace datapath (datapath_type=netdev).

    per_flow: an upcall for each flow (`upcall/disable-megaflows`).
    """

    @staticmethod
    def installed() -> bool:
        """Whether Open vSwitch and what it needs here is there."""
        tools = (
            "ovs-vswitchd",
            "ovsdb-server",
            "ovsdb-tool",
            "ovs-vsctl",
            "ovs-ofctl",
            "ovs-appctl",
        )
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return all(shutil.which(tool, path=path) for tool in tools)

    def __init__(self, name: str, text: str = "", per_flow: bool = False) -> None:
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._per_flow = per_flow
        super().__init__(name, text)

    def _join(self) -> None:
        self.offloads(False)  # the userspace datapath wants finished checksums
        socket = self.folder / "db.sock"
        schema = "/usr/share/openvswitch/vswitch.ovsschema"
        _run("ovsdb-tool", "create", str(self.folder / "conf.db"), schema)
        self._daemon("ovsdb-server", str(self.folder / "conf.db"), f"--remote=punix:{socket}")
        common.until("path", socket.exists, "ovsdb-server", DEADLINE)
        control = self.folder / "vswitchd.ctl"
        self._daemon("ovs-vswitchd", f"unix:{socket}", f"--unixctl={control}")
        vsctl = ("ovs-vsctl", f"--db=unix:{socket}", "--timeout=15")
        _run(*vsctl, "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
        for end in self.vms:
            _run(*vsctl, "add-port", "br0", end)
        if self._per_flow:
            limit = ("other_config:flow-limit=2000000", "other_config:max-idle=60000")
            _run(*vsctl, "set", "Open_vSwitch", ".", *limit)
            _run("ovs-appctl", "-t", str(control), "upcall/disable-megaflows")

    def openflow(self, rule: str) -> None:
        """Add a rule, as ovs-ofctl(8) writes it; ports by name."""
        _run("ovs-ofctl", "--names", "add-flow", f"unix:{self.folder / 'br0.mgmt'}", rule)

    def _daemon(self, *argv: str) -> None:
        environment = {**os.environ, "OVS_RUNDIR": str(self.folder)}
        own = ("setpriv", "--pdeathsig", "KILL", "--")  # it goes with a bench that is killed
        words = [*own, "ip", "netns", "exec", self.switch, *argv]
        with (self.folder / "log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=self.folder)
            )

    def close(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        self._daemons.clear()
        super().close()


def stream(
    rig: Rig, size: int, ms: int, rate: int = 0, count: int = 0
) -> dict[str, dict[str, int]]:
    """Send a numbered stream from a to b; what both ends counted."""

    python = [sys.executable, "-m", "cext.bench.stream"]
    receiver = rig.receive("b", count, 300)
    assert receiver.stdout is not None
    receiver.stdout.readline()
    words = ["send", ADDRESS["b"], str(STREAM_PORT), str(size), str(count), str(ms), str(rate)]
    sender = rig.start("a", [*python, *words])
    assert sender.stdout is not None
    sent = sender.stdout.readline()
    got = receiver.stdout.readline()
    for program in (sender, receiver):
        program.wait(DEADLINE)
        assert program.stdout is not None
        program.stdout.close()
    rig.pump()
    if not sent or not got:
        raise HostsimError("bench", "the stream's ends said nothing")
    return {"sent": json.loads(sent), "got": json.loads(got)}


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE)
    if done.returncode != 0:
        raise HostsimError(f"bench: {argv[0]}", done.stderr.strip() or "failed")
