# SPDX-License-Identifier: Apache-2.0
"""What the classifier is told of each VM: whether the switch reaches it, whether its own network is
as hostsim made it, and whether the switch must see all of its packets.

    lost, back, renewed      for which reasons it is not reached; a reason is a word
    stands                   what was seen of its network
    impaired                 whose links are; rates and `offload` are looked up

`write` tells it. Who changes something that `write` says calls it next.
"""

from collections.abc import Collection, Mapping

from hostsim.routing.loaded import Loaded
from hostsim.routing.watch import Standing
from hostsim.vm import Vm

UNSEEN = Standing("", "")
"""Of a VM that has not been looked at."""


class Told:
    """Of one host. rates: of the VMs that have one, by number."""

    def __init__(self, loaded: Loaded, rates: Mapping[int, int]) -> None:
        self._loaded = loaded
        self._rates = rates
        self._gone: dict[int, set[str]] = {}
        self._standing: dict[int, Standing] = {}
        self._impaired: frozenset[int] = frozenset()

    def write(self, vm: Vm) -> None:
        """Raises OSError."""
        standing = self._standing.get(vm.index, UNSEEN)
        impaired, queued = vm.index in self._impaired, vm.index in self._rates
        self._loaded.write_vm(
            vm.index,
            standing.mac or vm.mac,
            vm.spec,
            alive=vm.index not in self._gone,
            on_switch=queued or impaired or not vm.spec.offload,
            unlike=bool(standing.why),
            impaired=impaired,
            queued=queued,
        )

    def lost(self, vm: Vm, why: str) -> bool:
        """It cannot be reached. Whether it was reached until now. Twice is harmless."""
        known = vm.index in self._gone
        self._gone.setdefault(vm.index, set()).add(why)
        return not known

    def back(self, vm: Vm, why: str) -> bool:
        """This reason is none any more. Whether it was the last one. Twice is harmless."""
        if vm.index not in self._gone:
            return False
        self._gone[vm.index].discard(why)
        if self._gone[vm.index]:
            return False
        del self._gone[vm.index]
        return True

    def renewed(self, vm: Vm) -> None:
        """It was started again, and is not reached for the one reason that it has no `link`."""
        self._standing.pop(vm.index, None)
        self._gone[vm.index] = {"link"}

    def stands(self, vm: Vm, standing: Standing) -> str:
        """How its network stands now. Why it was unlike what hostsim made, until now."""
        before = self._standing.get(vm.index, UNSEEN).why
        self._standing[vm.index] = standing
        return before

    def impaired(self, now: frozenset[int]) -> frozenset[int]:
        """The VMs that have an impaired link. Those of which that is news."""
        before, self._impaired = self._impaired, now
        return before ^ now

    def forget(self, vm: Vm) -> None:
        """It has left. Raises OSError."""
        self._loaded.forget_vm(vm.index, vm.spec)
        self._standing.pop(vm.index, None)
        self._gone.pop(vm.index, None)

    def reached(self, numbers: Collection[int]) -> frozenset[int]:
        """Those that the switch reaches."""
        return frozenset(numbers) - self._gone.keys()

    @property
    def unlike(self) -> dict[int, str]:
        """The VMs whose network is unlike what hostsim made, and why."""
        return {vm: one.why for vm, one in self._standing.items() if one.why}
