# SPDX-License-Identifier: Apache-2.0
"""What VMs need in their own networks and at their ports, apart from the policy. It is made in any
thread, since it waits for the kernel's locks: the daemon's loop goes on meanwhile.

    await in_thread(readying.joining(vms))      before they are known to the data plane
    await in_thread(readying.preparing(routes)) before a policy with these routes comes
    await in_thread(readying.renewing(vm))      before a VM that was made anew is back

One of them at a time (`Changes.turn`).
"""

from collections.abc import Callable, Mapping, Sequence

from hostsim.model import RouteSpec
from hostsim.routing import chains
from hostsim.routing.impair import Impairments
from hostsim.routing.rates import Rates
from hostsim.vm import Vm

Work = Callable[[], None]
"""It raises OSError, HostsimError."""


class Readying:
    """Of one host. vms: all, by name; transfer: the program of the transfer component; policy: the
    routes in force."""

    def __init__(
        self,
        vms: Mapping[str, Vm],
        rates: Rates,
        impairments: Impairments,
        transfer: Callable[[], int],
        policy: Callable[[], Sequence[RouteSpec]],
    ) -> None:
        self._vms = vms
        self._rates = rates
        self._impairments = impairments
        self._transfer = transfer
        self._policy = policy
        self._ready: set[int] = set()  # those that can be in a chain, by number
        self._renewed: set[int] = set()  # those whose new port is ready

    def preparing(self, routes: Sequence[RouteSpec]) -> Work:
        """What makes the VMs of these routes' chains ready that are not yet."""
        names = dict.fromkeys(name for route in routes for name in route.through)
        vms = [self._vms[name] for name in names]
        return self._preparer([vm for vm in vms if vm.index not in self._ready])

    def joining(self, vms: Sequence[Vm]) -> Work:
        """What gives the ports of VMs that are new what they are to have."""

        def join() -> None:
            for vm in vms:
                self._rates.put(vm, vm.spec.rate)
                self._impairments.port_back(vm)

        return join

    def renewing(self, vm: Vm) -> Work:
        """What makes a VM's new port and eth0 what the former ones were."""
        in_chain = any(vm.spec.name in route.through for route in self._policy())
        prepare = self._preparer([vm] if in_chain else [])

        def renew() -> None:
            self._ready.discard(vm.index)
            self._rates.again(vm)
            self._impairments.port_back(vm)
            prepare()
            self._renewed.add(vm.index)

        return renew

    def back(self, vm: Vm) -> None:
        """It is back; what `renewing` does is done here if nobody has done it. Raises OSError,
        HostsimError."""
        if vm.index not in self._renewed:
            self.renewing(vm)()
        self._renewed.discard(vm.index)

    def forget(self, vm: Vm) -> None:
        """It has left: whatever has its number next is not ready."""
        self._ready.discard(vm.index)
        self._renewed.discard(vm.index)

    def _preparer(self, vms: Sequence[Vm]) -> Work:
        transfer, everybody = self._transfer(), list(self._vms.values())

        def prepare() -> None:
            for vm in vms:
                chains.prepare(vm, everybody, transfer)
                self._ready.add(vm.index)

        return prepare
