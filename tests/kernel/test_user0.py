# SPDX-License-Identifier: Apache-2.0
"""User 0 of a plain VM, an endpoint, a packet function, an OS, one that boots systemd of a root
of its own and a container in a VM tries to get out, by everything that was ever thought of and by
system calls at random: none of it succeeds, and outside nothing changes. What the same tries do
without the fence is in tests/kernel/test_fence.py and its kin.

HOSTSIM_CALLS, HOSTSIM_SEED: how many system calls, and which; 200 if it is not given.
"""

import ctypes
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cext
import hostsim as product
import netns
from help import cli, roots
from help.cli import HOSTSIM, ask
from help.net import endpoint
from help.programs import PROGRAMS
from help.syscalls import numbers
from help.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

NAME = "hsuz"
SEED = int(os.environ.get("HOSTSIM_SEED", "20240811"))
CALLS = int(os.environ.get("HOSTSIM_CALLS", "200"))
USER0 = PROGRAMS / "user0.py"
FILE = f"""[host]
name = "{NAME}"
[[vm]]
name = "plain"
[[vm]]
name = "nf"
nf = "escaping:play"
share = ["{{out}}"]
[[vm]]
name = "os"
[vm.os]
[[vm]]
name = "booted"
root = "{{root}}"
boot = true
share = ["{PROGRAMS}:ro"]
[[vm]]
name = "nest"
root = "{{root}}"
containers = true
share = ["{PROGRAMS}:ro"]
{endpoint("end", "198.18.95.10/24")}"""
FUNCTION = """
import os, runpy, sys

def play(port):
    if not os.path.exists("{out}/said"):
        pid = os.fork()
        if pid == 0:
            fd = os.open("{out}/new", os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(fd, 1)
            sys.argv[1:] = {words!r}
            runpy.run_path("{user0}", run_name="__main__")
            os.rename("{out}/new", "{out}/said")
            os._exit(0)
    for batch in port:
        pass
"""
"""What runs in the process of a packet function, with all its descriptors."""

NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80)
"""CLONE_NEW* (sched.h)."""
MOVING = ("kernel/random", "kernel/ns_last_pid", "fs/dentry", "fs/inode", "fs/file-nr", "net/")
"""Of the kernel's parameters, those that move by themselves, or are of some namespace."""


def hashed(*folders: Path) -> dict[str, str]:
    """Mode, owner and contents of every file below."""
    found = {}
    for path in (path for folder in folders for path in [folder, *folder.rglob("*")]):
        about = path.lstat()
        digest = ""
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = f"{about.st_mode:o} {about.st_uid} {about.st_gid} {digest}"
    return found


def lines(path: str) -> list[str]:
    """Of a file of /proc; none if the kernel has no such file."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def parameters() -> dict[str, str]:
    """The kernel's, that can be written."""
    root, found = Path("/proc/sys"), {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if not name.startswith(MOVING) and path.is_file() and path.stat().st_mode & 0o222:
            try:
                found[name] = path.read_text(errors="replace")
            except OSError:  # one that is only written
                continue
    return found


def outside() -> dict[str, object]:
    """What a VM must not change of the machine."""
    devices = {
        path: (os.stat(path).st_mode, os.stat(path).st_uid)
        for path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/tty", "/dev/ptmx")
    }
    links = json.loads(cli.run("ip", "-n", f"hs-{NAME}-switch", "-json", "link").stdout)
    ours = [Path(module.__path__[0]) for module in (product, netns, cext)]
    return {
        "files": hashed(Path("/etc"), Path("/boot"), PROGRAMS, *ours),
        "shell": os.stat(os.path.realpath("/bin/sh")).st_mode,
        "devices": devices,
        "parameters": parameters(),
        "modules": sorted(line.split()[0] for line in lines("/proc/modules")),
        "mounts": sorted(line.split()[4] for line in lines("/proc/self/mountinfo")),
        "host name": os.uname().nodename,
        "links": sorted((link["ifindex"], link["ifname"]) for link in links),
        "namespaces": sorted(os.listdir("/run/netns")),
        "swaps": Path("/proc/swaps").read_text().count("\n"),
    }


def loose() -> list[str]:
    """Processes that run what VMs were given, outside of VMs."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and str(USER0).encode() in (folder / "cmdline").read_bytes():
                groups = (folder / "cgroup").read_text()
                if f"/hs-{NAME}/" not in groups:
                    found.append((folder / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture(scope="module")
def key() -> Iterator[None]:
    """Of the machine's user 0, who the VM's user 0 seems to be."""
    libc = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_long
    number = libc.syscall(word(248), b"user", b"hostsim-probe", b"secret", word(6), word(-4))
    assert number > 0
    yield
    libc.syscall(word(250), word(21), word(number))  # KEYCTL_INVALIDATE


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, key: None) -> Iterator[Path]:
    """A host with one VM of each kind is up; where the packet function's answer appears."""
    folder = tmp_path_factory.mktemp("user0")
    words = [str(SEED + 3), str(CALLS), *numbers()]
    made = folder / "out"
    made.mkdir()
    (folder / "escaping.py").write_text(FUNCTION.format(out=made, user0=USER0, words=words))
    with cli.host(FILE.format(out=made, root=roots.booting()), folder):
        yield made


def by_exec(name: str, seed: int, *python: str) -> Callable[[Path], str]:
    def run(_: Path) -> str:
        program = python or (sys.executable,)
        words = [HOSTSIM, "--host", NAME, "exec", name, "--", *program, "-I", str(USER0)]
        argv = [*words, str(seed), str(CALLS), *numbers()]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def by_function(out: Path) -> str:
    until(lambda: (out / "said").exists(), 200)
    return (out / "said").read_text()


CONTAINER = ("unshare", "-Urnmpfiu", "--cgroup", "--kill-child", "--mount-proc")
WAYS = {
    "plain": by_exec("plain", SEED),
    "end": by_exec("end", SEED + 1),
    "os": by_exec("os", SEED + 2),
    "nf": by_function,
    "booted": by_exec("booted", SEED + 4, "/usr/bin/python3"),
    "nest": by_exec("nest", SEED + 5, *CONTAINER, "/usr/bin/python3"),
}


OWN = {
    "booted": ["cgroup"],
    "nest": sorted(
        [
            *("fsopen", "sethostname", "setdomainname", "max_user_namespaces"),
            *(f"setns {kind}" for kind in ("mnt", "net", "pid", "uts")),
            *(f"unshare {flag:x}" for flag in NAMESPACES),
        ]
    ),
}
"""What succeeds, of a VM's own: the groups that its systemd divides; of a container's own: the
namespaces that it is in, and new ones."""


@pytest.mark.parametrize("kind", WAYS)
def test_user_0_stays_in(out: Path, kind: str) -> None:
    before = outside()
    said = json.loads(WAYS[kind](out))
    assert said["done"] == OWN.get(kind, [])
    assert said["tried"] > 50
    assert said["fuzzed"] == CALLS
    assert said["calls"] > CALLS // 2
    after = outside()
    for what, was in before.items():
        assert after[what] == was, what
    assert loose() == []
    states = {one["name"]: one["state"] for one in ask("--host", NAME, "status")["vms"]}
    assert {name: how for name, how in states.items() if name != kind} == dict.fromkeys(
        states.keys() - {kind}, "running"
    )
