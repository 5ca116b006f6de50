# SPDX-License-Identifier: Apache-2.0
"""`hostsim check`: what this kernel offers, found out by doing it, and what works without it.

Each probe tries the thing itself: it makes a namespace, a link, a map, an input device, and lets
go of it at once. Network probes run in a process of their own, in a network namespace that goes
with it. A probe that needs root says so without. `run` returns data, `show` prints it.
"""

import contextlib
import errno
import fcntl
import glob
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from cext import HERE
from cext.bpf import objects as bpf
from cext.bpf import probe
from cext.switch import drops, line
from cext.vm import lower
from hostsim.cli.show import console
from hostsim.model import HostSpec, Json
from hostsim.needs import needs
from netns import cgroup, devices, parameters, sockets, tap, tc
from netns.links import Rtnl

AF_XDP = 44
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2
KVM_GET_API_VERSION = 0xAE00
UI_SET_EVBIT, UI_SET_KEYBIT = 0x40045564, 0x40045565
UI_DEV_SETUP, UI_DEV_CREATE, UI_DEV_DESTROY = 0x405C5503, 0x5501, 0x5502
UI_GET_SYSNAME = 0x8040552C
EVIOCREVOKE = 0x40044591
EV_KEY, KEY_A, BUS_VIRTUAL = 1, 30, 6
DEADLINE = 20  # seconds for the process that probes the network
NETWORK = "network namespaces"


class NeedsRoot(Exception):
    """This probe cannot tell without root."""


Probe = Callable[[], str]
"""Does the thing and returns a detail worth knowing, or ""; OSError: it does not work."""


def _root() -> None:
    if os.geteuid() != 0:
        raise NeedsRoot


def _kernel() -> str:
    release = platform.release()
    found = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if found < (6, 1):
        raise OSError(f"{release} is older than 6.1")
    return release


def _privileges() -> str:
    if os.geteuid() != 0:
        raise OSError(f"user {os.geteuid()}")
    return ""


# -- network: these run in a namespace of their own -----------------------------------------------


@contextlib.contextmanager
def _rtnl() -> Iterator[Rtnl]:
    with open("/proc/self/ns/net", "rb") as here:
        rtnl = Rtnl(here.fileno())
    try:
        yield rtnl
    finally:
        rtnl.close()


def _veth() -> str:
    with _rtnl() as rtnl:
        rtnl.batch(lambda batch: batch.link("add", ifname="check0", kind="veth", peer="check1"))
    return ""


def _bridge() -> str:
    with _rtnl() as rtnl:
        rtnl.batch(lambda batch: batch.link("add", ifname="checkbr", kind="bridge"))
    return ""


def _clsact() -> str:
    with _rtnl() as rtnl:
        rtnl.batch(lambda batch: batch.tc("add", "clsact", index=rtnl.indices()["lo"]))
    return ""


def _held_back() -> str:
    """What delays packets (hostsim/routing/holding.py)."""
    with _rtnl() as rtnl:
        try:
            tc.add_fq(rtnl, rtnl.indices()["lo"])
        except OSError as error:
            if error.errno not in tc.NO_FQ:
                raise
        else:
            return "by the kernel's queue fq"
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(tap.make(here, "hs-check", line.INDEX, 10))
    finally:
        os.close(here)
    return "by a thread of hostsim's; the kernel has no sch_fq"


def _classifier() -> str:
    """The project's own classifier, verified, loaded and attached to a link."""
    loaded = bpf.Object("classifier")
    try:
        with _rtnl() as rtnl:
            index = rtnl.indices()["lo"]
            words = {"fd": loaded.program("classify"), "name": "check", "direct_action": True}
            rtnl.batch(
                lambda batch: batch.tc("add-filter", "bpf", index=index, parent=tc.INGRESS, **words)
            )
    finally:
        loaded.close()
    return ""


def _xdp() -> str:
    socket.socket(AF_XDP, socket.SOCK_RAW).close()
    return ""


def _nftables() -> str:
    words = ("nft", "add table inet check; add chain inet check probe")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip().splitlines()[0])
    return ""


# -- the rest -------------------------------------------------------------------------------------


def _btf() -> str:
    size = Path("/sys/kernel/btf/vmlinux").stat().st_size
    return f"{size >> 10} KiB"


def _ring_buffer() -> str:
    _root()
    probe.ring_buffer()
    return ""


def _drop_reasons() -> str:
    """The project's own program at the kernel's drops, loaded and attached."""
    _root()
    drops.Drops().close()
    return f"{len(drops.reasons())} reasons"


@contextlib.contextmanager
def _group() -> Iterator[cgroup.Cgroup]:
    group = cgroup.Cgroup(f"hs-check-{os.getpid()}/probe", cgroup.Limits())
    group.make()
    try:
        yield group
    finally:
        group.remove()


def _cgroup() -> str:
    _root()
    with _group() as group:
        return str(group.path.parent.parent)


def _limit(controller: cgroup.Controller) -> Probe:
    def look() -> str:
        layout = cgroup.layout()
        where = layout.where(controller)
        if where is None:
            raise OSError("neither the v2 tree nor a v1 mount has it")
        path = layout.v1[controller] if where == "v1" else layout.v2
        if os.statvfs(str(path)).f_flag & os.ST_RDONLY:
            raise OSError(f"{path} is read-only, as in a container")
        return f"through cgroup {where}"

    return look


def _device_program() -> str:
    _root()
    listed = devices.DeviceList(own=False)
    with _group() as group:
        listed.attach(group.fd)
    return ""


def _of_sockets(refused: Callable[[], str | None], what: str) -> str:
    """refused: why the kernel does not take `what`, or None."""
    _root()
    why = refused()
    if why is not None:
        raise OSError(f"the kernel refuses a BPF {what}: {why}")
    return ""


def _user_namespace() -> str:
    _root()
    done = subprocess.run(("unshare", "--user", "true"), capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(done.stderr.strip())
    return ""


def _overlay() -> str:
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        subprocess.run(("modprobe", "-q", "overlay"), check=False)
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        raise OSError("this kernel has no overlayfs (CONFIG_OVERLAY_FS)")
    return ""


def _erofs() -> str:
    if "erofs" not in Path("/proc/filesystems").read_text().split():
        subprocess.run(("modprobe", "-q", "erofs"), check=False)
    if "erofs" not in Path("/proc/filesystems").read_text().split():
        raise OSError("this kernel has no erofs (CONFIG_EROFS_FS)")
    return ""


def _idmap() -> str:
    """Of the file system on /: the first thing that a directory as root would need."""
    _root()
    words = ("unshare", "--user", "--map-root-user", "sh", "-c", "echo; exec cat")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        tree = lower.directory("/")
        try:
            with open(f"/proc/{child.pid}/ns/user", "rb") as user:
                lower.map_owners(tree, user.fileno())
        finally:
            os.close(tree)
            child.stdin.close()
    return ""


def _pidfd() -> str:
    ours = os.pidfd_open(os.getpid())
    try:
        os.close(probe.descriptor_of(ours, 0))
    finally:
        os.close(ours)
    return ""


def _seals() -> str:
    memory = os.memfd_create("hs-check", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK)
    finally:
        os.close(memory)
    return ""


@contextlib.contextmanager
def _keyboard() -> Iterator[str]:
    """A uinput device with one key; the name of its event node."""
    _root()
    with open("/dev/uinput", "r+b", buffering=0) as device:  # never makes a file of that name
        fcntl.ioctl(device, UI_SET_EVBIT, EV_KEY)
        fcntl.ioctl(device, UI_SET_KEYBIT, KEY_A)
        setup = struct.pack("=HHHH80sI", BUS_VIRTUAL, 0, 0, 0, b"hostsim check", 0)
        fcntl.ioctl(device, UI_DEV_SETUP, setup)
        fcntl.ioctl(device, UI_DEV_CREATE)
        try:
            name = fcntl.ioctl(device, UI_GET_SYSNAME, bytes(64)).rstrip(b"\0").decode()
            (node,) = glob.glob(f"/sys/class/input/{name}/event*")
            yield Path(node).name
        finally:
            fcntl.ioctl(device, UI_DEV_DESTROY)


def _uinput() -> str:
    with _keyboard():
        return ""


@contextlib.contextmanager
def _opened_node() -> Iterator[int]:
    with _keyboard() as node:
        # A node of our own, so that no udev is needed and nobody else finds it.
        path = f"/dev/.hostsim-check-{os.getpid()}"
        major, minor = Path(f"/sys/class/input/{node}/dev").read_text().split(":")
        os.mknod(path, 0o020600, os.makedev(int(major), int(minor)))
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.unlink(path)
        try:
            yield fd
        finally:
            os.close(fd)


def _evdev() -> str:
    with _opened_node():
        return ""


def _revoke() -> str:
    with _opened_node() as fd:
        fcntl.ioctl(fd, EVIOCREVOKE, 0)
        try:
            os.read(fd, 24)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return ""
            raise
    raise OSError("a revoked device could still be read")


def _kvm() -> str:
    with open("/dev/kvm", "rb", buffering=0) as kvm:
        version = fcntl.ioctl(kvm, KVM_GET_API_VERSION)
    return f"API {version}; scripts/testvm finds out whether a guest boots under it"


def _tool(name: str, package: str) -> Probe:
    def look() -> str:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if path is None:
            raise OSError(f"not found; package {package}")
        return path

    return look


ALL = "nothing: every command but check needs it"
NO_ROUTES = "VMs, plain bridging and the KMC; no routes, no bypass"
NO_INPUT = "everything but `[[device]]`; the test VM has it (scripts/testvm)"

IN_NETWORK: dict[str, tuple[Probe, str]] = {
    "veth pairs": (_veth, ALL),
    "bridge": (_bridge, ALL),
    "tc clsact": (_clsact, NO_ROUTES),
    "the classifier (tc-BPF)": (_classifier, NO_ROUTES),
    "packets held back": (_held_back, "links without delay, jitter and rate"),
    "AF_XDP": (_xdp, "packet NFs on rings alone; no ports on eth0"),
    "nftables": (_nftables, "everything but the firewall of host edge; package nftables"),
}
HERE_AND_NOW: dict[str, tuple[Probe, str]] = {
    "cgroup v2": (_cgroup, ALL),
    "memory limits": (_limit("memory"), "everything without `memory =`"),
    "CPU limits": (_limit("cpu"), "everything without `cpus =`"),
    "process limits": (_limit("pids"), "everything without `pids =`"),
    "user namespaces": (_user_namespace, ALL),
    "overlayfs": (_overlay, 'VMs with `files = "shared"`'),
    "erofs": (_erofs, "VMs whose `root` is a directory or of another file system"),
    "idmapped mounts of /": (_idmap, 'VMs whose `root` is an image, or with `users = "machine"`'),
    "device program (cgroup BPF)": (_device_program, ALL),
    "queues of new sockets counted": (
        partial(_of_sockets, sockets.births_refused, "program at security_socket_post_create"),
        "everything; what waits at a VM's packet, netlink and raw sockets has no bound",
    ),
    "sockets of VMs added up": (
        partial(_of_sockets, sockets.walk_refused, "iterator over socket storage"),
        "everything; rings of sockets that ended count as their VM's until it ends",
    ),
    "BTF": (_btf, "everything; bpftool shows maps without types"),
    "BPF ring buffer": (_ring_buffer, "routes by L2 to L4; none by contents"),
    "drop reasons (skb:kfree_skb)": (
        _drop_reasons,
        "everything; what the kernel drops has no names in status and verify",
    ),
    "pidfd_getfd": (_pidfd, "mode `mirror`; not `direct`"),
    "sealed memfd": (_seals, "bypass `veth`; not `ring`"),
    "uinput": (_uinput, NO_INPUT),
    "evdev": (_evdev, NO_INPUT),
    "EVIOCREVOKE": (_revoke, "mode `mirror`; not `direct`"),
    "KVM": (_kvm, "everything; the test VM is emulated then"),
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
        _find("Linux 6.1 or newer", _kernel, "perhaps some; it is not tested"),
        _find("root", _privileges, ALL),
        *_network(),
        *(_find(name, *entry) for name, entry in HERE_AND_NOW.items()),
        *(_find(name, _tool(name, entry[0]), entry[1]) for name, entry in TOOLS.items()),
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


def _find(name: str, attempt: Probe, without: str) -> Json:
    ok: bool | None
    try:
        ok, detail = True, attempt()
    except NeedsRoot:
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
