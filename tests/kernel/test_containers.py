# SPDX-License-Identifier: Apache-2.0
"""Containers in a VM that may make user namespaces (`containers = true`): bwrap as it is works in
one that boots and in one that does not; what the fence keeps is kept from user 0 of a container,
who has every capability there. Whatever else that one tries is in tests/kernel/test_user0.py."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from help import cli, roots
from help.cli import ask
from help.programs import PROGRAMS
from help.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

NAME = "hsnest"
FILE = f"""[host]
name = "{NAME}"
[[vm]]
name = "booted"
root = "{{root}}"
boot = true
containers = true
[[vm]]
name = "plain"
root = "{{root}}"
containers = true
memory = "256M"
share = ["{PROGRAMS}:ro"]
[[vm]]
name = "closed"
root = "{{root}}"
"""
BWRAP = ("bwrap", "--unshare-all", "--bind", "/", "/", "--proc", "/proc", "--dev", "/dev")
OWN = ("unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--cgroup")
SLEEPER = b"sleep\x00600\x00"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with cli.host(FILE.format(root=roots.booting()), tmp_path_factory.mktemp("nest")):
        yield


def tried(vm: str, *words: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a program in the VM."""
    done = cli.hostsim("--host", NAME, "exec", vm, "--", *words, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def contained(script: str, vm: str = "plain") -> tuple[int, str, str]:
    """Of a script that user 0 of new namespaces runs in the VM."""
    return tried(vm, *OWN, "sh", "-c", script)


@pytest.mark.parametrize("vm", ["booted", "plain"])
def test_bwrap_works(host: None, vm: str) -> None:
    script = "cut -d' ' -f1 /proc/self/stat; id -u; ls /proc/sys/net/ipv4/conf"
    code, out, errors = tried(vm, *BWRAP, "sh", "-c", script)
    assert code == 0, errors
    pid, user, *links = out.split()
    assert int(pid) < 10  # its own PID namespace, and a /proc of it
    assert (user, links) == ("0", ["all", "default", "lo"])
    # a container in a container
    assert tried(vm, *BWRAP, *BWRAP, "true")[0] == 0


def test_the_namespaces_of_a_vm_that_did_not_ask_are_closed(host: None) -> None:
    code, _, errors = tried("closed", *BWRAP, "true")
    assert code != 0
    assert "No permissions to create new namespace" in errors
    assert contained("true", "closed") == (
        1,
        "",
        "unshare: unshare failed: Operation not permitted",
    )


@pytest.mark.parametrize("way", ["/proc", "new"])
def test_what_it_reads_and_writes_of_the_kernel_is_the_vms(host: None, way: str) -> None:
    """In the VM's own /proc, whose covers stay, and in a new one, where owners decide."""
    script = "mount -t proc proc /proc; " if way == "new" else ""
    read = [f"/proc/{name}" for name in ("kcore", "slabinfo", "vmallocinfo", "timer_list")]
    written = [f"/proc/{name}" for name in ("sysrq-trigger", "sys/kernel/core_pattern")]
    script += f"cat {' '.join(read)}; for file in {' '.join(written)}; do "
    code, out, _ = contained(script + "! echo h > $file || echo wrote $file; done; echo end")
    assert (code, out) == (0, "end")


HELD = {
    **dict.fromkeys(("uncover /proc/sys", "uncover /sys/firmware", "uncover /"), "EINVAL"),
    "/proc without its covers": "EINVAL",
    "/proc elsewhere": "EINVAL",
    "/proc/sys to be written": "EPERM",
    "/sys without its covers": "EPERM",
    "a disk": "EPERM",
    "a device": "EPERM",
    "a device on a mount of its own": "EPERM",
    "the network of process 1": "EACCES",
    "a mount of its own": "done",
    "the VM's files, bound": "done",
}


def test_the_mounts_of_the_vm_hold_in_it(host: None) -> None:
    code, out, errors = contained(f"/usr/bin/python3 -I {PROGRAMS / 'mounts.py'}")
    assert code == 0, errors
    assert json.loads(out) == HELD


@pytest.mark.parametrize("vm", ["booted", "plain"])
def test_the_limits_stay_above_it(host: None, vm: str) -> None:
    """It mounts the control groups that it is in, and raises nothing there."""
    script = "mount -t cgroup2 c /tmp && cd /tmp && "
    script += "for f in memory.max pids.max cgroup.freeze cgroup.kill; do "
    script += "[ ! -e $f ] || ! echo 1 > $f || echo wrote $f; done; ls cgroup.procs"
    code, out, errors = contained(script, vm)
    assert (code, out) == (0, "cgroup.procs"), errors


def test_all_in_it_ends_with_the_vm(host: None) -> None:
    vms = {one["name"]: one for one in ask("--host", NAME, "status")["vms"]}
    group = Path(vms["plain"]["cgroup"])
    script = f"setsid {' '.join(OWN)} sleep 600 >/dev/null 2>&1 & echo started"
    assert tried("plain", "sh", "-c", script)[:2] == (0, "started")
    until(lambda: SLEEPER in lines(group), 30, "the container's program runs")
    cli.hostsim("--host", NAME, "restart", "plain")
    assert lines(group) != []
    assert SLEEPER not in lines(group)


def lines(group: Path) -> list[bytes]:
    """The command lines of the processes in a control group and below."""
    found = []
    for listed in group.rglob("cgroup.procs"):
        for pid in listed.read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return found
