# SPDX-License-Identifier: Apache-2.0
"""The classifier in the kernel: its programs and maps, and what is run in them.

    Loaded().load()              blocks; the verifier takes its time
    program(name), map(name)     descriptors and maps of the object (cext/switch/classifier.bpf.c)
    tell, forget, sweep, ...     change or read what several programs know, in the kernel, in one go

What concerns one flow is done by programs of the kernel's, since the classifier runs meanwhile.
"""

import threading
import time
from collections.abc import Iterable, Mapping

from cext.bpf import objects as bpf
from cext.switch import maps, records
from cext.switch.records import Tuple
from hostsim.errors import HostsimError
from hostsim.model import BESIDE, VmSpec
from hostsim.routing import memory

FOR_TESTS = ("judge",)
"""Programs of the object that tests alone run: the verifier need not look at them."""
NOBODYS = "00:00:00:00:00:00"
"""The address of what has none."""


class Loaded:
    """Owns the object. `close` twice is harmless; the kernel's last reference to the programs goes
    with the interfaces."""

    def __init__(self, boots: bool = False) -> None:
        """boots: whether systems boot meanwhile, see memory.py."""
        self._boots = boots
        self._object: bpf.Object | None = None
        self._sweeping = threading.Lock()

    def load(self) -> None:
        """Once. Raises OSError."""
        flags = memory.flags(memory.memory(), self._boots)
        self._object = bpf.Object("classifier", flags=flags, without=FOR_TESTS)

    def close(self) -> None:
        if self._object is not None:
            self._object.close()
            self._object = None

    @property
    def there(self) -> bool:
        """Whether it is loaded."""
        return self._object is not None

    def map(self, name: str) -> bpf.Map:
        """Raises HostsimError if nothing is loaded."""
        return self._there().map(name)

    def program(self, name: str) -> int:
        """The descriptor, which stays this object's. Raises HostsimError if nothing is loaded."""
        return self._there().program(name)

    def _there(self) -> bpf.Object:
        if self._object is None:
            raise HostsimError("data plane", "it is not there")
        return self._object

    def tell(self, flow: Tuple, content: int) -> bool:
        """The contents of a flow told a name, by its number. Whether its connection is known."""
        return maps.tell(self.program("tell"), flow, content)

    def forget(self, vm: int, flow: Tuple) -> None:
        """What was decided of a flow at a VM's port; its counts stay."""
        maps.forget(self.program("forget"), vm, flow)

    def drop_flow(self, vm: int, flow: Tuple) -> None:
        """All of a flow at a VM's port, its counts too."""
        maps.drop_flow(self.program("drop"), vm, flow)

    def sweep(self, idle: float, gone: int) -> None:
        """All of the flows that were silent so long (seconds), and of those of a VM that is gone,
        by its number (0: of none). Nothing if nothing is loaded."""
        if self._object is not None:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            with self._sweeping:
                maps.sweep(self.program, self.map, now, int(idle * 1e9), gone)

    def remembers(self, vm: int, flow: Tuple) -> bool:
        """Whether anything is known of a flow that a VM sends."""
        return self.map("flows").get(maps.pack_key(vm, flow)) is not None

    def write_vm(
        self,
        number: int,
        mac: str,
        spec: VmSpec,
        *,
        alive: bool,
        on_switch: bool,
        unlike: bool,
        impaired: bool,
        queued: bool,
    ) -> None:
        """How a VM or endpoint stands.

        mac: eth0's address now
        alive: the switch can reach it
        on_switch: the switch must see all of its packets
        unlike: its own network is not as hostsim made it
        impaired: its link is
        queued: its port has a queue of its own (`rate`), which nothing goes past
        """
        flags = records.VM_ALIVE if alive else 0
        if spec.endpoint:
            flags |= records.VM_ENDPOINT
        elif spec.nf is None:  # a packet NF is transparent
            flags |= records.VM_ROUTES
        flags |= records.VM_PORT if spec.nf is not None else 0
        flags |= records.VM_ON_SWITCH if on_switch else 0
        flags |= records.VM_UNLIKE if unlike else 0
        flags |= records.VM_ROUTER if spec.router else 0
        flags |= records.VM_IMPAIRED if impaired else 0
        longest = 0 if queued else spec.mtu + BESIDE
        self.map("vms").set(maps.pack_u32(number), maps.pack_vm(mac, flags, longest))

    def write_uplink(self, number: int) -> None:
        """What is outside says nothing of epochs. There may be routers."""
        outside = records.VM_ALIVE | records.VM_ENDPOINT | records.VM_ROUTER
        self.map("vms").set(maps.pack_u32(number), maps.pack_vm(NOBODYS, outside))

    def forget_vm(self, number: int, spec: VmSpec) -> None:
        """The switch reaches nobody of that number any more. What is known of a packet function's
        flows is still for the daemon to fold."""
        flags = records.VM_PORT if spec.nf is not None else 0
        self.map("vms").set(maps.pack_u32(number), maps.pack_vm(NOBODYS, flags))

    def write_owners(self, owners: Mapping[bytes, int]) -> None:
        """Whose these addresses (packed) are, by the VM's number, or the `both` of two VMs."""
        for address, number in owners.items():
            self.map("owners").set(maps.pack_owner(address), maps.pack_u32(number))

    def forget_owners(self, addresses: Iterable[bytes]) -> None:
        """These addresses are nobody's any more."""
        for address in addresses:
            self.map("owners").delete(maps.pack_owner(address))
