"""Conservation: what each VM sent of each flow is what the switch, the direct links and the drops
by name account for. Pure.

The transfer component counts, in the VM, what it lets go to the switch and what it sends by a
direct link; the classifier counts what came in by the VM's port, and `transfer_in` what came out
of the link. Between the two there is one queue, the CPU's backlog; what it drops, the kernel
counts on the sending interface (tx_dropped, veth.c).

A packet function's port counts what the function gave it to send, and what it lost of that, by
reason; what went by ring is counted by the port that took it from there. Packets whose flow the
port cannot tell (fragments) and the switch can are `sent` as far as the port sent any. A function
that is killed may take with it what was in its hands, its socket and its rings, and no more: that
many may be missing and are `function-died`.
"""

from collections.abc import Mapping, Sequence

from cext.words import Flow, Rule, Tuple
from hostsim.flows import View, key_text
from hostsim.model import Json


def check(
    flows: Sequence[Flow], rules: Sequence[Rule], queue_drops: Mapping[int, int], view: View
) -> list[Json]:
    """One row for each VM and flow: sent, switch, veth, drops by reason, and `missing`, 0 where
    the sum holds. queue_drops: packets that the kernel dropped on the way out of a VM, by VM."""
    ports = {(flow.vm, flow.tuple): flow for flow in flows}
    queue = dict(queue_drops)
    rows: list[Json] = []
    for rule in sorted(rules, key=lambda rule: (rule.vm, rule.tuple)):
        flow = ports.get((rule.vm, rule.tuple))
        arrived = flow.packets if flow else 0
        sent = rule.switch_packets + rule.veth_packets
        missing = sent - arrived - rule.got_packets
        dropped = _take(queue, rule.vm, missing)
        drops = {"queue-full": dropped} if dropped else {}
        drops |= _by_switch(flow)
        rows.append(
            {
                "vm": view.names[rule.vm],
                "key": key_text(rule.tuple),
                "sent": sent,
                "switch": arrived - (flow.dropped if flow else 0),
                "veth": rule.got_packets,
                "ring": 0,
                "drops": drops,
                "missing": missing - dropped,
            }
        )
    return rows + _ports(ports, queue, view)


def _ports(
    ports: Mapping[tuple[int, Tuple], Flow], queue: dict[int, int], view: View
) -> list[Json]:
    """The rows of VMs with a packet function."""
    seen = view.ports
    untold, taken, died = dict(seen.other_sent), dict(seen.other_got), dict(seen.died)
    rows: list[Json] = []
    for (vm, key), account in sorted(seen.sent.items()):
        flow = ports.get((vm, key))
        arrived = flow.packets if flow else 0
        got = seen.got.get((vm, key), 0)
        drops = account.drops
        missing = account.sent - arrived - got - sum(drops.values())
        more = _take(untold, vm, -missing)
        missing += more
        for name, budget, whose in (
            ("queue-full", queue, [vm]),
            ("function-died", died, [vm]),
            ("", taken, seen.takers.get((vm, key), ())),
        ):
            for one in whose:
                part = _take(budget, one, missing)
                missing -= part
                if name:
                    drops |= {name: part} if part else {}
                else:
                    got += part
        rows.append(
            {
                "vm": view.names[vm],
                "key": key_text(key),
                "sent": account.sent + more,
                "switch": arrived - (flow.dropped if flow else 0),
                "veth": 0,
                "ring": got,
                "drops": drops | _by_switch(flow),
                "missing": missing,
            }
        )
    return rows


def _take(budget: dict[int, int], vm: int, wanted: int) -> int:
    """As much of what is wanted as the VM's budget has."""
    part = max(0, min(wanted, budget.get(vm, 0)))
    budget[vm] = budget.get(vm, 0) - part
    return part


def _by_switch(flow: Flow | None) -> dict[str, int]:
    if flow is None or not flow.dropped:
        return {}
    return {"vm-gone" if flow.verdict.to else "filter": flow.dropped}
