# SPDX-License-Identifier: Apache-2.0
"""`hostsim check`: what this kernel offers, found out by doing it, and what works without it.

Each probe (hostsim/cli/probes.py) tries the thing itself. Network probes run in a process of their
own, in a network namespace that goes with it. `run` returns data, `show` prints it.
"""

import json
import os
import platform
import subprocess
import sys
from functools import partial

from rich import box
from rich.table import Table
from rich.text import Text

from cext import HERE
from hostsim.cli import probes
from hostsim.cli.show import console
from hostsim.model import HostSpec, Json
from hostsim.needs import needs
from netns import parameters, sockets

DEADLINE = 20  # seconds for the process that probes the network
NETWORK = "network namespaces"
ALL = "nothing: every command but check needs it"
NO_ROUTES = "VMs, plain bridging and the KMC; no routes, no bypass"
NO_INPUT = "everything but `[[device]]`; the test VM has it (scripts/testvm)"

IN_NETWORK: dict[str, tuple[probes.Probe, str]] = {
    "veth pairs": (probes.veth, ALL),
    "bridge": (probes.bridge, ALL),
    "tc clsact": (probes.clsact, NO_ROUTES),
    "the classifier (tc-BPF)": (probes.classifier, NO_ROUTES),
    "packets held back": (probes.held_back, "links without delay, jitter and rate"),
    "AF_XDP": (probes.xdp, "packet NFs on rings alone; no ports on eth0"),
    "nftables": (probes.nftables, "everything but the firewall of host edge; package nftables"),
}
HERE_AND_NOW: dict[str, tuple[probes.Probe, str]] = {
    "cgroup v2": (probes.cgroup_v2, ALL),
    "memory limits": (probes.limit("memory"), "everything without `memory =`"),
    "CPU limits": (probes.limit("cpu"), "everything without `cpus =`"),
    "process limits": (probes.limit("pids"), "everything without `pids =`"),
    "user namespaces": (probes.user_namespace, ALL),
    "overlayfs": (probes.overlay, 'VMs with `files = "shared"`'),
    "erofs": (probes.erofs, "VMs whose `root` is a directory or of another file system"),
    "idmapped mounts of /": (
        probes.idmap,
        'VMs whose `root` is an image, or with `users = "machine"`',
    ),
    "device program (cgroup BPF)": (probes.device_program, ALL),
    "queues of new sockets counted": (
        partial(
            probes.of_sockets, sockets.births_refused, "program at security_socket_post_create"
        ),
        "everything; what waits at a VM's packet, netlink and raw sockets has no bound",
    ),
    "sockets of VMs added up": (
        partial(probes.of_sockets, sockets.walk_refused, "iterator over socket storage"),
        "everything; rings of sockets that ended count as their VM's until it ends",
    ),
    "BTF": (probes.btf, "everything; bpftool shows maps without types"),
    "BPF ring buffer": (probes.ring_buffer, "routes by L2 to L4; none by contents"),
    "drop reasons (skb:kfree_skb)": (
        probes.drop_reasons,
        "everything; what the kernel drops has no names in status and verify",
    ),
    "pidfd_getfd": (probes.pidfd, "mode `mirror`; not `direct`"),
    "sealed memfd": (probes.seals, "bypass `veth`; not `ring`"),
    "uinput": (probes.uinput, NO_INPUT),
    "evdev": (probes.evdev, NO_INPUT),
    "EVIOCREVOKE": (probes.revoke, "mode `mirror`; not `direct`"),
    "KVM": (probes.kvm, "everything; the test VM is emulated then"),
}
TOOLS = {
    "ip": ("iproute2", "everything; namespaces are harder to look into"),
    "curl": ("curl", "everything but the demo"),
    "iperf3": ("iperf3", "everything but the demo's and the bench's throughput"),
    "tcpdump": ("tcpdump", "everything; packets are harder to look at"),
    "nft": ("nftables", "everything but the firewall of host edge"),
    "evtest": ("evtest", "everything but some input tests"),
    "bpftool": ("bpftool", "everything; BPF programs are harder to look at"),
    "clang": ("clang", "everything that is built already; it compiles the BPF programs"),
    "qemu-system-x86_64": ("qemu-system-x86", "everything but the test VM"),
    "ovs-vsctl": ("openvswitch-switch", "everything; a bench has one peer less"),
    "mn": ("mininet", "everything; a bench has one peer less"),
}


def run() -> Json:
    """{"kernel", "root", "checks": [{"name", "ok", "detail", "without"}]}; `ok` is None if
    only root could tell, and `without` says what works if it is not there."""
    checks = [
        _find("Linux 6.1 or newer", probes.kernel, "perhaps some; it is not tested"),
        _find("root", probes.privileges, ALL),
        *_network(),
        *(_find(name, *entry) for name, entry in HERE_AND_NOW.items()),
        *(_find(name, probes.tool(name, entry[0]), entry[1]) for name, entry in TOOLS.items()),
    ]
    return {"kernel": platform.release(), "root": os.geteuid() == 0, "checks": checks}


def needs_of(spec: HostSpec) -> list[Json]:
    """What a host takes of this machine, a row for each: {"name", "wanted", "has", "ok", "certain",
    "for", "raised"}; `ok` is None if this kernel does not say what it has. A host cannot come up
    without those that are certain; of the others it depends on what runs in its VMs."""
    return [
        {
            "name": need.name,
            "wanted": need.wanted,
            "has": need.has,
            "ok": None if need.has is None else need.met,
            "certain": need.certain,
            "for": need.for_what,
            "raised": "" if need.met else need.raised,
        }
        for need in needs(spec, parameters.look)
    ]


def _find(name: str, attempt: probes.Probe, without: str) -> Json:
    ok: bool | None
    try:
        ok, detail = True, attempt()
    except probes.NeedsRoot:
        ok, detail = None, "only root can tell"
    except (OSError, KeyError, ValueError) as error:
        ok, detail = False, getattr(error, "strerror", None) or str(error)
    return {"name": name, "ok": ok, "detail": detail, "without": without}


def _network() -> list[Json]:
    """The probes of IN_NETWORK, in a process with a network namespace of its own."""
    without = {NETWORK: ALL} | {name: entry[1] for name, entry in IN_NETWORK.items()}

    def each(ok: bool | None, detail: str) -> list[Json]:
        return [
            {"name": name, "ok": ok, "detail": detail, "without": text}
            for name, text in without.items()
        ]

    if os.geteuid() != 0:
        return each(None, "only root can tell")
    words = ("unshare", "--net", sys.executable, "-P", "-m", "hostsim.cli.check")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return each(False, str(error))
    if done.returncode:
        return each(False, (done.stderr.strip().splitlines() or ["the probe died"])[-1])
    found: list[Json] = json.loads(done.stdout)
    return found


def _probe_network() -> list[Json]:
    first: Json = {"name": NETWORK, "ok": True, "detail": "", "without": ALL}
    return [first, *(_find(name, *entry) for name, entry in IN_NETWORK.items())]


def show(found: Json) -> None:
    """Print what `run` found, for a person."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "what", "detail", "what works without"):
        table.add_column(column, overflow="fold")
    marks = {True: ("yes", "green"), False: ("no", "red"), None: ("?", "yellow")}
    for row in found["checks"]:
        works = "" if row["ok"] else row["without"]
        table.add_row(
            Text(*marks[row["ok"]]), *(Text(word) for word in (row["name"], row["detail"], works))
        )
    out = console()
    out.print(table)
    if "needs" in found:
        _show_needs(found["needs"])
    programs = ", ".join(sorted(path.name.split(".")[0] for path in HERE.glob("*.bpf.o")))
    out.print(Text(f"Linux {found['kernel']}; BPF objects: {programs}", style="dim"))


def _show_needs(rows: list[Json]) -> None:
    table = Table(title="what the host takes", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "what", "takes", "there are", "for", "more by"):
        table.add_column(column, overflow="fold")
    marks = {(True, True): ("yes", "green"), (True, False): ("yes", "green")}
    marks |= {(False, True): ("no", "red"), (False, False): ("perhaps", "yellow")}
    for row in rows:
        has = "?" if row["has"] is None else f"{row['has']:,}"
        words = (row["name"], f"{row['wanted']:,}", has, row["for"], row["raised"])
        mark = marks.get((row["ok"], row["certain"]), ("?", "yellow"))
        table.add_row(Text(*mark), *(Text(word) for word in words))
    console().print(table)


if __name__ == "__main__":
    print(json.dumps(_probe_network()))
