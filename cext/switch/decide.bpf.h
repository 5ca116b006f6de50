/* The decision at a flow's first packet: connection, policy row, next VM of the chain.
 *
 * The same decision in Python is hostsim/routing/policy.py; tests hold the two against each other.
 *
 * Which way a connection goes is what its first packet says: its sender began it, unless it is a
 * TCP SYN+ACK, whose receiver did. A TCP packet without SYN that no connection is known for
 * (the table was full, or the connection was idle too long) is tried both ways round, the row
 * that stands first wins: a reply must not slip past the chain because its request is forgotten. */
#ifndef HS_DECIDE_BPF_H
#define HS_DECIDE_BPF_H

#include "switch/maps.bpf.h"
#include "switch/tag.bpf.h"
#include "switch/verdict.h"

enum { HS_TCP_SYN = 2, HS_TCP_ACK = 16 };

/* The connection of a tuple; turned: whether its key is the tuple of the other direction. */
static __always_inline struct hs_conn *hs_find_conn(const struct hs_tuple *tuple, int *turned) {
    struct hs_tuple key;

    *turned = hs_tuple_both_ways(tuple, &key);
    return bpf_map_lookup_elem(&conns, &key);
}

/* Parse into the packet in hand, as a packet on the interface of `vm`, and settle what an ICMP
 * error belongs to: its flow if that is known, else its own. on: HS_ON_*. Returns enum hs_kind. */
HS_GLOBAL int hs_flow_of(struct __sk_buff *skb, __u32 vm, __u32 on) {
    struct hs_packet *p = hs_packet();
    int kind, turned;

    if (!p)
        return HS_PLAIN;
    __builtin_memset(p, 0, sizeof(*p));
    p->key.vm = vm;
    kind = hs_parse(skb, p, on, 1);
    if ((kind == HS_FLOW || kind == HS_GROUP) && p->error &&
        !hs_find_conn(&p->key.tuple, &turned)) {
        __builtin_memset(p, 0, sizeof(*p));
        p->key.vm = vm;
        kind = hs_parse(skb, p, on, 0);
    }
    return kind;
}

struct hs_walk {
    struct hs_tuple tuple;
    __u32 base, content;
    __u32 found; /* out: the first row that matches << 16 | its route */
    __u16 from;
    __u8 tcp_flags, dscp;
    __u16 unknown; /* 1: a fragment's; neither ports nor flags are known */
    __u16 pad;
    __u32 undecided; /* out: a row before it asks for contents that are not known */
};

enum {
    HS_NO_ROW = 0x7fff0000 | HS_NO_ROUTE,
    HS_MAYBE = 0x7ffe0000, /* a row whose match hangs on what is not known stands before */
};

/* Each of these is 0 where the value is inside, all ones where not, without a branch: the verifier
 * follows every branch of every round, and there are many. */
static __always_inline __s64 hs_differs(__u64 bits) {
    __u64 minus = -bits;

    asm("" : "+r"(minus)); /* or the compiler sees a comparison in it, and makes it a branch */
    return (__s64)(bits | minus) >> 63;
}

static __noinline __s64 hs_off_ranges(const __u16 (*ranges)[2], __s64 port) {
    __s64 off = -1;

    for (int j = 0; j < HS_RANGES; j++)
        off &= ((port - ranges[j][0]) | (ranges[j][1] - port)) >> 63;
    return off;
}

static __noinline __s64 hs_off_prefixes(const struct hs_prefix *prefixes, const __u32 *address) {
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

static __noinline __s64 hs_off_list(const __u16 *list, __u16 value) {
    __s64 off = -1;

    for (int j = 0; j < HS_FROM; j++)
        off &= hs_differs(list[j] ^ value);
    return off;
}

static long hs_try_row(__u32 i, void *context) {
    struct hs_walk *walk = context;
    __u32 index = walk->base + i;
    struct hs_row *row = bpf_map_lookup_elem(&rows, &index);

    if (!row)
        return 1;
    if (walk->tuple.vlan != row->vlan)
        return 0;
    if (walk->tuple.family ? row->ethertype : row->ethertype != walk->tuple.sport)
        return 0;
    if (row->family && row->family != walk->tuple.family)
        return 0;
    if (row->proto && row->proto != walk->tuple.proto + 1)
        return 0;
    if (row->ports && !hs_has_ports(walk->tuple.proto))
        return 0;
    if (row->ports & HS_ROW_SPORT && !walk->unknown &&
        hs_off_ranges(row->sport, bpf_ntohs(walk->tuple.sport)))
        return 0;
    if (row->ports & HS_ROW_DPORT && !walk->unknown &&
        hs_off_ranges(row->dport, bpf_ntohs(walk->tuple.dport)))
        return 0;
    if (hs_off_prefixes(row->src, (const __u32 *)walk->tuple.src) ||
        hs_off_prefixes(row->dst, (const __u32 *)walk->tuple.dst))
        return 0;
    if (row->dscp && row->dscp != walk->dscp + 1)
        return 0;
    if (walk->unknown &&
        (row->ports || row->tcp_mask || row->content || (!row->any_from && !walk->from))) {
        walk->found = HS_MAYBE;
        return 1;
    }
    if (!row->any_from && hs_off_list(row->from, walk->from))
        return 0;
    if ((walk->tcp_flags & row->tcp_mask) != row->tcp_want)
        return 0;
    if (row->content) {
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
 * tuple. Sets conn->undecided where it walks the routes. */
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

/* The route of a connection not known yet; fills conn (the side of the packet's tuple). */
HS_GLOBAL int hs_new_conn(const struct hs_policy *policy, struct hs_conn *conn) {
    struct hs_packet *p = hs_packet();
    int forward = HS_NO_ROW, backward;
    __u8 flags, undecided;

    if (!p || !policy || !conn)
        return 0;
    conn->policy = policy->policy;
    conn->old_policy = 0;
    conn->old_route = HS_NO_ROUTE;
    conn->tcp_flags = p->tcp_flags;
    conn->dscp = p->dscp;
    conn->content = 0;
    conn->from = p->key.vm;
    conn->reply = 1;
    flags = p->tcp_flags & (HS_TCP_SYN | HS_TCP_ACK);
    if (p->key.tuple.proto != IPPROTO_TCP || flags != (HS_TCP_SYN | HS_TCP_ACK)) {
        forward = hs_walk_rows(HS_ROUTES, policy, conn);
        conn->route = forward;
        conn->reply = 0;
        if (p->key.tuple.proto != IPPROTO_TCP || flags & HS_TCP_SYN)
            return 0;
    }
    undecided = conn->undecided;
    conn->from = 0;
    backward = hs_walk_rows(HS_ROUTES | HS_TURNED, policy, conn);
    if (conn->reply || backward < forward) {
        conn->route = backward;
        conn->reply = 1;
    } else {
        conn->from = p->key.vm;
        conn->undecided = undecided;
    }
    return 0;
}

/* Remember the connection. An entry is replaced whole, so that nobody reads half of one. */
HS_GLOBAL int hs_put_conn(const struct hs_conn *conn) {
    struct hs_packet *p = hs_packet();
    struct hs_tuple key;
    struct hs_conn value;

    if (!p || !conn)
        return 0;
    value = *conn;
    value.reply ^= hs_tuple_both_ways(&p->key.tuple, &key);
    if (bpf_map_update_elem(&conns, &key, &value, BPF_ANY) < 0)
        hs_count(HS_C_TABLE_FULL);
    return 0;
}

/* Where the packet goes from the port of `vm`, by a route. Fills flow but for its counts. */
HS_GLOBAL int hs_next_hop(__u32 vm, const struct hs_conn *conn, __u16 index,
                          const struct hs_policy *policy, struct hs_flow *flow) {
    struct hs_route *route;
    struct hs_vm *info;
    int at = -1, step, length;
    __u8 flags = 0;
    __u32 key;

    if (!conn || !policy || !flow)
        return 0;
    key = policy->region * HS_ROWS_MAX + index;
    flow->route = index;
    flow->reply = conn->reply;
    flow->verdict = hs_verdict(policy->epoch, HS_F_START, HS_BRIDGE, 0);
    if (index == HS_NO_ROUTE)
        return 0;
    route = bpf_map_lookup_elem(&routes, &key);
    if (!route)
        return 0;
    length = route->length;
    for (int i = 0; i < HS_CHAIN_MAX; i++) { /* unused places hold 0, which is no VM */
        int here = ~(int)hs_differs(route->chain[i] ^ vm);

        at = (at & ~here) | (i & here);
    }
    if (at < 0)
        flags |= HS_F_START;
    step = conn->reply ? -1 : 1;
    if (at < 0 && conn->reply)
        at = length;
    for (int i = 0; i < HS_CHAIN_MAX; i++) {
        __u32 to, place;

        at += step;
        if (at < 0 || at >= length || at >= HS_CHAIN_MAX)
            break;
        place = at;
        barrier_var(place); /* or clang 19 drops the mask, and the verifier sees no bound */
        to = route->chain[place & (HS_CHAIN_MAX - 1)];
        info = bpf_map_lookup_elem(&vms, &to);
        if (!info)
            break;
        if (!(info->flags & HS_VM_ALIVE)) {
            flags |= HS_F_VM_GONE;
            if (route->on_failure == HS_ON_FAILURE_SKIP)
                continue;
            flow->verdict = hs_verdict(policy->epoch, flags, HS_DROP, to);
            return 0;
        }
        if (route->bypass && !(flags & HS_F_START)) {
            __u8 on_switch = info->flags & HS_VM_ON_SWITCH;

            info = bpf_map_lookup_elem(&vms, &vm);
            if (info && !on_switch && !(info->flags & HS_VM_ON_SWITCH))
                flags |= HS_F_BYPASS;
        }
        flow->position = at;
        flow->verdict = hs_verdict(policy->epoch, flags, HS_STEER, to);
        return 0;
    }
    flow->position = length;
    flow->verdict = hs_verdict(policy->epoch, flags, HS_BRIDGE, 0);
    return 0;
}

/* The policy that a packet is judged by: the newest, or the one that it was first judged by, `age`
 * epochs ago, if a chain's VM says so. Null: stale. */
static __always_inline struct hs_policy *hs_policy_of(struct __sk_buff *skb, __u32 vm, __u32 epoch,
                                                      __u32 *age) {
    struct hs_policy *policy;
    struct hs_vm *info;
    __u32 slot;

    *age = hs_age(skb, epoch);
    if (*age) {
        info = bpf_map_lookup_elem(&vms, &vm);
        if (!info || info->flags & HS_VM_ENDPOINT)
            *age = 0;
    }
    if (*age >= HS_EPOCHS)
        return 0;
    slot = (epoch - *age) % HS_EPOCHS;
    policy = bpf_map_lookup_elem(&policies, &slot);
    return policy && policy->epoch == epoch - *age ? policy : 0;
}

/* What filters and mirrors say of packets of this tuple: changes the verdict. */
HS_GLOBAL int hs_watch(const struct hs_policy *policy, const struct hs_conn *conn,
                       struct hs_flow *flow) {
    struct hs_conn own;
    __u64 flags;
    int found;

    if (!policy || !conn || !flow)
        return 0;
    own = *conn;
    if (own.reply)
        own.from = 0;
    found = policy->filters ? hs_walk_rows(HS_FILTERS, policy, &own) : HS_NO_ROW;
    if (found != HS_NO_ROW) {
        flow->verdict = hs_verdict(policy->epoch, HS_F_START, HS_DROP, 0);
        return 0;
    }
    found = policy->mirrors ? hs_walk_rows(HS_MIRRORS, policy, &own) : HS_NO_ROW;
    if (found == HS_NO_ROW)
        return 0;
    flow->mirror = found;
    flags = hs_flags_of(flow->verdict) & ~HS_F_BYPASS;
    flow->verdict = hs_verdict(policy->epoch, flags | HS_F_MIRROR, hs_action_of(flow->verdict),
                               hs_to_of(flow->verdict));
    return 0;
}

/* Decide for a packet under `policy`: an old one, the newest (then remember the connection), or the
 * newest for a packet that is only imagined. */
enum { HS_OLD = 0, HS_NEWEST = 1, HS_IMAGINED = 2 };

HS_GLOBAL int hs_decide(const struct hs_policy *policy, int newest, struct hs_flow *flow) {
    struct hs_packet *p = hs_packet();
    struct hs_conn *known, conn = {};
    __u16 route;
    int turned;

    if (!p || !policy || !flow)
        return 0;
    known = hs_find_conn(&p->key.tuple, &turned);
    if (!known) {
        hs_new_conn(policy, &conn);
        route = conn.route;
        conn.last = bpf_ktime_get_coarse_ns();
        if (newest == HS_NEWEST)
            hs_put_conn(&conn);
    } else {
        conn = *known;
        conn.reply ^= turned;
        if (conn.policy == policy->policy) {
            route = conn.route;
        } else if (conn.old_policy == policy->policy) {
            route = conn.old_route;
        } else { /* a policy this connection has not met */
            route = hs_walk_rows(HS_ROUTES | (conn.reply ? HS_TURNED : 0), policy, &conn);
            if (newest == HS_NEWEST) {
                conn.old_policy = conn.policy;
                conn.old_route = conn.route;
                conn.policy = policy->policy;
                conn.route = route;
                hs_put_conn(&conn);
            }
        }
    }
    hs_next_hop(p->key.vm, &conn, route, policy, flow);
    if (newest && (policy->filters || policy->mirrors))
        hs_watch(policy, &conn, flow);
    if (newest && conn.undecided && !conn.reply && hs_flags_of(flow->verdict) & HS_F_START)
        flow->verdict |= (__u64)HS_F_INSPECT << 24;
    return 0;
}

#endif
