# SPDX-License-Identifier: Apache-2.0
"""What a host could leave behind on this machine, as plain sentences: for tests and the demo.

`snapshot` names everything there is of the kinds that hostsim makes; what a later snapshot has
more (`difference`) was left. The kernel frees network namespaces, BPF programs and cgroups some
time after their last user has gone, so `settle` asks again until a deadline.

Left out: /run/netns itself, which stays a mount point as `ip netns add` leaves it, and the BPF
programs of systemd, which come and go with its units. Needs root to see all.
"""

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from cext.bpf import ids
from netns import namespace, netlink, tc

RUN = Path("/run/hostsim")
TCMSG = struct.Struct("=BBHiIII")
RTM_GETTFILTER = 46
RTM_GETQDISC = 38
TCA_KIND = 1
HOOKS = {"ingress": tc.INGRESS, "egress": tc.EGRESS}
OURS = ("hostsim-init", "hostsim-agent", "hostsim.daemon", "hostsim.cli.agent")


def snapshot() -> frozenset[str]:
    """Everything on this machine that a host could have made."""
    return frozenset(
        thing
        for kind in (_namespaces, _links, _tc, _bpf, _cgroups, _mounts, _input, _files, _processes)
        for thing in kind()
    )


def difference(before: frozenset[str], after: frozenset[str]) -> list[str]:
    """What `after` has and `before` had not, sorted."""
    return sorted(after - before)


def settle(before: frozenset[str], seconds: float = 10.0) -> list[str]:
    """The difference from `before` to now, once it is empty or `seconds` have passed."""
    end = time.monotonic() + seconds
    while (left := difference(before, snapshot())) and time.monotonic() < end:
        select.select([], [], [], 0.05)  # nothing announces the end of a namespace or a program
    return left


def daemons(things: frozenset[str]) -> list[str]:
    """The daemons of hosts in a snapshot."""
    return sorted(thing for thing in things if "hostsim.daemon" in thing)


def _namespaces() -> Iterator[str]:
    if namespace.RUN.is_dir():
        for name in os.listdir(namespace.RUN):
            yield f"network namespace {name}"


def _links() -> Iterator[str]:
    for _, name in socket.if_nameindex():
        yield f"link {name} in the root namespace"


def _tc() -> Iterator[str]:
    names = dict(socket.if_nameindex())
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        qdiscs = list(_dump(sock, RTM_GETQDISC, 0, 0))
        for index, handle, parent, kind in qdiscs:
            if kind not in ("clsact", "ingress"):
                continue
            link = names.get(index, str(index))
            yield f"tc {kind} on {link}"
            for hook, parent in HOOKS.items():
                for _, handle, _, name in _dump(sock, RTM_GETTFILTER, index, parent):
                    yield f"tc filter {name} {handle:#x} on {link} {hook}"


def _dump(
    sock: socket.socket, kind: int, index: int, parent: int
) -> Iterator[tuple[int, int, int, str]]:
    """Interface index, handle, parent and kind of each qdisc or filter (rtnetlink(7))."""
    body = TCMSG.pack(socket.AF_UNSPEC, 0, 0, index, 0, parent, 0)
    head = netlink.HEADER.size + TCMSG.size
    for message in netlink.dump(sock, kind, body):
        _, _, _, found, handle, above, _ = TCMSG.unpack_from(message, netlink.HEADER.size)
        name = netlink.attributes(message, head).get(TCA_KIND, b"")
        yield found, handle, above, name.rstrip(b"\0").decode()


def _bpf() -> Iterator[str]:
    for kind, found in ("program", ids.programs()), ("map", ids.maps()):
        for number, name in found:
            if not name.startswith("sd_"):
                yield f"BPF {kind} {number} {name}"


def _cgroups() -> Iterator[str]:
    for kind, point in _mount_points():
        if kind in ("cgroup", "cgroup2"):
            for path, names, _ in os.walk(point):
                for name in names:
                    if "/hs-" in f"{path}/{name}":
                        yield f"cgroup {path}/{name}"


def _mount_points() -> Iterator[tuple[str, str]]:
    """Type and mount point of every mount in our mount namespace."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        yield after.split()[0], before.split()[4]


def _mounts() -> Iterator[str]:
    for kind, point in _mount_points():
        if point.startswith((f"{namespace.RUN}/", str(RUN))) or "/hs-" in point:
            yield f"mount {kind} on {point}"


def _input() -> Iterator[str]:
    for node in Path("/sys/class/input").glob("event*"):
        with contextlib.suppress(OSError):
            name = (node / "device" / "name").read_bytes().decode(errors="backslashreplace").strip()
            yield f"input device {node.name} {name!r}"


def _files() -> Iterator[str]:
    for path, directories, files in os.walk(RUN):
        for name in (*directories, *files):
            yield f"file {path}/{name}"


def _processes() -> Iterator[str]:
    """Processes of hosts, our own children, and the shared memory that either holds."""
    us = os.getpid()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int(entry.name)
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            stat = (entry / "stat").read_text()
            parent = int(stat.rpartition(")")[2].split()[1])
            name = stat[stat.find("(") + 1 : stat.rfind(")")]
            ours = name in OURS or any(word.rpartition("/")[2] in OURS for word in words[:6])
            in_host = "/hs-" in (entry / "cgroup").read_text()
            if ours or in_host or parent == us:
                yield f"process {pid} ({name}) {' '.join(words)}".strip()
            if ours or in_host or pid == us:
                yield from _memfds(entry)


def _memfds(process: Path) -> Iterator[str]:
    for link in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(link)
            if target.startswith("/memfd:hs-"):
                yield f"memfd {target} of process {process.name}"
