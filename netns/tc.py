# SPDX-License-Identifier: Apache-2.0
"""Traffic control: BPF programs at an interface's clsact qdisc (tc-bpf(8)) and shapers (tc-tbf(8)).

Netlink by links.py; an interface is its number in the namespace behind a descriptor. What is said
to every port of a switch at once is packed here: pyroute2 takes 0.6 ms for such a message.
"""

import errno
import socket
import struct

from cext.bpf import objects
from netns import netlink
from netns.links import Batch, Packs, Rtnl, batch_in

INGRESS = 0xFFFFFFF2
EGRESS = 0xFFFFFFF3
ROOT = 0xFFFFFFFF
"""TC_H_MIN_INGRESS and TC_H_MIN_EGRESS of clsact, and TC_H_ROOT."""
CLSACT, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
"""TC_H_CLSACT, and the handle of what hangs there."""

RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER = 36, 37, 44, 45
NLM_F_REQUEST, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x200, 0x400
NEW = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_FQ_PLIMIT, TCA_FQ_FLOW_PLIMIT = 1, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT = 6, 7, 8, 1
"""linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h."""
FIRST = 1 << 16 | socket.htons(0x0003)
"""Of a filter: preference 1, and ETH_P_ALL, any protocol."""


def add_hook(batch: Packs, index: int) -> None:
    """Give an interface the qdisc that tc programs hang at (clsact, tc-bpf(8)). On one that is up
    the kernel stops the queue for that, and what is sent meanwhile is dropped."""
    kind = netlink.attribute(TCA_KIND, b"clsact\0")
    batch.packed(_message(RTM_NEWQDISC, NEW, index, CLSACT, kind, handle=CLSACT_HANDLE))


def add_program(batch: Packs, index: int, program_fd: int, name: str, parent: int) -> None:
    """Put a direct-action program first at an interface's clsact qdisc (tc-bpf(8), `add_hook`). The
    kernel answers EEXIST if it is there. A filter of another kind cannot come before it, one of its
    own kind that is added later does (net/sched/cls_bpf.c)."""
    options = netlink.attribute(TCA_BPF_FD, struct.pack("=I", program_fd))
    options += netlink.attribute(TCA_BPF_NAME, name.encode() + b"\0")
    options += netlink.attribute(TCA_BPF_FLAGS, struct.pack("=I", TCA_BPF_FLAG_ACT_DIRECT))
    kind = netlink.attribute(TCA_KIND, b"bpf\0")
    rest = kind + netlink.attribute(TCA_OPTIONS, options)
    batch.packed(_message(RTM_NEWTFILTER, NEW, index, parent, rest, handle=1, info=FIRST))


def put_back(rtnl: Rtnl, index: int, program_fd: int, name: str, parent: int) -> None:
    """`add_hook` and `add_program`, of whatever of them is not there. Raises OSError: ENODEV if
    there is no such interface."""
    _put(rtnl, index, program_fd, name, parent, (errno.EEXIST,))


def add_to_own(rtnl: Rtnl, netns_fd: int, index: int, program_fd: int, name: str) -> None:
    """Put a program at the ingress of an interface if nobody but hostsim wants filters: by tcx,
    which is cheaper, or else as `add_program` does. rtnl: in the namespace netns_fd. Raises
    OSError."""
    if objects.attach_tcx(netns_fd, program_fd, index):
        return
    _put(rtnl, index, program_fd, name, INGRESS)


def _put(
    rtnl: Rtnl,
    index: int,
    program_fd: int,
    name: str,
    parent: int,
    passed_over: tuple[int, ...] = (),
) -> None:
    def fill(batch: Packs) -> None:
        add_hook(batch, index)
        add_program(batch, index, program_fd, name, parent)

    rtnl.pack(fill, passed_over)


def add_hook_to_users(batch: Packs, index: int) -> None:
    """`add_hook` if `attach_egress` needs one: not if the kernel has tcx, which leaves the
    interface free for its user's own."""
    if not objects.has_tcx():
        add_hook(batch, index)


def attach(netns_fd: int, index: int, program_fd: int, name: str, parent: int) -> None:
    """Put a program at clsact in a namespace whose user may have taken the hook away, and may have
    filters of their own. Raises OSError."""

    def fill(batch: Batch) -> None:
        add_hook(batch, index)
        batch.tc(
            "add-filter",
            "bpf",
            index=index,
            fd=program_fd,
            name=name,
            parent=parent,
            direct_action=True,
        )

    batch_in(netns_fd, fill, (errno.EEXIST,))  # the hook is there


def attach_egress(netns_fd: int, index: int, program_fd: int, name: str) -> None:
    """Put a program at the egress of an interface whose user may want filters of their own: before
    theirs by tcx, or else as `attach` does, if it has this name. Raises OSError."""
    if not objects.attach_tcx(netns_fd, program_fd, index, egress=True):
        attach(netns_fd, index, program_fd, name, EGRESS)


def queue_drops(netns_fd: int) -> int:
    """Packets that the kernel dropped between a namespace's interfaces and their other ends."""
    rtnl = Rtnl(netns_fd)
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


def remove_programs(batch: Packs, index: int, parent: int) -> None:
    """Take away every program at one side of an interface's clsact qdisc."""
    batch.packed(_message(RTM_DELTFILTER, NLM_F_REQUEST, index, parent))


FQ_PACKETS = 100_000
"""That may wait at a port."""
NO_FQ = (errno.ENOENT, errno.EOPNOTSUPP)
"""`add_fq` of a kernel that has no such queue."""


def add_fq(rtnl: Rtnl, index: int) -> None:
    """Give an interface the queue that holds each packet until its time of departure (tc-fq(8)).
    Raises OSError: NO_FQ if the kernel has none."""
    limits = netlink.attribute(TCA_FQ_PLIMIT, struct.pack("=I", FQ_PACKETS))
    limits += netlink.attribute(TCA_FQ_FLOW_PLIMIT, struct.pack("=I", FQ_PACKETS))
    rest = netlink.attribute(TCA_KIND, b"fq\0") + netlink.attribute(TCA_OPTIONS, limits)
    rtnl.pour([_message(RTM_NEWQDISC, NEW, index, ROOT, rest)])


def unshape(rtnl: Rtnl, index: int) -> None:
    """Take away what `shape` or `add_fq` made. Raises OSError."""
    rtnl.pack(lambda batch: batch.packed(_message(RTM_DELQDISC, NLM_F_REQUEST, index, ROOT)))


def _message(
    kind: int,
    flags: int,
    index: int,
    parent: int,
    attributes: bytes = b"",
    *,
    handle: int = 0,
    info: int = 0,
) -> bytes:
    """A struct tcmsg and its attributes."""
    body = struct.pack("=BxxxiIII", socket.AF_UNSPEC, index, handle, parent, info) + attributes
    return netlink.pad(netlink.pack(kind, flags, 0, body))
