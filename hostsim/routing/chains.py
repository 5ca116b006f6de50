# SPDX-License-Identifier: Apache-2.0
"""What a VM needs to be in a chain: it forwards, knows the way to everybody, and has the transfer
component at its eth0."""

from collections.abc import Sequence

from hostsim.routing.watch import TRANSFER
from hostsim.switch import reach, subnets
from hostsim.vm import Vm
from netns import tc

ROUTER = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.eth0.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.eth0.send_redirects": "0",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.eth0.accept_redirects": "0",
    "net.ipv6.conf.all.accept_redirects": "0",
    "net.ipv6.conf.eth0.accept_redirects": "0",
}
"""What a chain's VM needs to send on what came in by the same eth0, and to tell nobody of a
shorter way."""


def prepare(vm: Vm, everybody: Sequence[Vm], transfer: int) -> None:
    """Make a VM ready. everybody: all VMs and endpoints; transfer: the program of the transfer
    component. Raises OSError."""
    vm.sysctl(ROUTER)
    if not vm.spec.addresses:
        reach(vm, subnets(everybody), everybody)
    tc.attach_egress(vm.netns_fd, vm.eth0, transfer, TRANSFER)
