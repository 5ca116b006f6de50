// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The decision at a flow's first packet: connection, policy row, next VM of the chain.
 *
 * The same decision in Python is hostsim/routing/policy.py; tests hold the two against each other.
 *
 * A connection is judged by the packet that it is first known by. Its sender began it, unless it is
 * a TCP SYN+ACK, whose receiver did. If no row matches that way round, it is tried the other way: a
 * reply must not slip past the chain because its request is forgotten, or was never made. In the
 * middle of a TCP connection that nobody remembers, the row that stands first wins; contents that
 * would have chosen a row have passed unseen, so such a row matches by the rest of it.
 *
 * No packet talks a connection out of its route. What is known of one is judged anew by a packet
 * that enters the switch (evidence):
 *   - any, if the packet before had a VM's address, and did not come from that VM (hearsay);
 *   - a TCP SYN, either way;
 *   - one that goes the way of the first, and comes in by another port.
 * The new judgement holds if its row stands before the old one's, or the old one was by hearsay.
 * A packet that is hearsay is no evidence of a connection that is known. */
#ifndef HS_DECIDE_BPF_H
#define HS_DECIDE_BPF_H

#include "switch/conns.bpf.h"
#include "switch/datagrams.bpf.h"
#include "switch/rows.bpf.h"
#include "switch/tag.bpf.h"
#include "switch/verdict.h"

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
    if (p->fragment == 1 && (kind == HS_FLOW || kind == HS_GROUP) && !hs_remember())
        return HS_NO_ROOM;
    return kind;
}

/* Whose an address is, to a packet from the port of `vm`: an entry of `owners` names two while the
 * address moves from one to the other, and each of them has it. */
static __always_inline __u32 hs_owner_for(__u32 value, __u32 vm) {
    return value >> 16 && value >> 16 == vm ? vm : value & 0xffff;
}

/* The VM that has the packet's source address, or its destination's; 0: unknown. Of two that have
 * it, the one that the packet came from. */
static __noinline __u32 hs_owner(int destination) {
    struct hs_packet *p = hs_packet();
    struct hs_address key = {};
    __u32 *found;

    if (!p || !p->key.tuple.family)
        return 0;
    __builtin_memcpy(key.address, destination ? p->key.tuple.dst : p->key.tuple.src, 16);
    key.family = p->key.tuple.family;
    found = bpf_map_lookup_elem(&owners, &key);
    return found ? hs_owner_for(*found, p->key.vm) : 0;
}

/* What the packet in hand says of its connection. owner: of its source address. */
static __always_inline void hs_first_packet(const struct hs_packet *p, __u32 owner,
                                            struct hs_conn *conn) {
    conn->from = p->key.vm;
    conn->tcp_flags = p->tcp_flags;
    conn->dscp = p->dscp;
    conn->turned = 0;
    conn->hearsay = owner && owner != p->key.vm;
}

/* Judge a connection by what is known of it: fills route, reply and undecided. */
HS_GLOBAL int hs_judge_conn(const struct hs_policy *policy, struct hs_conn *conn) {
    struct hs_scratch *work = hs_scratch();
    struct hs_packet *p = hs_packet();
    int forward, backward, back;
    struct hs_conn *other;
    __u8 flags;

    if (!p || !policy || !conn || !work)
        return 0;
    flags = conn->tcp_flags & (HS_TCP_SYN | HS_TCP_ACK);
    if (p->key.tuple.proto != IPPROTO_TCP)
        flags = HS_TCP_SYN; /* it begins what it is part of */
    conn->owner = hs_owner(conn->turned);
    forward = hs_walk_rows(HS_ROUTES | (conn->turned ? HS_TURNED : 0), policy, conn);
    conn->route = forward;
    conn->reply = conn->turned;
    if (flags == HS_TCP_SYN && (forward != HS_NO_ROW || conn->undecided))
        return 0;
    other = &work->other;
    *other = *conn;
    other->from = 0;
    other->owner = hs_owner(!conn->turned);
    if (p->key.tuple.proto == IPPROTO_TCP) /* nobody saw the packet that began it */
        other->tcp_flags = HS_TCP_SYN;
    backward = hs_walk_rows(HS_ROUTES | (conn->turned ? 0 : HS_TURNED), policy, other);
    if (flags == (HS_TCP_SYN | HS_TCP_ACK))
        back = backward != HS_NO_ROW || forward == HS_NO_ROW;
    else if (flags == HS_TCP_SYN)
        back = backward != HS_NO_ROW || other->undecided;
    else
        back = backward < forward;
    if (back) {
        conn->route = backward;
        conn->reply = !conn->turned;
        conn->undecided = other->undecided;
    }
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
static __always_inline struct hs_policy *
hs_policy_of(struct __sk_buff *skb, const struct hs_key *key, __u32 epoch, __u32 *age) {
    struct hs_policy *policy;
    __u32 vm = key->vm, slot;
    struct hs_vm *info;

    *age = hs_age(skb, &key->tuple, epoch);
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
    struct hs_packet *p = hs_packet();
    struct hs_conn own;
    __u64 flags;
    int found;

    if (!p || !policy || !conn || !flow)
        return 0;
    own = *conn;
    own.from = own.owner = 0;
    if (!conn->reply) { /* the port that its first packet came in by, and this one's, if it enters
                         */
        own.owner = conn->turned ? 0 : conn->from;
        own.from = hs_flags_of(flow->verdict) & HS_F_START ? p->key.vm : own.owner;
    }
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

/* Make what was decided for a flow at a port stale, and its routing rule; turned: for its other
 * direction. */
HS_GLOBAL int hs_stale(__u32 vm, int turned) {
    struct hs_scratch *work = hs_scratch();
    struct hs_packet *p = hs_packet();
    struct hs_flow *flow;

    if (!p || !work || !vm)
        return 0;
    if (turned)
        hs_tuple_turn(&p->key.tuple, &work->key.tuple);
    else
        work->key.tuple = p->key.tuple;
    work->key.vm = vm;
    flow = bpf_map_lookup_elem(&flows, &work->key);
    if (flow) {
        WRITE_ONCE(flow->verdict, 0);
        hs_barrier(); /* hs_offer_rule looks the other way round */
        WRITE_ONCE(flow->rule.verdict, 0);
    }
    return 0;
}

/* Make stale what was decided for a connection at the ports that it comes in by, and at the VMs of
 * a route. */
HS_GLOBAL int hs_stale_conn(const struct hs_policy *policy, const struct hs_conn *conn,
                            __u32 index) {
    struct hs_route *route;
    __u32 key;

    if (!policy || !conn)
        return 0;
    hs_stale(conn->from, conn->turned);
    hs_stale(conn->back, !conn->turned);
    key = policy->region * HS_ROWS_MAX + index;
    route = index == HS_NO_ROUTE ? 0 : bpf_map_lookup_elem(&routes, &key);
    for (int i = 0; route && i < HS_CHAIN_MAX; i++) {
        hs_stale(route->chain[i], 0);
        hs_stale(route->chain[i], 1);
    }
    return 0;
}

/* Whether the packet begins a TCP connection: it may know better than what is known of it. */
static __always_inline int hs_begins(const struct hs_packet *p) {
    return (p->tcp_flags & (HS_TCP_SYN | HS_TCP_ACK)) == HS_TCP_SYN;
}

/* A packet of a known connection enters the switch: if it is evidence, and says otherwise than what
 * is known, the connection is judged by it from now on. owner: of its source address. Returns
 * whether it is: then the entry is claimed, and `conn` to be put in its place. */
HS_GLOBAL int hs_learn(const struct hs_policy *policy, struct hs_conn *known, struct hs_conn *conn,
                       __u32 owner) {
    struct hs_scratch *work = hs_scratch();
    struct hs_packet *p = hs_packet();
    struct hs_conn *fresh;
    __u8 flags;

    if (!p || !work || !policy || !known || !conn || (owner && owner != p->key.vm))
        return 0;
    flags = p->tcp_flags & (HS_TCP_SYN | HS_TCP_ACK);
    if (!conn->hearsay && !(p->key.tuple.proto == IPPROTO_TCP && flags == HS_TCP_SYN) &&
        (conn->turned || conn->from == p->key.vm))
        return 0;
    fresh = &work->fresh;
    *fresh = *conn;
    hs_first_packet(p, owner, fresh);
    if (conn->hearsay)
        fresh->content = 0;
    hs_judge_conn(policy, fresh);
    if (!conn->hearsay && fresh->route >= conn->route &&
        !(fresh->route == conn->route && fresh->undecided && !conn->undecided && !conn->content))
        return 0;
    if (!hs_claim(known, conn))
        return 0;
    hs_stale_conn(policy, conn, fresh->route); /* its VMs may be in the old chain too */
    if (conn->turned)
        fresh->back = conn->from;
    *conn = *fresh;
    return 1;
}

HS_GLOBAL int hs_decide(const struct hs_policy *policy, int newest, struct hs_flow *flow) {
    struct hs_packet *p = hs_packet();
    struct hs_scratch *work = hs_scratch();
    struct hs_conn *known, *conn;
    int turned, put = 0, claimed = 0;
    __u32 owner;
    __u16 route;

    if (!p || !policy || !flow || !work)
        return 0;
    conn = &work->conn;
    owner = hs_owner(0);
    known = hs_find_conn(&p->key.tuple, &turned);
    work->known = known != 0;
    work->refused = 0;
    if (!known) {
        __builtin_memset(conn, 0, sizeof(*conn));
        conn->old_route = HS_NO_ROUTE;
        hs_first_packet(p, owner, conn);
        if (p->key.tuple.proto == IPPROTO_TCP && !(p->tcp_flags & HS_TCP_SYN))
            conn->content = HS_UNSEEN_CONTENT; /* what would tell has passed */
        hs_judge_conn(policy, conn);
        conn->policy = policy->policy;
        put = 1;
    } else {
        *conn = *known;
        conn->reply ^= turned;
        conn->old_reply ^= turned;
        conn->turned ^= turned;
    }
    if (newest == HS_NEWEST && known && (conn->state & HS_CONN_OVER) == HS_CONN_OVER &&
        hs_begins(p) && (!owner || owner == p->key.vm) && hs_claim(known, conn)) {
        hs_stale_conn(policy, conn, conn->route); /* another connection of the same ends */
        conn->state = 0;
        conn->content = 0;
        conn->policy = 0;
        claimed = 1;
    }
    route = conn->route;
    if (conn->policy != policy->policy) {
        if (conn->old_policy == policy->policy) {
            route = conn->old_route;
            conn->reply = conn->old_reply;
        } else { /* a policy this connection has not met */
            conn->old_policy = conn->policy;
            conn->old_route = conn->route;
            conn->old_reply = conn->reply;
            hs_judge_conn(policy, conn);
            conn->policy = policy->policy;
            route = conn->route;
            put = 1;
        }
    }
    hs_next_hop(p->key.vm, conn, route, policy, flow);
    if (newest == HS_NEWEST && known && hs_flags_of(flow->verdict) & HS_F_START) {
        if (conn->turned && conn->back != p->key.vm && (!owner || owner == p->key.vm)) {
            conn->back = p->key.vm;
            put = 1;
        }
        if (!claimed && hs_learn(policy, known, conn, owner)) {
            claimed = 1;
            hs_next_hop(p->key.vm, conn, conn->route, policy, flow);
        }
    }
    if (newest == HS_NEWEST && (put || claimed) && (claimed || !known || hs_claim(known, conn)))
        hs_put_conn(conn);
    if (newest && (policy->filters || policy->mirrors))
        hs_watch(policy, conn, flow);
    if (newest && conn->undecided && !conn->reply && hs_flags_of(flow->verdict) & HS_F_START &&
        (!owner || owner == p->key.vm))
        flow->verdict |= (__u64)HS_F_INSPECT << 24;
    if (conn->content == HS_UNSEEN_CONTENT)
        flow->verdict |= (__u64)HS_F_UNSEEN << 24;
    return 0;
}

#endif
