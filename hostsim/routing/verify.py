# SPDX-License-Identifier: Apache-2.0
"""Conservation: what each VM sent of each flow is what the switch, the direct links and the drops
by name account for. Pure.

The transfer component counts, in the VM, what it lets go to the switch and what it sends by a
direct link; the classifier counts what came in by the VM's port, and `transfer_in` what came out
of the link. Between the two there is one queue, the CPU's backlog.

What the kernel dropped has the kernel's own reason (cext/switch/drops.py), in capitals: in that
queue; behind the classifier or the link, which have counted it; or in the VM itself, where the
packet had come in, or came from, and was not sent on. Such a packet counts as `sent` too, so that
the sum of a row is all that the VM had in hand and did not take in. Where the kernel tells no
reasons, what the queue drops is `queue-full`, which it counts on the sending interface (tx_dropped,
veth.c).

A packet function's port counts what the function gave it to send, and what it lost of that, by
reason; what went by ring is counted by the port that took it from there. Packets whose flow the
port cannot tell (fragments) and the switch can are `sent` as far as the port sent any. A function
that is killed may take with it what was in its hands, its socket and its rings, and no more: that
many may be missing and are `function-died`.

What reached a packet function's eth0 and not the function has no flow: nobody has looked at it. It
is one row for each such VM, UNREAD: `function-full`, if the function was too slow to take it from
its socket, or `no-function`, if there was none.

Of what endpoints and uplinks send, nobody counts what is sent: a row has what is known to be lost.

Flows that are forgotten are one row for each VM, ENDED (retained.py).

What arrived and nobody counted as sent went past the transfer component: a program sent it by a
packet socket with PACKET_QDISC_BYPASS (packet(7)), or, on a kernel without tcx, a filter of the
VM's own that comes before took it. It is `beside`, and part of `sent`. Nothing goes past a packet
function's port so.

An example. A VM's transfer component let 10 packets of a flow go to the switch, and sent 5 by the
direct link. The classifier has seen 8, and 5 came out of the link. Then the kernel's drops are
looked at, one after the other:

    the kernel dropped                               sent  switch  veth  drops         missing
    nothing                                            15       8     5  -                   2
    2 in the VM's queue to the switch (AT_EXIT)        15       8     5  X=2                 0
    3 behind the classifier (IN_SWITCH)                15       5     5  X=2 Y=3             0
    1 behind the link (BEHIND)                         15       5     4  X=2 Y=3 Z=1         0
    4 that the VM had not sent on yet (IN_VM)          19       5     4  X=2 Y=3 Z=1 W=4     0
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cext.switch.records import (
    AT_EXIT,
    BEHIND,
    DROPPED_BY,
    IN_SWITCH,
    IN_VM,
    NONE_DROPPED,
    Drop,
    Ended,
    Flow,
    Rule,
    Tuple,
)
from hostsim.keys import key_text
from hostsim.model import Json
from hostsim.routing.flows import View
from hostsim.routing.retained import NOTHING, PortSums, Retained

ENDED = "ended flows"
QUEUE_FULL = "queue-full"
UNREAD = "what reached eth0, and not the function"
K = TypeVar("K")


@dataclass(frozen=True)
class Losses:
    """What is known besides flows and rules. queue: packets that the kernel dropped on the way out
    of a VM, by VM, if it tells no reasons; drops: if it does; ended, retained: what is kept
    of flows that are forgotten; copies: VMs that get copies of packets now; unread: frames that
    reached a packet function's eth0 and not the function, by name."""

    queue: Mapping[int, int] = field(default_factory=dict)
    drops: Sequence[Drop] = ()
    ended: Sequence[Ended] = ()
    retained: Retained = NOTHING
    copies: frozenset[int] = frozenset()
    unread: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


@dataclass
class _Row:
    """One VM and flow, as it is added up. arrived: at the switch; taken: those who may have taken
    some from its rings; ringed: put into these; port: a packet function's port has counted it."""

    vm: int
    key: str
    sent: int
    arrived: int = 0
    veth: int = 0
    ring: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    kernel: Iterable[Drop] = ()
    copies: frozenset[int] = frozenset()
    takers: Iterable[int] = ()
    ringed: int = 0
    port: bool = False


def check(flows: Sequence[Flow], rules: Sequence[Rule], losses: Losses, view: View) -> list[Json]:
    """One row for each VM and flow: sent, switch, veth, ring, drops by reason, `beside`, and
    `missing`, 0 if the sum holds."""
    ports = {(flow.vm, flow.tuple): flow for flow in flows}
    kernel: dict[tuple[int, Tuple], list[Drop]] = {}
    for drop in losses.drops:
        if drop.tuple is not None:
            kernel.setdefault((drop.vm, drop.tuple), []).append(drop)
    found: list[_Row] = []
    for rule in sorted(rules, key=lambda rule: (rule.vm, rule.tuple)):
        row = _Row(rule.vm, key_text(rule.tuple), rule.switch_packets + rule.veth_packets)
        row.veth = rule.got_packets
        found.append(_seen(row, ports.get((rule.vm, rule.tuple))))
        found[-1].kernel = kernel.pop((rule.vm, rule.tuple), ())
    for (vm, key), account in sorted(view.ports.sent.items()):
        row = _Row(vm, key_text(key), account.sent, drops=account.drops, port=True)
        row.ring = view.ports.got.get((vm, key), 0)
        row.takers, row.ringed = view.ports.takers.get((vm, key), ()), account.ring[0]
        found.append(_seen(row, ports.get((vm, key))))
        found[-1].kernel = kernel.pop((vm, key), ())
    counted = {(rule.vm, rule.tuple) for rule in rules} | view.ports.sent.keys()
    lost = {at for at, flow in ports.items() if any(flow.dropped) and at[0] not in view.functions}
    for vm, key in sorted((lost - counted) | kernel.keys()):
        flow, drops = ports.get((vm, key)), kernel.get((vm, key), ())
        if vm in view.names:
            found += _of_uncounted(vm, key, flow, drops, (vm, key) in lost)
    for vm, names in sorted(losses.unread.items()):
        found.append(_Row(vm, UNREAD, sum(names.values()), drops=dict(names)))
    budgets = _Budgets(losses, view)
    return [budgets.settle(row) for row in [*found, *_ended(losses, view)]]


def _of_uncounted(
    vm: int, key: Tuple, flow: Flow | None, drops: Sequence[Drop], lost: bool
) -> Iterator[_Row]:
    """Of a flow that nobody counts as it is sent (an endpoint's), what is known to be lost. lost:
    what the classifier dropped, too."""
    copies = frozenset({flow.mirror} if flow else ())
    dropped = flow.dropped if flow and lost else NONE_DROPPED
    if any(dropped) or any(_counts(drop, copies) for drop in drops):
        row = _Row(vm, key_text(key), sum(dropped), sum(dropped), kernel=drops, copies=copies)
        _settle_dropped(row, dropped)
        yield row


def _seen(row: _Row, flow: Flow | None) -> _Row:
    """With what the switch has seen of it."""
    if flow is not None:
        row.arrived = flow.packets
        row.copies = frozenset({flow.mirror})
        _settle_dropped(row, flow.dropped)
    return row


def _settle_dropped(row: _Row, dropped: Sequence[int]) -> None:
    """Of what arrived, what the classifier dropped."""
    for name, packets in zip(DROPPED_BY, dropped, strict=True):
        _add(row.drops, name, packets)
        row.arrived -= packets


def _ended(losses: Losses, view: View) -> list[_Row]:
    """One row for each VM of which flows are forgotten."""
    by_kernel = {one.vm: one for one in losses.ended}
    ports = losses.retained.ports
    kernel: dict[int, list[Drop]] = {}
    for drop in losses.retained.drops:
        kernel.setdefault(drop.vm, []).append(drop)
    rows = []
    for vm in sorted((by_kernel.keys() | ports.keys() | kernel.keys()) & view.names.keys()):
        sums, port = by_kernel.get(vm, Ended(vm)), ports.get(vm, PortSums())
        seen = port.seen
        row = _Row(vm, ENDED, sums.switch_packets + sums.veth_packets + port.sent)
        row.drops, row.port = dict(port.drops), vm in ports
        row.arrived = sums.packets + seen.packets
        _settle_dropped(row, sums.dropped)
        _settle_dropped(row, seen.dropped)
        row.veth, row.ring = sums.got_packets, port.got
        row.kernel, row.copies, row.takers = kernel.get(vm, ()), losses.copies, port.takers
        rows.append(row)
    return rows


class _Budgets:
    """Losses that are known by VM and not by flow: each is put down to a flow once."""

    def __init__(self, losses: Losses, view: View) -> None:
        self._view = view
        self._queue = dict(losses.queue)
        self._died = dict(view.ports.died)
        self._untold_sent = dict(view.ports.other_sent)
        self._untold_got = dict(view.ports.other_got)
        self._untold: dict[str, dict[int, int]] = {}  # of no flow that the kernel's look could tell
        for drop in losses.drops:
            if drop.tuple is None and drop.place == AT_EXIT:
                _add(self._untold.setdefault(drop.reason, {}), drop.vm, drop.packets)

    def settle(self, row: _Row) -> Json:
        """The row as `verify` shows it."""
        missing = row.sent - row.arrived - row.veth - row.ring - sum(row.drops.values())
        for drop in row.kernel:
            if not _counts(drop, row.copies):
                continue
            _add(row.drops, drop.reason, drop.packets)
            before = drop.packets
            if drop.place == AT_EXIT:
                before = max(0, min(missing, drop.packets))
                missing -= before
            elif drop.place == IN_SWITCH:
                before = min(row.arrived, drop.packets)
                row.arrived -= before
            elif drop.place == BEHIND:
                before = min(row.veth, drop.packets)
                row.veth -= before
            row.sent += drop.packets - (0 if drop.place == IN_VM else before)
        more = _take(self._untold_sent, row.vm, -missing)
        row.sent += more
        missing += more
        for name, budget in (*self._untold.items(), (QUEUE_FULL, self._queue)):
            part = _take(budget, row.vm, missing)
            missing -= part
            _add(row.drops, name, part)
        part = _take(self._died, row.vm, missing)
        missing -= part
        _add(row.drops, "function-died", part)
        untaken = max(0, row.ringed - row.ring)
        for taker in row.takers or (sorted(self._untold_got) if untaken else ()):
            wanted = missing if row.takers else min(missing, untaken)
            part = _take(self._untold_got, taker, wanted)
            missing -= part
            row.ring += part
        beside = 0 if row.port else max(0, min(-missing, row.arrived))
        return {
            "vm": self._view.names[row.vm],
            "key": row.key,
            "sent": row.sent + beside,
            "switch": row.arrived,
            "veth": row.veth,
            "ring": row.ring,
            "drops": row.drops,
            "beside": beside,
            "missing": missing + beside,
        }


def _counts(drop: Drop, copies: frozenset[int]) -> bool:
    """Whether it is a packet itself, and not a copy on its way to a mirror's target."""
    return not (drop.place == IN_SWITCH and drop.at and drop.at in copies)


def _add(sums: dict[K, int], key: K, count: int) -> None:
    if count:
        sums[key] = sums.get(key, 0) + count


def _take(budget: dict[int, int], vm: int, wanted: int) -> int:
    """As much of what is wanted as the VM's budget has."""
    part = max(0, min(wanted, budget.get(vm, 0)))
    budget[vm] = budget.get(vm, 0) - part
    return part
