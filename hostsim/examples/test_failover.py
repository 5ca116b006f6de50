# SPDX-License-Identifier: Apache-2.0
"""A VM of a chain dies: the route's on_failure decides. A restart brings the VM back into it."""

import os
import signal
import time

import pytest

from hostsim import Host

HOST = """
[host]
name = "failover"
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[endpoint]]
name = "server"
address = "198.18.0.20/24"
[[vm]]
name = "one"
[[vm]]
name = "two"
[[route]]
match = { proto = "icmp" }
through = ["one", "two"]
on_failure = "skip"
"""
pytestmark = pytest.mark.hostsim(HOST)


def ping(host: Host) -> None:
    words = ("ping", "-q", "-c", "10", "-i", "0.02", "-W", "2", "198.18.0.20")
    host["client"].run(*words, check=True)


def chain(host: Host) -> list[str]:
    """The VMs that the newest flow passed."""
    found = [flow for flow in host.flows("icmp:198.18.0.10:*>*") if flow.hops]
    newest = max(found, key=lambda flow: int(flow.key.rpartition(":")[2]))
    return [hop.vm for hop in newest.hops if hop.packets]


def kill(host: Host, name: str, within: float = 10) -> None:
    """Kill a VM's process 1, and return once the host knows. Until then, its packets may pass.

    within: seconds
    """
    (vm,) = [vm for vm in host.status().vms if vm.name == name]
    pidfd = os.pidfd_open(vm.pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    deadline = time.monotonic() + within
    while any(vm.name == name and vm.state == "running" for vm in host.status().vms):
        assert time.monotonic() < deadline, f"the host does not know that {name} is dead"


def test_a_dead_vm_is_skipped_until_it_is_back(hostsim_host: Host) -> None:
    host = hostsim_host
    ping(host)
    assert chain(host) == ["one", "two"]
    kill(host, "two")
    ping(host)
    assert chain(host) == ["one"]
    host["two"].restart()
    ping(host)
    assert chain(host) == ["one", "two"]
