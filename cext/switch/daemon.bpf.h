// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the daemon runs in the kernel: the sweeper, and what it tells and asks.
 *
 *   sweep   removes idle flows, rules and connections, of those that it is given (switch/sweep.c)
 *   drop    removes a flow
 *   tell    what the contents of a connection told
 *   forget  makes what was decided for a flow stale
 *   judge   the decision for a packet that is only imagined */
#ifndef HS_DAEMON_BPF_H
#define HS_DAEMON_BPF_H

#include "switch/decide.bpf.h"

/* What is known of a flow that a VM sent goes into the sums of what it sent before. It has been
 * silent for much longer than a packet is under way: all that arrived has been counted. */
static __always_inline void hs_end(struct hs_key *key, struct hs_flow *flow) {
    __u64 counted = flow->rule.switch_packets + flow->rule.veth_packets, lost = 0;
    struct hs_ended *sums, none = {};

    for (int by = 0; by < HS_BY_NAMES; by++)
        lost += flow->dropped[by];
    if (!counted && !lost)
        return;
    bpf_map_update_elem(&ended, &key->vm, &none, BPF_NOEXIST);
    sums = bpf_map_lookup_elem(&ended, &key->vm);
    if (!sums)
        return;
    __sync_fetch_and_add(&sums->flows, 1);
    __sync_fetch_and_add(&sums->switch_packets, counted ? flow->rule.switch_packets : lost);
    __sync_fetch_and_add(&sums->veth_packets, flow->rule.veth_packets);
    __sync_fetch_and_add(&sums->got_packets, flow->rule.got_packets);
    __sync_fetch_and_add(&sums->packets, counted ? flow->packets : lost);
    for (int by = 0; by < HS_BY_NAMES; by++)
        __sync_fetch_and_add(&sums->dropped[by], flow->dropped[by]);
}

/* A VM's counts of a flow, what it sent and what came in by its port, go together, and not before
 * they are old, though the VM be gone. */
static __always_inline void hs_sweep_flow(struct hs_key *key, struct hs_flow *flow,
                                          struct hs_sweep *sweep) {
    struct hs_vm *vm = bpf_map_lookup_elem(&vms, &key->vm);
    __u64 last = flow->last;
    struct hs_conn *conn;
    __u32 charged;
    int turned;

    if (sweep->gone && (key->vm == sweep->gone || hs_to_of(flow->rule.verdict) == sweep->gone)) {
        sweep->rules += flow->rule.verdict != 0;
        WRITE_ONCE(flow->rule.verdict, 0);
    } else if (last + sweep->flow_idle < sweep->now &&
               !(vm && vm->flags & HS_VM_PORT && flow->packets)) {
        hs_end(key, flow);
        sweep->flows++;
        sweep->rules += flow->rule.verdict != 0;
        charged = flow->charged;
        if (bpf_map_delete_elem(&flows, key) == 0)
            hs_give(charged, HS_OF_FLOWS);
        return;
    }
    conn = hs_find_conn(&key->tuple, &turned);
    if (!conn)
        return;
    if (conn->last < last)
        conn->last = last;
    if (conn->back && conn->from == key->vm && turned == conn->turned &&
        flow->packets + flow->rule.veth_packets >= HS_OPEN_AFTER)
        conn->state |= HS_CONN_OPEN;
}

static __always_inline void hs_sweep_conn(struct hs_tuple *key, struct hs_conn *conn,
                                          struct hs_sweep *sweep) {
    __u32 charged = conn->charged;

    if (conn->last + hs_lifetime(key, conn) * 1000000000ull < sweep->now) {
        sweep->conns++;
        if (bpf_map_delete_elem(&conns, key) == 0)
            hs_give(charged, HS_OF_CONNS);
    }
}

/* A datagram whose fragments nobody waits for any more. */
static __always_inline void hs_sweep_datagram(struct hs_datagram *key, struct hs_first *first,
                                              struct hs_sweep *sweep) {
    struct hs_place place = {.vm = first->charged, .at = first->place % HS_DATAGRAMS_EACH};

    if (first->seen + hs_fragment_ns(key->family) < sweep->now &&
        bpf_map_delete_elem(&datagrams, key) == 0) {
        bpf_map_delete_elem(&places, &place);
        hs_give(place.vm, HS_OF_DATAGRAMS);
    }
}
_Static_assert(sizeof(struct hs_datagram) == HS_DATAGRAM_SIZE, "as switch/layout.h has it");
_Static_assert(sizeof(struct hs_first) == HS_FIRST_SIZE, "as switch/layout.h has it");

/* What a run of the sweeper is told, and the page of keys that it looks at. */
struct hs_broom {
    struct hs_sweep *sweep;
    union hs_swept *page;
};

static long hs_sweep_key(__u32 index, struct hs_broom *broom) {
    union hs_swept *page = broom->page;
    __u64 at = index;
    struct hs_datagram *datagram;
    struct hs_first *first;
    struct hs_flow *flow;
    struct hs_conn *conn;

    barrier_var(at); /* the verifier sees the bound of what is used */
    if (at >= HS_SWEPT)
        return 1;
    if (broom->sweep->of == HS_SWEEP_FLOWS) {
        flow = bpf_map_lookup_elem(&flows, &page->flows[at]);
        if (flow)
            hs_sweep_flow(&page->flows[at], flow, broom->sweep);
    } else if (broom->sweep->of == HS_SWEEP_CONNS) {
        conn = bpf_map_lookup_elem(&conns, &page->conns[at]);
        if (conn)
            hs_sweep_conn(&page->conns[at], conn, broom->sweep);
    } else {
        datagram = (void *)page->datagrams[at];
        first = bpf_map_lookup_elem(&datagrams, datagram);
        if (first)
            hs_sweep_datagram(datagram, first, broom->sweep);
    }
    return 0;
}

SEC("syscall")
int sweep(struct hs_sweep *context) {
    struct hs_sweep work = *context;
    struct hs_broom broom = {.sweep = &work};
    __u32 zero = 0;

    broom.page = bpf_map_lookup_elem(&swept, &zero);
    if (!broom.page)
        return 0;
    bpf_loop(work.keys, hs_sweep_key, &broom, 0);
    *context = work;
    return 0;
}

/* Forget a flow, and its counts. */
SEC("syscall")
int drop(struct hs_key *context) {
    struct hs_key key = *context;
    struct hs_flow *flow = bpf_map_lookup_elem(&flows, &key);
    __u32 charged;

    if (!flow)
        return 0;
    charged = flow->charged;
    if (bpf_map_delete_elem(&flows, &key) == 0)
        hs_give(charged, HS_OF_FLOWS);
    return 0;
}

/* Note what the contents of a connection told, and that it must be judged again. Returns
 * HS_TELL_UNKNOWN if it is forgotten; HS_TELL_AGAIN if somebody else changed it meanwhile. */
SEC("syscall")
int tell(struct hs_tell *context) {
    struct hs_tuple key = context->key;
    struct hs_conn *known = bpf_map_lookup_elem(&conns, &key), value;

    if (!known)
        return HS_TELL_UNKNOWN;
    value = *known;
    if (!hs_claim(known, &value))
        return HS_TELL_AGAIN;
    value.content = context->content;
    value.policy = 0;
    value.undecided = 0;
    return hs_replace(&key, &value) ? HS_TELL_DONE : HS_TELL_AGAIN;
}

/* Make what was decided for a flow at a port stale, and its routing rule, without a count lost. */
SEC("syscall")
int forget(struct hs_key *context) {
    struct hs_key key = *context;
    struct hs_flow *flow = bpf_map_lookup_elem(&flows, &key);

    if (flow) {
        WRITE_ONCE(flow->verdict, 0);
        hs_barrier(); /* hs_offer_rule looks the other way round */
        WRITE_ONCE(flow->rule.verdict, 0);
    }
    return 0;
}

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hs_judge);
} judged SEC(".maps");

/* The decision for the packet that `judged` describes; nothing is remembered. Run by the daemon's
 * tests, on a frame that does not matter. */
SEC("tc")
int judge(struct __sk_buff *skb) {
    struct hs_scratch *work = hs_scratch();
    struct hs_packet *p = hs_packet();
    struct hs_policy *policy;
    struct hs_flow *flow;
    struct hs_config *now;
    struct hs_judge *judge;
    __u32 zero = 0, slot;

    now = bpf_map_lookup_elem(&config, &zero);
    judge = bpf_map_lookup_elem(&judged, &zero);
    if (!p || !now || !judge || !work)
        return TC_ACT_SHOT;
    flow = &work->flow;
    __builtin_memset(flow, 0, sizeof(*flow));
    slot = now->epoch % HS_EPOCHS;
    policy = bpf_map_lookup_elem(&policies, &slot);
    if (!policy)
        return TC_ACT_SHOT;
    p->key = judge->key;
    p->tcp_flags = judge->tcp_flags;
    p->dscp = judge->dscp;
    hs_decide(policy, HS_IMAGINED, flow);
    judge->route = flow->route;
    judge->verdict = flow->verdict;
    judge->reply = flow->reply;
    return TC_ACT_OK;
}

#endif
