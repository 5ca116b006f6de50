# SPDX-License-Identifier: Apache-2.0
"""The list of capabilities and the filter of system calls, each taken out: what fails in a VM then
succeeds. So it is that defence which makes it fail, and a probe that shows nothing is none.

A program comes into the VM's namespaces by nsenter(1), which knows nothing of either: as it is, or
with a VM's capabilities.
"""

import json
import subprocess
import sys

import pytest

from help.programs import PROGRAMS
from help.syscalls import numbers
from hostsim.vm import Vm

pytestmark = pytest.mark.root

ESCAPE = str(PROGRAMS / "escape.py")
KEPT = "chown dac_override fowner fsetid kill setgid setuid setpcap setfcap net_bind_service"
KEPT += " net_broadcast net_admin net_raw ipc_lock ipc_owner sys_chroot lease audit_write"
LISTED = ("setpriv", "--inh-caps=-all", "--bounding-set=-all,+" + ",+".join(KEPT.split()))
"""Runs a program with the capabilities of VMs (vm/confine.c)."""
BY_FILTER = {
    "a user namespace": "EPERM",
    "a key": "ENOSYS",
    "a new table of descriptors": "EPERM",
}
"""What the filter refuses and nothing else does."""
BY_LIST = {
    "a mount namespace": "EPERM",
    "a name of the machine": "EPERM",
    "another user's environment": "EACCES",
}
"""What wants a capability that VMs do not have."""
PROBES = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
sleeper, add_key = map(int, sys.argv[1:])
def said(returned):
    return errno.errorcode[ctypes.get_errno()] if returned < 0 else "done"
def apart(probe):
    ours, theirs = os.pipe()
    if not os.fork():
        os.write(theirs, probe().encode())
        os._exit(0)
    os.wait()
    return os.read(ours, 100).decode()
def renamed():
    if libc.unshare(0x04000000) < 0:  # CLONE_NEWUTS
        return said(-1)
    return said(libc.sethostname(b"x", 1))
def read():
    try:
        with open(f"/proc/{sleeper}/environ", "rb") as file:
            file.read(1)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
process = ctypes.c_long(-2)  # KEY_SPEC_PROCESS_KEYRING
key = (ctypes.c_long(add_key), b"user", b"hostsim-test", b"x", ctypes.c_size_t(1), process)
print(json.dumps({
    "a user namespace": apart(lambda: said(libc.unshare(0x10000000))),
    "a key": apart(lambda: said(libc.syscall(*key))),
    "a new table of descriptors": apart(lambda: said(libc.unshare(0x400))),
    "a mount namespace": apart(lambda: said(libc.unshare(0x00020000))),
    "a name of the machine": apart(renamed),
    "another user's environment": apart(read),
}))
"""


def from_outside(vm: Vm, *words: str) -> str:
    """What a program says that comes into the VM by nobody's rules."""
    argv = ["nsenter", "--target", str(vm.pid), "--all", *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_what_the_filter_and_the_list_refuse(vm: Vm) -> None:
    """In a VM; without the filter; without both."""
    other = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c"]
    sleeper = vm.popen([*other, "echo $$; exec sleep 600"], stdout=subprocess.PIPE)
    assert sleeper.stdout is not None
    pid = sleeper.stdout.readline().decode().strip()  # as the VM numbers it
    calls = dict(one.split("=") for one in numbers())
    probes = [sys.executable, "-c", PROBES, pid, calls["add_key"]]
    inside = vm.run(probes)
    assert inside.returncode == 0, inside
    assert json.loads(inside.stdout) == BY_FILTER | BY_LIST
    unfiltered = json.loads(from_outside(vm, *LISTED, *probes))
    assert unfiltered == dict.fromkeys(BY_FILTER, "done") | BY_LIST
    assert json.loads(from_outside(vm, *probes)) == dict.fromkeys(BY_FILTER | BY_LIST, "done")


def test_socket_families_without_the_filter(vm: Vm) -> None:
    """Those that are not in the filter's list: the kernel has some of them, or says otherwise."""
    inside = vm.run([sys.executable, ESCAPE, "families"])
    assert inside.returncode == 0, inside
    refused = {what for what, how in json.loads(inside.stdout).items() if how == "EAFNOSUPPORT"}
    outside = json.loads(from_outside(vm, *LISTED, sys.executable, ESCAPE, "families"))
    there = {what: how for what, how in outside.items() if what in refused and how == "done"}
    assert there, outside
