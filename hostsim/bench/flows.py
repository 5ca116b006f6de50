# SPDX-License-Identifier: Apache-2.0
"""How many new flows a second the switch decides, and steers through a VM.

`new`: from VM a through the VM `hop`, which forwards with its kernel's stack, to VM b: UDP packets,
each with a 5-tuple of its own, by a tester in the kernel (cext/bench/tester.h): sent out by a's
eth0, counted as they come into b's. Each is decided twice: at a's port and at hop's. There is one
sender for each CPU of the machine (at most SENDERS_MAX), and at most WINDOW flows of each are on
their way at a time, so a switch is measured at its own speed, not drowned.

The peer `ovs` is Open vSwitch's userspace datapath between the same VMs, with a rule for each of
the two ports and an upcall for each flow (`upcall/disable-megaflows`); its limit of flows is far
above what is sent. Every run starts with a new switch, whose tables are empty.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from hostsim.bench import common
from hostsim.bench.load import PORT, Load, link
from hostsim.bench.rig import Bridge, Ours, Ovs
from hostsim.errors import HostsimError
from hostsim.model import Json
from hostsim.routing.chains import ROUTER

FLOWS = 200_000
WARM = 200  # flows before the clock starts: neighbours, the first of everything
WINDOW = 64
SENDERS_MAX = 8
MS = 15_000  # of one run, at most
HOP = """
[[vm]]
name = "hop"
address = "198.18.0.1/24"
"""
ROUTE = f"""
[[route]]
match = {{ proto = "udp", dport = "{PORT}-{PORT + SENDERS_MAX - 1}" }}
through = ["hop"]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench flows`."""
    common.add_arguments(parser, ["new"])


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    peers = {"ovs": ovs} if Ovs.installed() else {}
    return common.run("flows", [common.Case("new", "flows/s", ours, peers)], options)


def ours() -> float:
    """New flows a second on hostsim's switch."""
    rig = Ours("bf-ours", HOP + ROUTE)
    try:
        rate = measure(rig)
        counted = rig.dataplane.report.counters()
        full = counted["table-full"] + counted["no-share"]
    finally:
        rig.close()
    if full:
        raise HostsimError("bench flows", f"{full} flows were not remembered: a table was full")
    return rate


def ovs() -> float:
    """New flows a second on Open vSwitch."""
    rig = Ovs("bf-ovs", HOP, per_flow=True)
    try:
        hop = rig.vms["hop"]
        hop.sysctl(ROUTER)
        rig.openflow(f"priority=9,in_port=a,udp,actions=mod_dl_dst:{link(hop)[1]},output:hop")
        rig.openflow("priority=9,in_port=hop,udp,actions=output:b")
        return measure(rig)
    finally:
        rig.close()


def measure(rig: Ours | Bridge) -> float:
    """Flows that arrived, a second. Raises HostsimError if none did."""
    senders = min(os.cpu_count() or 1, SENDERS_MAX)
    with ExitStack() as closing:
        load = Load(WARM + FLOWS)
        closing.callback(load.close)
        load.join(rig)
        pool = closing.enter_context(ThreadPoolExecutor(senders))

        def together(first: int, count: int, window: int) -> float:
            runs = [
                pool.submit(load.flows, rig, number, first, count, window, MS)
                for number in range(senders)
            ]
            done = [one.result() for one in runs]
            return sum(one.got for one in done) / max(one.seconds for one in done)

        together(0, WARM, 8)
        return together(WARM, FLOWS // senders, WINDOW)
