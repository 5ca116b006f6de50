// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The walk of a policy's rows: the first that matches what is known of a packet.
 *
 * The same in Python is first_match in hostsim/routing/policy.py. */
#ifndef HS_ROWS_BPF_H
#define HS_ROWS_BPF_H

#include "switch/maps.bpf.h"

struct hs_walk {
    struct hs_tuple tuple;
    __u32 base, content;
    __u32 found; /* out: the first row that matches << 16 | its route */
    __u16 from, owner;
    __u8 tcp_flags, dscp;
    __u8 unknown;   /* 1: a fragment's; neither ports nor flags are known, nor what the first
                     * fragment has in its own header: DSCP, and over IPv6 the protocol */
    __u8 undecided; /* out: a row before it asks for contents that are not known */
};

enum {
    HS_NO_ROW = 0x7fff0000 | HS_NO_ROUTE,
    HS_MAYBE = 0x7ffe0000, /* a row whose match hangs on what is not known stands before */
};

/* Each of these is 0 if the value is inside, all ones if not, without a branch: the verifier
 * follows every branch of every round, and there are many. */
static __always_inline __s64 hs_differs(__u64 bits) {
    __u64 minus = -bits;

    asm("" : "+r"(minus)); /* or the compiler sees a comparison in it, and makes it a branch */
    return (__s64)(bits | minus) >> 63;
}

static __always_inline __s64 hs_off_ranges(const __u16 (*ranges)[2], __s64 port) {
    __s64 off = -1;

    for (int j = 0; j < HS_RANGES; j++)
        off &= ((port - ranges[j][0]) | (ranges[j][1] - port)) >> 63;
    return off;
}

static __always_inline __s64 hs_off_prefixes(const struct hs_prefix *prefixes,
                                             const __u32 *address) {
    __s64 off = -1;

    for (int j = 0; j < HS_PREFIXES; j++) {
        const struct hs_prefix *prefix = prefixes + j;

        off &= hs_differs(((address[0] & prefix->mask[0]) ^ prefix->addr[0]) |
                          ((address[1] & prefix->mask[1]) ^ prefix->addr[1]) |
                          ((address[2] & prefix->mask[2]) ^ prefix->addr[2]) |
                          ((address[3] & prefix->mask[3]) ^ prefix->addr[3]));
    }
    return off;
}

static __always_inline __s64 hs_off_list(const __u16 *list, __u16 value) {
    __s64 off = -1;

    for (int j = 0; j < HS_FROM; j++)
        off &= hs_differs(list[j] ^ value);
    return off;
}

/* Whether a packet's ports are none of a row's. */
HS_GLOBAL int hs_off_ports(const struct hs_row *row, const struct hs_walk *walk) {
    if (!row || !walk)
        return 1;
    return (row->ports & HS_ROW_SPORT && hs_off_ranges(row->sport, bpf_ntohs(walk->tuple.sport))) ||
           (row->ports & HS_ROW_DPORT && hs_off_ranges(row->dport, bpf_ntohs(walk->tuple.dport)));
}

/* The same of its addresses. */
HS_GLOBAL int hs_off_addresses(const struct hs_row *row, const struct hs_walk *walk) {
    if (!row || !walk)
        return 1;
    return hs_off_prefixes(row->src, (const __u32 *)walk->tuple.src) ||
           hs_off_prefixes(row->dst, (const __u32 *)walk->tuple.dst);
}

/* The same of who sent it. */
HS_GLOBAL int hs_off_senders(const struct hs_row *row, const struct hs_walk *walk) {
    if (!row || !walk)
        return 1;
    return hs_off_list(row->from, walk->from) && hs_off_list(row->from, walk->owner);
}

static long hs_try_row(__u32 i, void *context) {
    struct hs_walk *walk = context;
    __u32 index = walk->base + i;
    struct hs_row *row = bpf_map_lookup_elem(&rows, &index);
    int any_proto;

    if (!row)
        return 1;
    any_proto = walk->unknown && walk->tuple.family == 6;
    if (walk->tuple.vlan != row->vlan)
        return 0;
    if (walk->tuple.family ? row->ethertype : row->ethertype != walk->tuple.sport)
        return 0;
    if (row->family && row->family != walk->tuple.family)
        return 0;
    if (row->proto && row->proto != walk->tuple.proto + 1 && !any_proto)
        return 0;
    if (row->ports && !hs_has_ports(walk->tuple.proto) && !any_proto)
        return 0;
    if (row->ports && !walk->unknown && hs_off_ports(row, walk))
        return 0;
    if (hs_off_addresses(row, walk))
        return 0;
    if (row->dscp && row->dscp != walk->dscp + 1 && !walk->unknown)
        return 0;
    if (walk->unknown && (row->ports || row->tcp_mask || row->content || row->dscp ||
                          (row->proto && any_proto) || (!row->any_from && !walk->from))) {
        walk->found = HS_MAYBE;
        return 1;
    }
    if (!row->any_from && hs_off_senders(row, walk))
        return 0;
    if ((walk->tcp_flags & row->tcp_mask) != row->tcp_want)
        return 0;
    if (row->content && walk->content != HS_UNSEEN_CONTENT) {
        struct hs_name name = {walk->content, index};

        if (!walk->content)
            walk->undecided = 1;
        if (!walk->content || !bpf_map_lookup_elem(&names, &name))
            return 0;
    }
    walk->found = i << 16 | row->route;
    return 1;
}

enum hs_list { HS_ROUTES, HS_FILTERS, HS_MIRRORS, HS_TURNED = 4 };

/* The first row of a list (enum hs_list) that matches << 16 | its route, HS_NO_ROW, or HS_MAYBE;
 * what the connection's first packet was, is in conn. HS_TURNED: try the other direction of the
 * tuple. Sets conn->undecided if it walks the routes. */
HS_GLOBAL int hs_walk_rows(int list, const struct hs_policy *policy, struct hs_conn *conn) {
    struct hs_packet *p = hs_packet();
    struct hs_walk walk = {};
    __u32 count;

    if (!p || !policy || !conn)
        return HS_NO_ROW;
    if (list & HS_TURNED) {
        hs_tuple_turn(&p->key.tuple, &walk.tuple);
    } else {
        walk.tuple = p->key.tuple;
    }
    walk.base = policy->region * HS_ROWS_MAX;
    count = policy->rows;
    if ((list & 3) == HS_FILTERS) {
        walk.base += policy->rows;
        count = policy->filters;
    } else if ((list & 3) == HS_MIRRORS) {
        walk.base += policy->rows + policy->filters;
        count = policy->mirrors;
    }
    walk.from = conn->from;
    walk.owner = conn->owner;
    walk.tcp_flags = conn->tcp_flags;
    walk.dscp = conn->dscp;
    walk.content = conn->content;
    walk.unknown = p->unknown;
    walk.found = HS_NO_ROW;
    bpf_loop(count < HS_ROWS_MAX ? count : HS_ROWS_MAX, hs_try_row, &walk, 0);
    if ((list & 3) == HS_ROUTES)
        conn->undecided = walk.undecided;
    return walk.found;
}

#endif
