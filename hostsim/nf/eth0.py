# SPDX-License-Identifier: Apache-2.0
"""A packet function's eth0: an XDP program hands every frame to the function's AF_XDP socket.

It drops while there is none; ARP and broadcasts are the kernel's, which answers for the VM's own
addresses (cext/port/capture.bpf.c). The port on the switch floods nothing to it but broadcasts if
the VM has an address, learns nothing from it, and finishes checksums and segments before its frames
leave the kernel.
"""

import os
import struct

from cext.bpf import objects as bpf
from cext.ns.netns import offload
from hostsim.model import MTU
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.links import Rtnl

XDP_FLAGS_DRV_MODE = 4  # linux/if_link.h


class Eth0:
    """Of one VM. `prepare` once."""

    def __init__(self, vm: Vm, switch: Switch) -> None:
        self._vm = vm
        self._switch = switch
        self._capture: bpf.Object | None = None

    def prepare(self) -> None:
        """Make the switch's port and the VM's eth0 ready. Raises OSError."""
        vm = self._vm
        self._switch.rtnl.batch(
            lambda batch: batch.brport(
                "set",
                index=vm.port,
                learning=0,
                unicast_flood=0,
                mcast_flood=0,
                bcast_flood=int(bool(vm.spec.addresses)),  # ARP for them
            )
        )
        offload(self._switch.netns_fd, vm.spec.name, False)
        self._capture = bpf.Object("capture")
        name = "capture" if vm.spec.mtu <= MTU else "capture_pieces"
        program = [
            ("IFLA_XDP_FD", self._capture.program(name)),
            ("IFLA_XDP_FLAGS", XDP_FLAGS_DRV_MODE),
        ]
        rtnl = Rtnl(vm.netns_fd)
        try:
            rtnl.batch(lambda batch: batch.link("set", index=vm.eth0, state="up"))
            rtnl.batch(lambda batch: batch.link("set", index=vm.eth0, IFLA_XDP={"attrs": program}))
        finally:
            rtnl.close()

    def give(self, socket: int) -> None:
        """Frames go to this AF_XDP socket from now on; the descriptor is closed. Raises OSError."""
        assert self._capture is not None
        try:
            self._capture.map("sockets").set(struct.pack("=I", 0), struct.pack("=i", socket))
        finally:
            os.close(socket)

    def close(self) -> None:
        """Let go of the program; it goes with the interface. Twice is harmless."""
        if self._capture is not None:
            self._capture.close()
            self._capture = None
