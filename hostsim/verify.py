"""Conservation: what each VM sent of each flow is what the switch, the direct links and the drops
by name account for. Pure.

The transfer component counts, in the VM, what it lets go to the switch and what it sends by a
direct link; the classifier counts what came in by the VM's port, and `transfer_in` what came out
of the link. Between the two there is one queue, the CPU's backlog; what it drops, the kernel
counts on the sending interface (tx_dropped, veth.c).
"""

from collections.abc import Mapping, Sequence

from cext.words import Flow, Rule
from hostsim.flows import View, key_text
from hostsim.model import Json


def check(
    flows: Sequence[Flow], rules: Sequence[Rule], queue_drops: Mapping[int, int], view: View
) -> list[Json]:
    """One row for each VM and flow: sent, switch, veth, drops by reason, and `missing`, 0 where
    the sum holds. queue_drops: packets that the kernel dropped on the way out of a VM, by VM."""
    ports = {(flow.vm, flow.tuple): flow for flow in flows}
    left = dict(queue_drops)
    rows: list[Json] = []
    for rule in sorted(rules, key=lambda rule: (rule.vm, rule.tuple)):
        flow = ports.get((rule.vm, rule.tuple))
        arrived = flow.packets if flow else 0
        sent = rule.switch_packets + rule.veth_packets
        missing = sent - arrived - rule.got_packets
        dropped = max(0, min(missing, left.get(rule.vm, 0)))
        left[rule.vm] = left.get(rule.vm, 0) - dropped
        drops = {"queue-full": dropped} if dropped else {}
        if flow is not None and flow.dropped:
            drops["vm-gone" if flow.verdict.to else "filter"] = flow.dropped
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
    return rows
