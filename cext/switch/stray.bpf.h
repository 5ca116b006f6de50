// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Packets that have no flow's entry, for they have no flow: those to a group, which filters and
 * mirrors look at; and fragments whose ports are not known. */
#ifndef HS_STRAY_BPF_H
#define HS_STRAY_BPF_H

#include "switch/decide.bpf.h"

/* Why hs_stray does not drop a packet. */
enum { HS_DECIDED = -1 };

/* Decide for a packet that has no flow's entry: one to a group, or a fragment whose ports are not
 * known. Filters and mirrors hold for both; routes for the fragment, by its addresses, tried both
 * ways round as hs_judge_conn does, whatever its frame says. Returns whether it is decided: if a
 * row before would have to know the ports, it is not. */
HS_GLOBAL int hs_decide_stray(const struct hs_policy *policy, int newest, struct hs_flow *flow) {
    int forward = HS_NO_ROW, backward = HS_NO_ROW, found;
    struct hs_packet *p = hs_packet();
    struct hs_conn conn = {};
    struct hs_vm *vm;

    if (!p || !policy || !flow)
        return 0;
    vm = bpf_map_lookup_elem(&vms, &p->key.vm);
    conn.tcp_flags = p->tcp_flags;
    conn.dscp = p->dscp;
    conn.from = p->key.vm;
    if (p->unknown && vm && vm->flags & HS_VM_ALIVE && !(vm->flags & HS_VM_ENDPOINT))
        conn.from = 0; /* a VM's own, or one that it forwards */
    if (!p->group || !hs_is_to_group(&p->key.tuple)) {
        struct hs_conn back = conn;

        back.from = 0;
        conn.owner = hs_owner(0);
        forward = hs_walk_rows(HS_ROUTES, policy, &conn);
        conn.owner = 0; /* filters and mirrors ask for the port alone */
        backward = hs_walk_rows(HS_ROUTES | HS_TURNED, policy, &back);
        if (forward == HS_MAYBE || backward == HS_MAYBE)
            return 0;
        conn.reply = backward < forward;
    }
    hs_next_hop(p->key.vm, &conn, conn.reply ? backward : forward, policy, flow);
    if (newest == HS_NEWEST) {
        found = policy->filters ? hs_walk_rows(HS_FILTERS, policy, &conn) : HS_NO_ROW;
        if (found == HS_MAYBE)
            return 0;
        if (found != HS_NO_ROW)
            flow->verdict = hs_verdict(policy->epoch, HS_F_START, HS_DROP, 0);
        found = policy->mirrors ? hs_walk_rows(HS_MIRRORS, policy, &conn) : HS_NO_ROW;
        if (found != HS_NO_ROW && found != HS_MAYBE)
            flow->mirror = found;
    }
    return 1;
}

/* What is decided for the packet in hand, if that has no flow's entry: on no stack, for there is
 * little room. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hs_flow);
} strays SEC(".maps");

/* A packet that has no flow's entry: see hs_decide_stray. Nothing is remembered of it but that the
 * next VM must not know more than this one did, or the fragments of a datagram would go by two
 * decisions. Fills `strays` and returns HS_DECIDED, or
 * why it is dropped. */
HS_GLOBAL int hs_stray(struct __sk_buff *skb, __u32 epoch) {
    struct hs_packet *p = hs_packet();
    struct hs_policy *policy;
    struct hs_flow *flow;
    __u32 zero = 0, age;

    flow = bpf_map_lookup_elem(&strays, &zero);
    if (!p || !flow)
        return HS_C_MALFORMED;
    __builtin_memset(flow, 0, sizeof(*flow));
    policy = hs_policy_of(skb, &p->key, epoch, &age);
    if (!policy)
        return HS_C_STALE;
    if (!hs_decide_stray(policy, age ? HS_OLD : HS_NEWEST, flow))
        return HS_C_ORPHAN_FRAGMENT;
    if (age && hs_flags_of(flow->verdict) & HS_F_START)
        return HS_C_STALE;
    if (hs_action_of(flow->verdict) == HS_STEER && !p->group &&
        !hs_pass_on_unknown(hs_to_of(flow->verdict)))
        return HS_C_NO_SHARE;
    return HS_DECIDED;
}

#endif
