"""The transfer component of a VM: the BPF program at the tc egress of its eth0.

For each packet it looks up the VM's routing rule for the flow: a current one sends the packet by
the direct link to the next VM; none, or one of an older epoch, lets it go to the switch. It counts
both, so that what a VM sent can be held against what the switch and the direct links carried.
The rules come from the switch's classifier, in the kernel; this module puts the component in
place and reads the rules out.
"""

import errno
from typing import Any

from cext.bpf.objects import attach_ingress
from hostsim.vm import Vm
from netns.links import Rtnl, add_hook, batch_in

INGRESS = 0xFFFFFFF2
EGRESS = 0xFFFFFFF3
ROOT = 0xFFFFFFFF
"""TC_H_MIN_INGRESS and TC_H_MIN_EGRESS of clsact, and TC_H_ROOT."""


def add_program(batch: Any, index: int, program_fd: int, name: str, parent: int) -> None:
    """Put a direct-action program at an interface's clsact qdisc (tc-bpf(8), `add_hook`)."""
    batch.tc(
        "add-filter",
        "bpf",
        index=index,
        fd=program_fd,
        name=name,
        parent=parent,
        direct_action=True,
    )


def add_to_own(rtnl: Rtnl, netns_fd: int, index: int, program_fd: int, name: str) -> None:
    """Put a program at the ingress of an interface where nobody but hostsim wants filters: by tcx,
    which is cheaper, or else as `add_program` does. rtnl: in the namespace netns_fd. Raises
    OSError."""
    if attach_ingress(netns_fd, program_fd, index):
        return

    def fill(batch: Any) -> None:
        add_hook(batch, index)
        add_program(batch, index, program_fd, name, INGRESS)

    rtnl.batch(fill)


def hang(vm: Vm, index: int, program_fd: int, name: str, parent: int) -> None:
    """Put a program at an interface of a VM, whose user may have taken the hook away. Raises
    OSError."""

    def fill(batch: Any) -> None:
        add_hook(batch, index)
        add_program(batch, index, program_fd, name, parent)

    batch_in(vm.netns_fd, fill, (errno.EEXIST,))  # the hook is there


def attach(vm: Vm, program_fd: int) -> None:
    """Put the component into a VM. It goes with the VM's eth0. Raises OSError."""
    hang(vm, vm.eth0, program_fd, "hostsim:transfer_out", EGRESS)


def queue_drops(vm: Vm) -> int:
    """Packets that the kernel dropped between the VM's interfaces and their other ends."""
    rtnl = Rtnl(vm.netns_fd)
    try:
        return sum(link.get_attr("IFLA_STATS64")["tx_dropped"] for link in rtnl.links())
    finally:
        rtnl.close()


def shape(rtnl: Rtnl, index: int, rate: int) -> None:
    """Send by an interface at most `rate` bit/s (tc-tbf(8)). Raises OSError."""
    burst = max(rate // 8 // 100, 131072)  # ten milliseconds, and two super-packets
    rtnl.batch(
        lambda batch: batch.tc(
            "add", "tbf", index=index, rate=rate // 8, burst=burst, latency="50ms"
        )
    )


def unshape(rtnl: Rtnl, index: int) -> None:
    """Take away what `shape` made. Raises OSError."""
    rtnl.batch(lambda batch: batch.tc("del", index=index, parent=ROOT))
