# SPDX-License-Identifier: Apache-2.0
"""Impaired links: the program at the exits of the switch's ports, and which link it does what to.

    Impairments(switch, vms).put(ends(links))   these are impaired from now on, and no others
    let_go()                                    once the classifier has been told

The program (cext/switch/impair.bpf.c) is there while a link is impaired, and costs nothing else.
What the classifier marks for it is lost without it, so it goes last.
Flows over an impaired link stay on the switch, which alone sees all of their packets: the data
plane's part (dataplane.py). What has to wait, for delay, jitter and rate, is held by holding.py.
"""

import contextlib
import errno
from dataclasses import replace

from cext.bpf import objects as bpf
from cext.ns.netns import offload
from cext.switch import impair, records
from cext.switch.impair import Impaired
from hostsim.errors import HostsimError
from hostsim.model import Json, LinkSpec
from hostsim.routing.holding import Holding, Keeps
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns import tc
from netns.links import Packs

DIRECTIONS = {"in": impair.IN, "out": impair.OUT}
PROGRAM = "hostsim:impair"

NOTHING = LinkSpec("")
Ends = dict[tuple[str, str], Impaired]
"""What is impaired: by VM and direction."""


def ends(links: tuple[LinkSpec, ...]) -> Ends:
    """The directions of these links, one by one. Pure."""
    found: Ends = {}
    for link in links:
        if replace(link, of="", direction="both", seed=0) == NOTHING:
            continue
        for place, direction in enumerate(DIRECTIONS):
            if link.direction in (direction, "both"):
                found[link.of, direction] = Impaired(
                    seed=link.seed * 2 + place,
                    loss=link.loss,
                    duplicate=link.duplicate,
                    corrupt=link.corrupt,
                    reorder=link.reorder,
                    delay=link.delay,
                    jitter=link.jitter,
                    rate=link.rate or 0,
                    down=link.down,
                )
    return found


def impaired_by(now: Ends, link: LinkSpec) -> Ends:
    """What is impaired if, beside `now`, this link is in the directions that it names. Pure."""
    others = {
        key: end
        for key, end in now.items()
        if key[0] != link.of or link.direction not in (key[1], "both")
    }
    return others | ends((link,))


class Impairments:
    """Of one host. `close` twice is harmless."""

    def __init__(self, switch: Switch, vms: dict[str, Vm]) -> None:
        self._switch = switch
        self._vms = vms
        self._object: bpf.Object | None = None
        self._now: Ends = {}
        self._holding = Holding(switch)
        self._guard: Keeps | None = None

    def guarded_by(self, guard: Keeps) -> None:
        """Before anything is impaired: `guard` keeps the program and the queues at the ports."""
        self._guard = guard
        self._holding.guarded_by(guard)

    @property
    def impaired(self) -> frozenset[int]:
        """The VMs with an impaired link, by number."""
        return frozenset(self._vms[name].index for name, _ in self._now)

    def now(self) -> Ends:
        """What is impaired."""
        return dict(self._now)

    def put(self, wanted: Ends) -> None:
        """Have these ends impaired, and no others; one that stays as it is goes on counting. Raises
        HostsimError, with nothing changed, if the kernel cannot; OSError."""
        timed = any(end.timed for end in wanted.values())
        if timed:
            self._refuse_rates()
        if wanted and self._object is None:
            self._attach()
        if timed:
            self._hold()
        if self._object is not None:
            links, by_line = self._object.map("links"), self._holding.by_line
            for name, direction in self._now.keys() | wanted.keys():
                end = wanted.get((name, direction))
                if end != self._now.get((name, direction)):
                    impair.write(links, self._vms[name].index, DIRECTIONS[direction], end, by_line)
        spoilt = any(end.corrupt for end in wanted.values())
        if spoilt != any(end.corrupt for end in self._now.values()):
            self._finish_checksums(spoilt)
        self._now = dict(wanted)
        if not timed:
            self._holding.release()

    def let_go(self) -> None:
        """Take the program away, if no link is impaired. The classifier marks nothing for it any
        more. Raises OSError."""
        if not self._now:
            self._detach()

    def port_back(self, vm: Vm) -> None:
        """A VM has a new port, and a new eth0. Raises OSError."""
        self._holding.forget(vm.port)
        if self._object is not None:
            self._run_at({vm.port: vm.spec.name}, self._object.program("impair"))
        if any(end.timed for end in self._now.values()):
            self._holding.hold({vm.port: vm.spec.name})
        if any(end.corrupt for end in self._now.values()):
            offload(vm.netns_fd, "eth0", False)

    def rows(self) -> list[Json]:
        """Each impaired direction, and what befell its packets. Raises OSError."""
        return [
            {
                "vm": name,
                "direction": direction,
                "delay_ms": end.delay / 1e6,
                "jitter_ms": end.jitter / 1e6,
                "loss": end.loss,
                "duplicate": end.duplicate,
                "reorder": end.reorder,
                "corrupt": end.corrupt,
                "rate": end.rate or None,
                "seed": end.seed // 2,
                "down": end.down,
                **self._befell(name, direction),
            }
            for (name, direction), end in sorted(self._now.items())
        ]

    def close(self) -> None:
        """Drop the program, which goes with the ports, and what is held back."""
        self._holding.close()
        self._drop()

    def _drop(self) -> None:
        if self._object is not None:
            self._object.close()
            self._object = None

    def _befell(self, name: str, direction: str) -> Json:
        assert self._object is not None
        links = self._object.map("links")
        return vars(impair.read(links, self._vms[name].index, DIRECTIONS[direction]))

    def _refuse_rates(self) -> None:
        for name, vm in self._vms.items():
            if vm.spec.rate is not None:
                raise HostsimError(
                    f"link of {name}",
                    "its [[vm]] has a rate, and a port has one queue only",
                    "rate of a [[link]] goes together with delay",
                )

    def _attach(self) -> None:
        self._object = bpf.Object("impair")
        self._run_at(self._exits(), self._object.program("impair"))

    def _exits(self) -> dict[int, str]:
        """The switch's ports, and whose they are."""
        uplinks = {records.IFINDEX + n: name for name, n in self._switch.uplinks.items()}
        return {vm.port: name for name, vm in self._vms.items()} | uplinks

    def _run_at(self, ports: dict[int, str], program: int) -> None:
        def fill(batch: Packs) -> None:
            for port in ports:
                tc.add_program(batch, port, program, PROGRAM, tc.EGRESS)

        self._switch.rtnl.pack(fill, (errno.EEXIST,))  # where a dead VM's was put back just now
        assert self._guard is not None
        for port, name in ports.items():
            self._guard.expect(port, tc.EGRESS, name, PROGRAM, program)

    def _detach(self) -> None:
        if self._object is None:
            return
        assert self._guard is not None
        for port in self._exits():
            self._guard.forget(port, tc.EGRESS)

        def fill(batch: Packs) -> None:
            for port in self._exits():
                tc.remove_programs(batch, port, tc.EGRESS)

        # A VM that is gone has no port.
        self._switch.rtnl.pack(fill, (errno.ENODEV, errno.ENOENT, errno.EINVAL))
        self._drop()

    def _hold(self) -> None:
        """Have all ports hold back what has to wait. Raises HostsimError, with nothing changed."""
        try:
            self._holding.hold(self._exits())
        except BaseException:
            if not self._now:
                self._detach()
            raise

    def _finish_checksums(self, on: bool) -> None:
        """Have VMs finish checksums, or leave them out again: a wrong bit in a packet whose
        checksum the kernel has left out would be seen by nobody."""
        for vm in self._vms.values():
            if vm.alive:
                with contextlib.suppress(OSError):  # it has died meanwhile
                    offload(vm.netns_fd, "eth0", not on and vm.spec.offload)
