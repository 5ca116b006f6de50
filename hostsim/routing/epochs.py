# SPDX-License-Identifier: Apache-2.0
"""The policy in force in the kernel's maps, and the epochs that name it.

Each change of policy, and each VM that goes or comes back, gets the next epoch. The newest EPOCHS
of them stay readable, so that a packet on its way is judged to the end by the policy it met first.
A region of rows is written before any epoch names it, and is never written while one does:

    write    rows and routes into a region that no epoch names; then
    next     `policies` gets the epoch and its region; then `config` says that it is the newest, and
             with that one store every decision of an older epoch is stale
"""

from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

from cext.bpf import objects as bpf
from cext.switch import maps, records
from hostsim.model import FilterSpec, MirrorSpec, RouteSpec
from hostsim.routing.policy import compile_lists, refuse_too_many


class Policy(NamedTuple):
    """What `hostsim routes apply` replaces."""

    routes: tuple[RouteSpec, ...] = ()
    filters: tuple[FilterSpec, ...] = ()
    mirrors: tuple[MirrorSpec, ...] = ()


class Epochs:
    """Writes `rows`, `routes`, `policies` and `config`; owns nothing in the kernel.

    source: the data plane's maps by name.
    numbers: the VMs and endpoints by name.
    functions: the numbers of those with a packet function.
    before: called with each policy's rows and its region, before an epoch names them.
    wait: called if there are rows: whether fragments can wait for their first one.
    """

    def __init__(
        self,
        source: Callable[[str], bpf.Map],
        numbers: Mapping[str, int],
        functions: Set[int],
        before: Callable[[records.Lists, int], None],
        wait: Callable[[], bool],
    ) -> None:
        self._map = source
        self._numbers = numbers
        self._functions = functions
        self._before = before
        self._wait = wait
        self._policy = Policy()
        self._lists = records.Lists(())
        self._newest = 0
        self._version = 0
        self._on = 0
        self._region = 0
        self._regions: dict[int, int] = {}  # by epoch, the newest EPOCHS

    @property
    def policy(self) -> Policy:
        """The one in force."""
        return self._policy

    @property
    def lists(self) -> records.Lists:
        """Its rows."""
        return self._lists

    @property
    def newest(self) -> int:
        """The newest epoch: the one number that rules must name."""
        return self._newest

    def compile(self, policy: Policy) -> records.Lists:
        """The policy's rows. Raises HostsimError if there are too many."""
        refuse_too_many(policy.routes, policy.filters, policy.mirrors)
        return compile_lists(policy.routes, policy.filters, policy.mirrors, self._numbers)

    def write(self, policy: Policy, lists: records.Lists) -> int:
        """Put a policy in force; the epoch that names it. lists: its rows. Raises OSError, with the
        policy before still in force."""
        used = set(self._regions.values())
        region = next(one for one in range(records.REGIONS) if one not in used)
        base = region * records.ROWS_MAX
        rows, routes = self._map("rows"), self._map("routes")
        for at, row in enumerate(lists.rows):
            rows.set(maps.pack_u32(base + at), maps.pack_row(row))
        for route in policy.routes:
            routes.set(maps.pack_u32(base + route.index), self._pack(route))
        self._before(lists, region)
        self._region, self._lists, self._policy = region, lists, policy
        self._version += 1
        return self.next()

    def next(self) -> int:
        """Make everything decided so far stale, at once; the new epoch."""
        epoch = self._newest + 1
        self._regions[epoch] = self._region
        self._regions.pop(epoch - records.EPOCHS, None)
        self._map("policies").set(
            maps.pack_u32(epoch % records.EPOCHS),
            maps.pack_policy(epoch, self._version, self._region, self._lists),
        )
        rows = self._lists.rows
        self._on |= records.ON if rows else 0  # what was looked at once stays counted
        self._on |= records.ON_WAIT if rows and self._wait() else 0
        self._on |= records.ON_VLAN if any(row.vlan for row in rows) else 0
        self._on |= records.ON_ETHERTYPE if any(row.ethertype for row in rows) else 0
        self._map("config").set(maps.pack_u32(0), maps.pack_config(epoch, self._on))
        self._newest = epoch
        return epoch

    def _pack(self, route: RouteSpec) -> bytes:
        """A route as the kernel reads it."""
        chain = tuple(self._numbers[name] for name in route.through)
        rules = route.bypass in ("auto", "veth") or (
            route.bypass == "ring" and not self._functions.isdisjoint(chain)
        )
        return maps.pack_route(chain, rules, route.on_failure == "skip")
