# SPDX-License-Identifier: Apache-2.0
"""Whether a VM's own network is as hostsim made it, and for how long it must be again. Pure.

User 0 of a VM may do with its interfaces what it likes. What takes packets past that, the direct
links, is for a VM whose network is as it was made; of any other VM the switch takes every hop, and
it costs only that VM. A Holddown remembers how a VM stands:

    now      what was seen                    then     what it means
    plain    something unlike                 away     its hops go by the switch, at once
    away     as it was made                   held     it still waits `hold` seconds
    held     something unlike                 away     the next hold is twice as long, up to LONGEST
    held     as it was made, `hold` is over   plain    its hops may go by direct links again

Forbidden: away -> plain. Whoever takes a link down and up without end would have everybody judge
flows anew, or order lost, at that pace. A VM that was plain for CALM seconds begins with the
shortest hold again.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

SHORTEST, LONGEST = 0.5, 60.0
"""Seconds of a hold."""
CALM = 60.0
MADE = "noqueue"
"""The queueing discipline of a veth that nobody has given another."""


class Holddown:
    """Of one VM, or one port. Times are seconds of one clock."""

    def __init__(self, shortest: float = SHORTEST, longest: float = LONGEST) -> None:
        self._shortest = shortest
        self._longest = longest
        self._hold = shortest
        self._why = ""
        self._until: float | None = None
        self._plain_since = float("-inf")

    @property
    def away(self) -> bool:
        """Whether it is away, or held."""
        return bool(self._why)

    @property
    def held(self) -> bool:
        """Whether it is as it was made, and waits."""
        return self._until is not None

    @property
    def why(self) -> str:
        """What was unlike; empty: it is plain."""
        return f"{self._why}, until a moment ago" if self._why and self.held else self._why

    @property
    def hold(self) -> float:
        """Seconds that it waits, or would."""
        return self._hold

    @property
    def due(self) -> float | None:
        """When to look again, if nothing changes until then."""
        return self._until

    def saw(self, why: str, now: float) -> bool:
        """What was seen: something unlike, or nothing (""). Whether `away` or `why` is new."""
        before = self.why
        if why:
            if not self._why and now - self._plain_since > CALM:
                self._hold = self._shortest
            elif not self._why or self.held:
                self._hold = min(2 * self._hold, self._longest)
            self._why, self._until = why, None
        elif self._why and self._until is None:
            self._until = now + self._hold
        elif self._until is not None and now >= self._until:
            self._why, self._until, self._plain_since = "", None, now
        return self.why != before


class Eth0(Protocol):
    """What is looked at of an interface (netns/interfaces.py)."""

    @property
    def up(self) -> bool: ...
    @property
    def mac(self) -> str: ...
    @property
    def mtu(self) -> int: ...
    @property
    def qdisc(self) -> str: ...
    @property
    def xdp(self) -> bool: ...


class Made(NamedTuple):
    """What hostsim made of a VM's network. function: an XDP program has to be at eth0; transfer:
    the tc filters that have to be at its egress; direct: the direct links, by number and name."""

    mac: str
    mtu: int
    function: bool
    transfer: Sequence[str]
    direct: Sequence[tuple[int, str]]


def unlike(made: Made, eth0: Eth0, filters: Sequence[str], up: frozenset[int]) -> str:
    """What of a VM's network is unlike what hostsim made, the worst first; empty: nothing.
    filters: at eth0's egress; up: the numbers of the direct links that are there and up."""
    if made.function:  # no direct link leads to it, and its port passes the queue by
        return "" if eth0.xdp else "the XDP program of its function was taken off eth0"
    if eth0.xdp:
        return "its eth0 has an XDP program of its own"
    if eth0.mac != made.mac:
        return f"its eth0 has another MAC address, {eth0.mac}"
    if eth0.mtu != made.mtu:
        return f"its eth0 has an MTU of {eth0.mtu}, and the switch's port one of {made.mtu}"
    if eth0.up and eth0.qdisc != MADE:
        return f"its eth0 has a queueing discipline of its own, {eth0.qdisc}"
    if any(name not in filters for name in made.transfer):
        return "its transfer component was taken off eth0"
    if len(filters) > len(made.transfer):
        return "its eth0 has tc filters of its own at egress"
    for number, name in made.direct:
        if number not in up:
            return f"its direct link {name} is down"
    return ""
