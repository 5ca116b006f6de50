# SPDX-License-Identifier: Apache-2.0
"""What loads the data plane in `bench path` and `bench flows`: the kernel's tester
(cext/bench/tester.h) between a rig's two ends, out by a's eth0, counted where b's eth0 takes frames
in."""

import json
import subprocess
from ipaddress import IPv4Address

from cext.bench.tester import Sent, Tester
from hostsim.bench.rig import ADDRESS, Bridge, Ours
from hostsim.errors import HostsimError
from hostsim.vm import Vm
from netns import tc

PORT = 9100
"""The first of the tester's; not the streams', whose datagrams go on to a socket."""
SOURCE = IPv4Address("198.18.0.100")
"""The address of the first flows, where each frame is the first of its own."""


def take_in(vm: Vm, index: int, tester: Tester) -> None:
    """Have a VM's interface count the tester's frames, and consume them. Raises OSError."""
    tc.attach(vm.netns_fd, index, tester.arrive, "hostsim:arrive", tc.INGRESS)


class Load:
    """A tester for any number of rigs, one at a time. flows: see Tester. Owns it; `close` may be
    called twice."""

    def __init__(self, flows: int = 0) -> None:
        self._tester = Tester((IPv4Address(ADDRESS["b"]), PORT), flows)
        self._ends: dict[str, tuple[int, tuple[str, str]]] = {}

    def join(self, rig: Ours | Bridge) -> None:
        """Count what arrives at the rig's b. Raises OSError."""
        (index, mac), (far, far_mac) = link(rig.vms["a"]), link(rig.vms["b"])
        take_in(rig.vms["b"], far, self._tester)
        self._ends[rig.vms["a"].netns] = index, (mac, far_mac)

    def run(self, rig: Ours | Bridge, ms: int, window: int, port: int = 0) -> Sent:
        """One flow from a to b, as fast as one thread sends it. Raises OSError, HostsimError."""
        a = rig.vms["a"]
        index, macs = self._ends[a.netns]
        done = self._tester.run(
            (a.netns_fd, index), macs, IPv4Address(ADDRESS["a"]), ms=ms, window=window, port=port
        )
        return _some(done)

    def flows(
        self, rig: Ours | Bridge, port: int, first: int, count: int, window: int, ms: int
    ) -> Sent:
        """Flows of one frame each, to b's `port`-th port. Raises OSError, HostsimError."""
        a = rig.vms["a"]
        index, macs = self._ends[a.netns]
        done = self._tester.run(
            (a.netns_fd, index),
            macs,
            SOURCE,
            ms=ms,
            window=window,
            port=port,
            first=first,
            count=count,
            flows=True,
        )
        if self._tester.twice(port):
            raise HostsimError("bench", "a flow's only frame came twice")
        return _some(done)

    def close(self) -> None:
        """Twice is harmless."""
        self._tester.close()


def _some(done: Sent) -> Sent:
    if not done.got:
        raise HostsimError("bench", f"of {done.sent} frames none arrived")
    return done


def link(vm: Vm) -> tuple[int, str]:
    """Number and MAC address of a VM's eth0, as any switch made it."""
    command = ("ip", "-j", "-n", vm.netns, "link", "show", "dev", "eth0")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)[0]
    return int(found["ifindex"]), str(found["address"])
