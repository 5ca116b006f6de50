// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The connections that are known. One entry is of both directions, and is replaced whole, so that
 * nobody reads half of one.
 *
 * Several may want to change an entry at once: the classifier on each CPU, and the daemon, which
 * tells what contents said (tell). Whoever changes one copies it, claims it by its version, and
 * puts the changed copy in its place. A version can be claimed once, so nobody overwrites what he
 * has not read. Whoever fails has judged his packet by what is known no more: the packet goes its
 * way, but what was decided is not remembered, and the flow's next packet is judged again.
 *
 * That holds for what is decided from an entry without a change, too. One side reads the
 * connection, writes the flow's verdict, and looks whether the version is still the same
 * (hs_holds). The other side claims the version, and then makes the flows' verdicts stale. Each has
 * a full barrier between its two steps, so one of them sees the other. */
#ifndef HS_CONNS_BPF_H
#define HS_CONNS_BPF_H

#include <linux/errno.h>

#include "switch/shares.bpf.h"

enum { HS_TCP_FIN = 1, HS_TCP_SYN = 2, HS_TCP_RST = 4, HS_TCP_ACK = 16 };

/* What does not fit on the stack. Like the packet in hand, each CPU has one of each at a time. */
struct hs_scratch {
    struct hs_flow flow;  /* hs_slow: what is decided */
    struct hs_conn conn;  /* hs_decide: of the packet in hand */
    struct hs_conn fresh; /* hs_learn: the same, judged by this packet */
    struct hs_conn other; /* hs_judge_conn: the same, the other way round */
    struct hs_key key;    /* hs_stale */
    __u32 known;          /* hs_decide: 1: the connection was known before this packet */
    __u32 refused;        /* 1: there was no place for it */
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hs_scratch);
} scratch SEC(".maps");

static __always_inline struct hs_scratch *hs_scratch(void) {
    __u32 zero = 0;

    return bpf_map_lookup_elem(&scratch, &zero);
}

/* The connection of a tuple; turned: whether its key is the tuple of the other direction. */
static __always_inline struct hs_conn *hs_find_conn(const struct hs_tuple *tuple, int *turned) {
    struct hs_tuple key;

    *turned = hs_tuple_both_ways(tuple, &key);
    return bpf_map_lookup_elem(&conns, &key);
}

/* A version that no entry had lately. */
static __always_inline __u32 hs_new_version(void) {
    return bpf_get_prandom_u32() | 1;
}

/* Claim an entry, to replace it by a changed `copy` of it. Returns whether nobody has changed it
 * since it was copied; if somebody has, the copy's version becomes 0. A full barrier. */
static __always_inline int hs_claim(struct hs_conn *known, struct hs_conn *copy) {
    struct hs_conn claimed = {.content = copy->content};

    if (copy->version &&
        __sync_val_compare_and_swap(&known->told, copy->told, claimed.told) == copy->told)
        return 1;
    copy->version = 0;
    return 0;
}

/* Put a claimed entry's changed copy in its place. Returns the new version, or 0: there was no
 * memory, or the entry has been swept; then the entry that is there may be claimed again. */
static __always_inline __u32 hs_replace(const struct hs_tuple *key, struct hs_conn *value) {
    struct hs_conn *known;

    value->version = hs_new_version();
    if (bpf_map_update_elem(&conns, key, value, BPF_EXIST) == 0)
        return value->version;
    known = bpf_map_lookup_elem(&conns, key);
    if (known && !known->version)
        WRITE_ONCE(known->version, hs_new_version());
    return 0;
}

/* Remember the connection of the packet in hand; `conn` is as its tuple goes. It is new, or its
 * entry has been claimed. Sets its version, 0 if it could not be remembered. */
HS_GLOBAL int hs_put_conn(struct hs_conn *conn) {
    struct hs_scratch *work = hs_scratch();
    struct hs_packet *p = hs_packet();
    struct hs_conn value;
    struct hs_tuple key;
    __u32 share;
    long failed;

    if (!p || !conn || !work)
        return 0;
    value = *conn;
    value.last = bpf_ktime_get_coarse_ns();
    if (hs_tuple_both_ways(&p->key.tuple, &key)) {
        value.reply ^= 1;
        value.old_reply ^= 1;
        value.turned ^= 1;
    }
    if (work->known) {
        conn->version = hs_replace(&key, &value);
        return 0;
    }
    value.version = hs_new_version();
    value.charged = conn->charged = p->key.vm;
    conn->version = 0;
    share = value.route == HS_NO_ROUTE && !value.undecided ? HS_SHARE_PLAIN : HS_SHARE;
    if (!hs_take(p->key.vm, HS_OF_CONNS, share)) {
        work->refused = 1;
        return 0;
    }
    failed = bpf_map_update_elem(&conns, &key, &value, BPF_NOEXIST);
    if (failed) {
        hs_give(p->key.vm, HS_OF_CONNS);
        work->refused = failed != -EEXIST; /* another CPU was first */
        return 0;
    }
    conn->version = value.version;
    return 0;
}

/* A FIN or RST enters the switch: the connection is closed on its side, if it comes in by the port
 * that this side has. */
static __noinline int hs_close(void) {
    struct hs_packet *p = hs_packet();
    struct hs_conn *conn;
    int turned;
    __u8 state;

    if (!p)
        return 0;
    conn = hs_find_conn(&p->key.tuple, &turned);
    if (!conn || (turned == conn->turned ? conn->from : conn->back) != p->key.vm)
        return 0;
    state = conn->state | (turned ? HS_CONN_CLOSED_BACK : HS_CONN_CLOSED);
    if (p->tcp_flags & HS_TCP_RST)
        state |= HS_CONN_RESET;
    if (state != conn->state)
        WRITE_ONCE(conn->state, state);
    return 0;
}

/* The seconds that a connection is remembered for after its last packet. */
static __always_inline __u64 hs_lifetime(const struct hs_tuple *key, const struct hs_conn *conn) {
    int pressed = hs_pressed(conn->charged);

    if (key->proto == IPPROTO_TCP && conn->state & HS_CONN_RESET)
        return HS_LIFE_RESET;
    if (!conn->back && pressed)
        return HS_LIFE_UNANSWERED_PRESSED;
    if (key->proto != IPPROTO_TCP)
        return conn->back ? HS_LIFE_ANSWERED : HS_LIFE_UNANSWERED;
    if ((conn->state & HS_CONN_OVER) == HS_CONN_OVER)
        return HS_LIFE_CLOSED;
    if (!(conn->state & HS_CONN_OPEN))
        return HS_LIFE_OPENING;
    return pressed ? HS_LIFE_OPEN_PRESSED : HS_LIFE_OPEN;
}

/* Whether what hs_decide has decided for the packet in hand, and has been written down meanwhile,
 * still holds. */
static __noinline int hs_holds(void) {
    struct hs_scratch *work = hs_scratch();
    struct hs_packet *p = hs_packet();
    struct hs_conn *conn;
    int turned;

    if (!p || !work || !work->conn.version)
        return 0;
    if (!work->known) /* who makes a connection known is its first */
        return 1;
    hs_barrier();
    conn = hs_find_conn(&p->key.tuple, &turned);
    return conn && READ_ONCE(conn->version) == work->conn.version;
}

#endif
