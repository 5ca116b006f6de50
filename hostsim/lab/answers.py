# SPDX-License-Identifier: Apache-2.0
"""What a host answers, as frozen objects, with the names of the JSON of `hostsim ... --json`.

    read(Flow, {...}) -> Flow      raises HostsimError if the answer is another one

A key that the daemon tells and this module does not know is left out, so that an older program
still reads a newer daemon. Units are those of the JSON. Pure.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hostsim.errors import HostsimError

T = TypeVar("T")

_known: dict[Any, dict[str, Any]] = {}


@dataclass(frozen=True)
class Count:
    """Packets, and their bytes."""

    packets: int
    bytes: int


@dataclass(frozen=True)
class Hop:
    """One VM of a flow's chain, and how its packets go on. to: a VM, or `bridge`."""

    vm: str
    to: str
    path: str  # switch | veth | ring, now
    packets: int
    bytes: int
    reason: str  # for the path
    paths: dict[str, Count] = field(default_factory=dict)  # by each path, so far


@dataclass(frozen=True)
class Flow:
    """One direction of a connection. route: its place in the file, None if it is bridged."""

    key: str
    route: int | None
    direction: str  # forward | reply
    hops: tuple[Hop, ...]
    contents: str | None = None  # asked | unseen


@dataclass(frozen=True)
class Rule:
    """One routing rule of a transfer component."""

    vm: str
    key: str
    to: str
    path: str
    epoch: int
    packets: int
    idle_s: float


@dataclass(frozen=True)
class Route:
    """One `[[route]]` of the policy in force."""

    index: int
    match: dict[str, Any]
    through: tuple[Any, ...]
    bypass: str
    packets: int = 0


@dataclass(frozen=True)
class Balance:
    """What one VM sent of one flow, and what carried it. missing: 0 if the sum holds."""

    vm: str
    key: str
    sent: int
    switch: int
    veth: int
    ring: int
    drops: dict[str, int]
    missing: int
    beside: int = 0


@dataclass(frozen=True)
class ExplainedHop:
    """One hop of an explanation."""

    vm: str
    to: str
    path: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What would happen to a flow at a VM, and why."""

    vm: str
    flow: str
    live: bool
    direction: str
    route: int | None
    next: str
    why: str
    hops: tuple[ExplainedHop, ...]
    contents: dict[str, str] | None = None
    filtered: bool = False
    mirror: str | None = None
    undecided: bool = False
    unseen: bool = False

    def __str__(self) -> str:
        hops = "; ".join(f"{hop.vm} -> {hop.to}: {hop.path} ({hop.reason})" for hop in self.hops)
        route = "no route" if self.route is None else f"route {self.route}"
        return f"{self.flow} at {self.vm}: {route}, next {self.next} ({self.why})" + (
            f"; {hops}" if hops else ""
        )


@dataclass(frozen=True)
class NodeStatus:
    """How a VM or an endpoint stands."""

    name: str
    netns: str
    cgroup: str
    pid: int
    state: str
    os: bool
    addresses: tuple[str, ...] = ()
    limits: dict[str, Any] = field(default_factory=dict)
    drops: dict[str, int] | None = None  # by the kernel, by its reason; None: it does not tell
    nf: dict[str, Any] | None = None
    restarts: int = 0


@dataclass(frozen=True)
class PortStatus:
    """A port of the switch. rx: what came in by it."""

    name: str
    state: str
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int


@dataclass(frozen=True)
class TakenOff:
    """A program that somebody took off a port of the switch by hand, and that was put back.

    side: `in` or `out`
    times: how often
    there: it is back
    said: all of that in words
    """

    port: str
    program: str
    side: str
    times: int
    there: bool
    said: str


@dataclass(frozen=True)
class SwitchStatus:
    """The switch. counters: packets by name."""

    netns: str
    bridge: str
    ports: tuple[PortStatus, ...]
    counters: dict[str, int] = field(default_factory=dict)
    drops: dict[str, int] | None = None
    taken_off: tuple[TakenOff, ...] = ()


@dataclass(frozen=True)
class Status:
    """How a host stands."""

    host: str
    foreground: str | None
    vms: tuple[NodeStatus, ...]
    endpoints: tuple[NodeStatus, ...]
    switch: SwitchStatus
    devices: tuple[dict[str, Any], ...] = ()

    @property
    def nodes(self) -> tuple[NodeStatus, ...]:
        """Its VMs, then its endpoints."""
        return (*self.vms, *self.endpoints)


@dataclass(frozen=True)
class Link:
    """An impaired link, in one direction. loss and the like: shares; rate: bit/s; packets: those
    that came since, and of them those that were lost (late: for want of `rate`), and so on; groups,
    groups_lost: those of them whose frame was to a group, which are numbered by themselves."""

    vm: str
    direction: str
    delay_ms: float
    jitter_ms: float
    loss: float
    duplicate: float
    reorder: float
    corrupt: float
    rate: int | None
    seed: int
    down: bool
    packets: int
    lost: int
    late: int
    duplicated: int
    reordered: int
    corrupted: int
    groups: int = 0
    groups_lost: int = 0


@dataclass(frozen=True)
class Ping:
    """Whether a VM or endpoint, `from` in the JSON, hears another at one of its addresses. ms: None
    if it does not."""

    from_: str
    to: str
    address: str
    ms: float | None


@dataclass(frozen=True)
class Applied:
    """What an apply did, or would do. added, removed: VMs and endpoints; changes: a line for each
    thing; ignored: what of the file only `up` does."""

    routes: int
    epoch: int
    ignored: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class Flipped:
    """A flip that is done."""

    foreground: str
    previous: str | None
    ms: float


def read(kind: type[T], found: Any) -> T:
    """The answer as an object. Raises HostsimError if it has not what `kind` needs."""
    if not isinstance(found, Mapping):
        raise HostsimError("the daemon's answer", f"is no {kind.__name__}")
    known = _hints(kind)
    told: dict[str, Any] = {}
    for one in dataclasses.fields(kind):  # type: ignore[arg-type]
        if (key := one.name.removesuffix("_")) in found:  # `from` is a word of Python's
            told[one.name] = _value(known[one.name], found[key])
    try:
        return kind(**told)
    except TypeError:
        missing = ", ".join(sorted(known.keys() - told.keys()))
        raise HostsimError("the daemon's answer", f"a {kind.__name__} without {missing}") from None


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _known:
        _known[kind] = typing.get_type_hints(kind)
    return _known[kind]


def _value(hint: Any, found: Any) -> Any:
    """found, as the field's type has it; what JSON has as well stays."""
    if found is None:
        return None
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return read(hint, found)
    origin, words = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return tuple(_value(words[0], one) for one in found)
    if origin is dict:
        return {key: _value(words[1], one) for key, one in found.items()}
    if origin is types.UnionType:
        return _value(next(word for word in words if word is not type(None)), found)
    return found
