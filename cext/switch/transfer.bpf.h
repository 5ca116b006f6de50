// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The VMs' transfer component.
 *
 *   transfer_out  tc egress of a VM's eth0: by routing rule straight to the next VM, or switch
 *   transfer_in   tc ingress (tcx) of a direct link's far end: takes only what a rule sent
 *
 * Order. A packet by the switch waits twice in the backlog of the CPU it is on (netif_rx): behind
 * eth0's veth, and behind the port it is steered out of. One by the direct link waits once, behind
 * that veth: from there it steps into eth0 without a queue (bpf_redirect_peer). The backlog is a
 * FIFO, so: bypass to switch: the later packet waits behind the earlier one, and once more; switch
 * to bypass: transfer_out takes the direct link only when nothing it sent to the switch is still
 * before the port (hs_under_way); what is behind the port is ahead in the FIFO. On one CPU,
 * changing the path neither reorders nor loses. The price is one look-up for each packet between
 * the rule's coming and its first use, and that a flow which never pauses for as long as its
 * packets wait stays on the switch. */
#ifndef HS_TRANSFER_BPF_H
#define HS_TRANSFER_BPF_H

#include "switch/decide.bpf.h"
#include "switch/frame.bpf.h"

enum { HS_UNDER_WAY = 20000000 }; /* ns, more than a coarse clock tick */

/* Whether a packet of the flow may be between this VM's eth0 and its port: then the next one must
 * take the switch too, or it would overtake. What the switch never got is known to be lost once
 * the flow has been silent for longer than a packet is under way. */
static __noinline int hs_under_way(struct hs_flow *flow, __u64 idle) {
    struct hs_rule *rule = &flow->rule;
    __u32 missing = rule->switch_packets - READ_ONCE(flow->packets);

    if (idle > HS_UNDER_WAY)
        rule->lost = missing;
    return missing != rule->lost;
}

/* The first packet of a flow that the VM sends: to the switch. Its entry is made with the packet
 * counted; or it is there by now, and is returned. Null: nothing more to do. */
static __noinline struct hs_flow *hs_new_flow(const struct hs_key *key) {
    struct hs_flow fresh = {.rule.switch_packets = 1, .last = bpf_ktime_get_coarse_ns()};
    struct hs_conn *conn;
    int turned;

    conn = hs_find_conn(&key->tuple, &turned);
    fresh.charged = conn && conn->charged ? conn->charged : key->vm;
    if (hs_take(fresh.charged, HS_OF_FLOWS, HS_SHARE)) {
        if (bpf_map_update_elem(&flows, key, &fresh, BPF_NOEXIST) == 0)
            return 0;
        hs_give(fresh.charged, HS_OF_FLOWS);
    }
    return bpf_map_lookup_elem(&flows, key);
}

/* Whether a first fragment may not go on to a VM, for there is no room to say who is charged for
 * it: the switch drops it by name. */
static __noinline int hs_no_room(const struct hs_packet *p, struct hs_rule *rule, __u32 to) {
    if (p->fragment != 1 || hs_pass_on(to))
        return 0;
    rule->used = 0;
    return 1;
}

SEC("tc")
int transfer_out(struct __sk_buff *skb) {
    struct hs_packet *packet = hs_packet();
    struct hs_config *now;
    struct hs_flow *flow;
    struct hs_rule *rule;
    struct hs_vm *vm, *own;
    __u64 verdict, last, time;
    __u32 zero = 0, to;

    now = bpf_map_lookup_elem(&config, &zero);
    if (!now || !now->on || !packet)
        return TC_ACT_UNSPEC; /* filters of the VM's own may follow */
    if (!hs_quick(skb, packet, skb->ifindex - HS_ETH0) &&
        hs_flow_of(skb, skb->ifindex - HS_ETH0, now->on) != HS_FLOW)
        return TC_ACT_UNSPEC;
    flow = bpf_map_lookup_elem(&flows, &packet->key);
    if (!flow) {
        flow = hs_new_flow(&packet->key);
        if (!flow)
            return TC_ACT_UNSPEC;
    }
    rule = &flow->rule;
    time = bpf_ktime_get_coarse_ns();
    last = flow->last;
    flow->last = time;
    verdict = READ_ONCE(rule->verdict);
    to = hs_to_of(verdict);
    vm = bpf_map_lookup_elem(&vms, &to);
    own = bpf_map_lookup_elem(&vms, &packet->key.vm);
    if (vm && own && (vm->flags | own->flags) & HS_VM_UNLIKE)
        verdict = rule->used = 0;
    if (hs_epoch_of(verdict) != READ_ONCE(now->epoch) ||
        hs_age(skb, &packet->key.tuple, hs_epoch_of(verdict)) || !vm || packet->group ||
        hs_too_long(skb, vm) ||
        (rule->used != hs_mark(verdict) && hs_under_way(flow, last ? time - last : 0)) ||
        hs_no_room(packet, rule, to)) {
        __sync_fetch_and_add(&rule->switch_packets, 1);
        return TC_ACT_UNSPEC;
    }
    rule->used = hs_mark(verdict);
    __sync_fetch_and_add(&rule->veth_packets, 1);
    __sync_fetch_and_add(&rule->veth_bytes, skb->len);
    hs_tag(skb, &packet->key.tuple, hs_epoch_of(verdict));
    if (vm->flags & HS_VM_ROUTES && packet->key.tuple.family)
        hs_address(skb, vm);
    return bpf_redirect(HS_DIRECT | packet->key.vm << 12 | to, 0);
}

/* The far end of a direct link is in the switch's namespace, beside the ports but no port: there
 * this program is out of reach of user 0 in either VM, and redirect_peer steps into eth0 at once.
 * The VM may send here what it likes: a rule of an older epoch is good for packets that carry this
 * epoch, which were under way when it ended, and for no other. */
SEC("tc")
int transfer_in(struct __sk_buff *skb) {
    struct hs_packet *packet = hs_packet();
    struct hs_config *now;
    struct hs_flow *flow;
    __u64 verdict;
    __u32 zero = 0, age;
    __u32 from = skb->ifindex >> 12 & HS_VM_MAX, to = skb->ifindex & HS_VM_MAX;

    now = bpf_map_lookup_elem(&config, &zero);
    if (!now || !packet)
        return hs_dropped(skb, HS_C_FORGED);
    if (!hs_quick(skb, packet, from) && hs_flow_of(skb, from, now->on) != HS_FLOW)
        return hs_dropped(skb, HS_C_FORGED);
    flow = bpf_map_lookup_elem(&flows, &packet->key);
    if (!flow || packet->group)
        return hs_dropped(skb, HS_C_FORGED);
    verdict = READ_ONCE(flow->rule.verdict);
    if (hs_to_of(verdict) != to)
        return hs_dropped(skb, HS_C_FORGED);
    age = READ_ONCE(now->epoch) - hs_epoch_of(verdict);
    if (age && (age >= HS_EPOCHS || hs_age(skb, &packet->key.tuple, now->epoch) != age))
        return hs_dropped(skb, HS_C_STALE);
    __sync_fetch_and_add(&flow->rule.got_packets, 1);
    return bpf_redirect_peer(HS_IFINDEX + to, 0);
}

#endif
