# SPDX-License-Identifier: Apache-2.0
"""Rates: what the switch sends to a VM at most (tc-tbf(8) at its port)."""

import errno
from collections.abc import Iterator, Mapping

from hostsim.routing.holding import Keeps
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns import tc


class Rates(Mapping[int, int]):
    """bit/s, of the VMs that have one, by number."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._now: dict[int, int] = {}
        self._guard: Keeps | None = None

    def guarded_by(self, guard: Keeps) -> None:
        """Before there is any: `guard` keeps the queues at the ports."""
        self._guard = guard

    def __getitem__(self, index: int) -> int:
        return self._now[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def put(self, vm: Vm, rate: int | None) -> bool:
        """None: as fast as it goes. Whether that changes anything. Raises OSError."""
        before, port = self._now.get(vm.index), vm.port
        if rate == before:
            return False
        assert self._guard is not None
        if before is not None:
            self._guard.forget(port, tc.ROOT)
            del self._now[vm.index]
            try:
                tc.unshape(self._switch.rtnl, port)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL):
                    raise  # else somebody has taken it off a moment ago
        if rate is not None:
            wanted = rate
            tc.shape(self._switch.rtnl, port, wanted)
            self._now[vm.index] = wanted
            self._guard.queue(port, vm.spec.name, "tbf", lambda rtnl: tc.shape(rtnl, port, wanted))
        return True

    def again(self, vm: Vm) -> None:
        """It has a new port, and the rate that it had. Raises OSError."""
        self.put(vm, self.forget(vm))

    def forget(self, vm: Vm) -> int | None:
        """Its port is gone; the rate that it had."""
        return self._now.pop(vm.index, None)
