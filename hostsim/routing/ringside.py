# SPDX-License-Identifier: Apache-2.0
"""The other side of the rings: what the data plane asks of the packet functions, and which hops it
lets them take to a ring.

`Dataplane.join` takes whoever plays it: hostsim/nf/functions.py, if a host has packet functions.
The data plane knows them by this Protocol alone. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from cext.switch import records
from cext.switch.records import Flow, Tuple
from hostsim.model import RouteSpec
from hostsim.routing.accounts import Snapshot

Rings = Mapping[tuple[int, Tuple], int]
"""By sending VM and flow, the VM that a current rule into a ring names."""


class RingSide(Protocol):
    """The packet functions of a host, as the data plane sees them."""

    @property
    def rings(self) -> Rings:
        """The rules into rings that hold now."""

    @property
    def taps(self) -> Mapping[str, int]:
        """By VM name, the descriptor of what its port tells those who capture."""

    def new_epoch(self, epoch: int) -> None:
        """Make every rule of another epoch stale. Called with each new epoch, before anybody else
        hears of it."""

    def snapshot(self) -> Snapshot:
        """What the functions' ports have counted."""


class NoFunctions:
    """The ring side of a host without packet functions."""

    def __init__(self) -> None:
        self.rings: Rings = {}
        self.taps: Mapping[str, int] = {}

    def new_epoch(self, epoch: int) -> None:
        """There are no rules."""

    def snapshot(self) -> Snapshot:
        """There are no ports."""
        return Snapshot()


def hops(
    seen: Sequence[Flow], routes: Sequence[RouteSpec], epoch: int
) -> list[tuple[Flow, RouteSpec]]:
    """Of these flows, those that may leave the switch for a ring in this epoch, with their route.
    The classifier has said so for each: no filter, mirror or rate concerns it."""
    return [
        (flow, routes[flow.route])
        for flow in seen
        if flow.verdict.epoch == epoch
        and flow.verdict.action == records.STEER
        and flow.verdict.flags & records.F_BYPASS
        and flow.packets >= records.RULE_AFTER
        and flow.route is not None
        and flow.route < len(routes)
        and routes[flow.route].bypass in ("auto", "ring")
    ]
