# SPDX-License-Identifier: Apache-2.0
"""What `hostsim check` tries, one by one (hostsim/cli/check.py says what works without it).

Each probe tries the thing itself: it makes a namespace, a link, a map, an input device, and lets
go of it at once. It returns a detail worth knowing, or ""; it raises OSError if the thing does not
work, and NeedsRoot if only root could tell.
"""

import contextlib
import errno
import fcntl
import glob
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from cext.bpf import objects as bpf
from cext.bpf import probe
from cext.switch import drops, line
from cext.vm import lower
from netns import cgroup, devices, tap, tc
from netns.links import Rtnl

AF_XDP = 44
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2
KVM_GET_API_VERSION = 0xAE00
UI_SET_EVBIT, UI_SET_KEYBIT = 0x40045564, 0x40045565
UI_DEV_SETUP, UI_DEV_CREATE, UI_DEV_DESTROY = 0x405C5503, 0x5501, 0x5502
UI_GET_SYSNAME = 0x8040552C
EVIOCREVOKE = 0x40044591
EV_KEY, KEY_A, BUS_VIRTUAL = 1, 30, 6


class NeedsRoot(Exception):
    """This probe cannot tell without root."""


Probe = Callable[[], str]


def _root() -> None:
    if os.geteuid() != 0:
        raise NeedsRoot


def kernel() -> str:
    release = platform.release()
    found = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if found < (6, 1):
        raise OSError(f"{release} is older than 6.1")
    return release


def privileges() -> str:
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


def veth() -> str:
    with _rtnl() as rtnl:
        rtnl.batch(lambda batch: batch.link("add", ifname="check0", kind="veth", peer="check1"))
    return ""


def bridge() -> str:
    with _rtnl() as rtnl:
        rtnl.batch(lambda batch: batch.link("add", ifname="checkbr", kind="bridge"))
    return ""


def clsact() -> str:
    with _rtnl() as rtnl:
        rtnl.batch(lambda batch: batch.tc("add", "clsact", index=rtnl.indices()["lo"]))
    return ""


def held_back() -> str:
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


def classifier() -> str:
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


def xdp() -> str:
    socket.socket(AF_XDP, socket.SOCK_RAW).close()
    return ""


def nftables() -> str:
    words = ("nft", "add table inet check; add chain inet check probe")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip().splitlines()[0])
    return ""


# -- the rest -------------------------------------------------------------------------------------


def btf() -> str:
    size = Path("/sys/kernel/btf/vmlinux").stat().st_size
    return f"{size >> 10} KiB"


def ring_buffer() -> str:
    _root()
    probe.ring_buffer()
    return ""


def drop_reasons() -> str:
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


def cgroup_v2() -> str:
    _root()
    with _group() as group:
        return str(group.path.parent.parent)


def limit(controller: cgroup.Controller) -> Probe:
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


def device_program() -> str:
    _root()
    listed = devices.DeviceList(own=False)
    with _group() as group:
        listed.attach(group.fd)
    return ""


def of_sockets(refused: Callable[[], str | None], what: str) -> str:
    """refused: why the kernel does not take `what`, or None."""
    _root()
    why = refused()
    if why is not None:
        raise OSError(f"the kernel refuses a BPF {what}: {why}")
    return ""


def user_namespace() -> str:
    _root()
    done = subprocess.run(("unshare", "--user", "true"), capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(done.stderr.strip())
    return ""


def _file_system(name: str, called: str) -> str:
    """Of a module, too, if there is one."""

    def there() -> bool:
        return name in Path("/proc/filesystems").read_text().split()

    if not there():
        subprocess.run(("modprobe", "-q", name), check=False)
    if not there():
        raise OSError(f"this kernel has no {called}")
    return ""


def overlay() -> str:
    return _file_system("overlay", "overlayfs (CONFIG_OVERLAY_FS)")


def erofs() -> str:
    return _file_system("erofs", "erofs (CONFIG_EROFS_FS)")


def idmap() -> str:
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


def pidfd() -> str:
    ours = os.pidfd_open(os.getpid())
    try:
        os.close(probe.descriptor_of(ours, 0))
    finally:
        os.close(ours)
    return ""


def seals() -> str:
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


def uinput() -> str:
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


def evdev() -> str:
    with _opened_node():
        return ""


def revoke() -> str:
    with _opened_node() as fd:
        fcntl.ioctl(fd, EVIOCREVOKE, 0)
        try:
            os.read(fd, 24)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return ""
            raise
    raise OSError("a revoked device could still be read")


def kvm() -> str:
    with open("/dev/kvm", "rb", buffering=0) as kvm:
        version = fcntl.ioctl(kvm, KVM_GET_API_VERSION)
    return f"API {version}; scripts/testvm finds out whether a guest boots under it"


def tool(name: str, package: str) -> Probe:
    def look() -> str:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if path is None:
            raise OSError(f"not found; package {package}")
        return path

    return look
