// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Every VM has its share of the tables of flows, connections and datagrams, and of the ring buffer
 * to the daemon: a flood from one costs that one.
 *
 * Nobody may have more entries than HS_SHARE times what is free. So a table is never full: one VM
 * alone gets HS_SHARE parts of HS_SHARE + 1, two get HS_SHARE parts of 2 * HS_SHARE + 1 each, and
 * who comes next finds room (the dynamic thresholds of Choudhury and Hahne, 1998). Connections that
 * no route concerns may have what is free, and no more: a scan of them leaves room for the others
 * of the same VM.
 *
 * In the ring buffer, what counts is the contents that the daemon has not taken yet; so there is
 * always room for what is not contents, too.
 *
 * A connection is charged to the VM or endpoint by whose port its first packet came in, and a flow
 * to whom its connection is charged to, whichever VM of the chain sends it. Datagrams
 * are in switch/datagrams.bpf.h. */
#ifndef HS_SHARES_BPF_H
#define HS_SHARES_BPF_H

#include "switch/maps.bpf.h"

/* By VM; 0: the sum of all. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, HS_VM_MAX + 1);
    __type(key, __u32);
    __type(value, struct hs_entries);
} shares SEC(".maps");

/* By VM: the bytes of contents that the daemon has taken; see struct hs_entries. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, HS_VM_MAX + 1);
    __type(key, __u32);
    __type(value, __u64);
} taken SEC(".maps");

enum hs_table { HS_OF_FLOWS, HS_OF_CONNS, HS_OF_DATAGRAMS };

/* Whether a VM may have one more entry than `mine`. used: the entries of all. */
static __always_inline int hs_may_have(__u64 mine, __u64 used, __u64 most, __u64 share) {
    return used < most && mine < share * (most - used);
}

/* How many entries of a table there are in an account, and how many there may be of all. */
static __always_inline __u64 *hs_held(struct hs_entries *of, int table, __u64 *most) {
    switch (table) {
    case HS_OF_CONNS:
        *most = HS_CONNS_MAX;
        return &of->conns;
    case HS_OF_DATAGRAMS:
        *most = HS_DATAGRAMS_MAX;
        return &of->datagrams;
    default:
        *most = HS_FLOWS_MAX;
        return &of->flows;
    }
}

/* Take a place in a table (enum hs_table) for a VM. Returns whether it may have one. */
HS_GLOBAL int hs_take(__u32 vm, int table, __u32 share) {
    struct hs_entries *all, *own;
    __u64 most, *of_all, *mine;
    __u32 zero = 0;

    all = bpf_map_lookup_elem(&shares, &zero);
    own = bpf_map_lookup_elem(&shares, &vm);
    if (!all || !own || !vm)
        return 0;
    of_all = hs_held(all, table, &most);
    mine = hs_held(own, table, &most);
    if (!hs_may_have(*mine, *of_all, most, share))
        return 0;
    __sync_fetch_and_add(of_all, 1);
    __sync_fetch_and_add(mine, 1);
    return 1;
}

/* Whether more contents may go up on a VM's account. */
HS_GLOBAL int hs_may_ask(__u32 vm) {
    struct hs_entries *own = bpf_map_lookup_elem(&shares, &vm);
    __u64 *done = bpf_map_lookup_elem(&taken, &vm);
    __u64 used = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

    return own && done &&
           hs_may_have(own->contents - READ_ONCE(*done), used, HS_EVENTS_MAX, HS_SHARE);
}

/* Give a place back; vm: who was charged, 0: nobody. */
HS_GLOBAL int hs_give(__u32 vm, int table) {
    struct hs_entries *all, *own;
    __u64 most, *mine;
    __u32 zero = 0;

    all = bpf_map_lookup_elem(&shares, &zero);
    own = bpf_map_lookup_elem(&shares, &vm);
    if (!all || !own || !vm)
        return 0;
    mine = hs_held(own, table, &most);
    if (!READ_ONCE(*mine)) /* it was charged to another meanwhile: below 0 it would have no end */
        return 0;
    __sync_fetch_and_add(hs_held(all, table, &most), -1);
    __sync_fetch_and_add(mine, -1);
    return 0;
}

/* Whether a VM has more connections than are free. */
static __always_inline int hs_pressed(__u32 vm) {
    struct hs_entries *all, *own;
    __u32 zero = 0;

    all = bpf_map_lookup_elem(&shares, &zero);
    own = bpf_map_lookup_elem(&shares, &vm);
    return all && own && !hs_may_have(own->conns, all->conns, HS_CONNS_MAX, 1);
}

#endif
