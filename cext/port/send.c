// SPDX-License-Identifier: Apache-2.0
/* See port/port.h. This file: the way out, for each packet its way, runs of packets with the same
 * way, and what becomes of each in the tally and, if somebody captures, in the tap. */
#define _GNU_SOURCE
#include "port/parts.h"

#include <poll.h>
#include <sched.h>

/* Where packets go, and who keeps count of them. */
struct way {
    struct hs_neighbour *to; /* NULL: eth0 */
    uint32_t wait;
    struct hs_tally_entry *entry; /* NULL: there is no tally */
    int known;                    /* p->last.tuple is the flow */
};

static struct way way_of(struct hs_port *p, const struct hs_packet *packet, uint64_t now) {
    struct way way = {.entry = p->tally ? &p->tally->other : NULL};
    struct hs_tuple tuple;
    uint32_t withdrawn = 0;
    int same;

    if (!p->tally && (!p->rules || p->neighbours == 0))
        return way;
    same = hs_flow_again(hs_packet_data(p, packet), packet->len, &p->last.look);
    if (!same) {
        if (hs_flow_parse(hs_packet_data(p, packet), packet->len, &tuple) < 0)
            return way;
        same = hs_tuple_same(&tuple, &p->last.tuple);
        if (!same) {
            p->last.tuple = tuple;
            p->last.look = hs_flow_look_of(&tuple);
        }
    }
    if (p->rules)
        withdrawn = atomic_load_explicit(&p->rules->withdrawn, memory_order_acquire);
    if (p->tally && (!same || !p->last.sent))
        p->last.sent = hs_port_entry(p, &p->last.tuple, 0, now);
    if (p->rules && (withdrawn != p->last.withdrawn || p->last.to == 0 || !same)) {
        p->last.to = hs_rules_find(p->rules, p->rule_entries, &p->last.tuple);
        p->last.withdrawn = withdrawn;
    }
    way.entry = p->last.sent;
    way.known = 1;
    for (uint32_t i = 0; p->last.to && i < p->neighbours; i++) {
        struct hs_neighbour *nb = &p->neighbour[i];

        if (nb->vm == (p->last.to & HS_TO_VM) && !nb->gone) {
            way.to = nb;
            way.wait = p->pace.wait_on_full || p->last.to & HS_TO_WAIT;
            break;
        }
    }
    return way;
}

/* Count what went, by flow: an entry's packets that follow each other, together. */
static void tally_out(struct hs_tally_entry *const *entries, const struct xdp_desc *descs,
                      uint32_t n, enum hs_tally_count packets, enum hs_tally_count bytes) {
    for (uint32_t i = 0; i < n;) {
        struct hs_tally_entry *e = entries[i];
        const uint32_t first = i;
        uint64_t size = 0;

        for (; i < n && entries[i] == e; i++)
            size += descs[i].len;
        hs_tally_add(e, bytes, size);
        hs_tally_add(e, packets, i - first);
    }
}

/* What a flow loses, and all flows. */
static void lose(struct hs_port *p, struct hs_tally_entry *e, enum hs_tally_count which) {
    if (e)
        hs_tally_add(e, which, 1);
    switch (which) {
    case HS_T_FULL_RING:
        p->counters.full_ring++;
        break;
    case HS_T_FULL_ETH0:
        p->counters.full_eth0++;
        break;
    default:
        p->counters.too_long++;
    }
}

/* Tell those who capture of a packet. Returns what is told, or NULL. */
static struct hs_tap_record *tell(const struct hs_port *p, struct hs_tap_burst *burst,
                                  const struct xdp_desc *desc, uint32_t to, enum hs_tap_end end,
                                  uint64_t now) {
    const struct hs_tap_record record = {
        .to = (uint16_t)to,
        .end = (uint16_t)end,
        .time = now,
        .epoch = p->rules ? atomic_load_explicit(&p->rules->epoch, memory_order_relaxed) : 0,
        .length = desc->len,
    };

    return hs_tap_add(burst, &record, hs_umem_data(&p->umem, desc->addr));
}

/* The same of packets that are about to go into a ring, before they are another's. */
static void tell_all(const struct hs_port *p, struct hs_tap_burst *burst,
                     struct hs_tap_record **told, const struct xdp_desc *descs, uint32_t n,
                     uint32_t to, uint64_t now) {
    for (uint32_t i = 0; i < n; i++)
        told[i] = tell(p, burst, &descs[i], to, HS_TAP_SENT, now);
}

/* Before a packet goes by eth0 that may have gone by a channel so far: what did go has been taken.
 */
static void drain(struct hs_port *p) {
    uint64_t start = 0;
    uint32_t withdrawn;

    if (!p->rules)
        return;
    withdrawn = atomic_load_explicit(&p->rules->withdrawn, memory_order_acquire);
    if (withdrawn == p->drained)
        return;
    p->drained = withdrawn;
    for (uint32_t i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];
        struct hs_ring *r = &n->out.packets;

        while (n->vm && !n->gone && hs_ring_free(r, hs_ring_size(r)) < hs_ring_size(r)) {
            uint64_t now = hs_now();

            if (start == 0)
                start = now;
            if (now - start > HS_DRAIN) {
                p->counters.drained_late++;
                break;
            }
        }
    }
}

static void send_eth0(struct hs_port *p, const struct hs_packet *batch,
                      struct hs_tally_entry *const *entries, uint32_t n, uint64_t look) {
    struct xdp_desc descs[HS_BURST];
    struct hs_tap_burst burst;
    uint32_t taken = 0, i;

    drain(p);
    for (i = 0; i < n; i++)
        descs[i] = (struct xdp_desc){.addr = batch[i].addr, .len = batch[i].len};
    if (p->has_eth0)
        taken = hs_xsk_send(&p->eth0, descs, n);
    p->counters.eth0_out += taken;
    if (p->tally)
        tally_out(entries, descs, taken, HS_T_ETH0_PACKETS, HS_T_ETH0_BYTES);
    if (look && taken < n)
        burst = hs_tap_begin(p->tap);
    for (i = taken; i < n; i++) {
        if (look)
            tell(p, &burst, &descs[i], 0, HS_TAP_FULL_ETH0, look);
        lose(p, entries[i], HS_T_FULL_ETH0);
        hs_port_let_go(p, descs[i].addr);
    }
    if (look && taken < n)
        hs_tap_publish(&burst);
}

static uint32_t put_into_ring(struct hs_port *p, struct hs_neighbour *to,
                              const struct xdp_desc *descs, uint32_t n) {
    uint32_t taken = hs_channel_send(&to->out, descs, n);

    hs_port_wake(p, to, HS_WAKE_FOR_PACKETS);
    return taken;
}

/* Give the receiver time to make room for the rest of `n`; how many were taken in all. */
static uint32_t wait_for_room(struct hs_port *p, struct hs_neighbour *to,
                              const struct xdp_desc *descs, uint32_t taken, uint32_t n) {
    const uint64_t start = hs_now();
    struct hs_ring *r = &to->out.packets;
    const uint32_t half = hs_ring_size(r) / 2;
    struct pollfd bell = {.fd = to->bell_in, .events = POLLIN};

    if (to->stuck && r->peer - to->stuck_at < half)
        return taken;
    to->stuck = 0;
    while (taken < n) {
        const uint64_t waited = hs_now() - start;
        const uint32_t before = r->peer;
        const int patient = waited < HS_PATIENCE;
        const struct timespec limit = {0, patient ? HS_PATIENCE : HS_WAIT / 4};

        if (waited > HS_WAIT) {
            to->stuck = 1;
            to->stuck_at = r->peer;
            break;
        }
        hs_port_ring(p, 1);
        if (waited < p->pace.spin_ns && start + waited >= p->pace.crowded_until) {
            hs_port_yield(p, start + waited);
            if (hs_ring_free(r, half) < half)
                continue;
        } else {
            hs_ring_sleeps_on(r, HS_PRODUCER, (uint32_t)sched_getcpu());
            if (patient)
                hs_ring_sleep_for_half(r, HS_PRODUCER);
            else
                hs_ring_sleep(r, HS_PRODUCER);
            /* More than can be free: it must look. */
            if ((hs_ring_free(r, hs_ring_size(r) + 1) < half && patient) || r->peer == before)
                ppoll(&bell, 1, &limit, NULL);
            hs_ring_awake(r, HS_PRODUCER);
            if (bell.revents & POLLIN)
                hs_bell_quiet(to->bell_in);
        }
        taken += put_into_ring(p, to, descs + taken, n - taken);
    }
    return taken;
}

static void send_ring(struct hs_port *p, const struct way *way, const struct hs_packet *batch,
                      struct hs_tally_entry **entries, uint32_t n, uint64_t look) {
    struct hs_neighbour *to = way->to;
    struct xdp_desc descs[HS_BURST];
    struct hs_tap_record *told[HS_BURST];
    struct hs_tap_burst burst;
    uint32_t taken, on = 0, i;

    if (look)
        burst = hs_tap_begin(p->tap);
    for (i = 0; i < n; i++) {
        if (batch[i].len - 1 >= to->out.shape.max_len) {
            if (look)
                tell(p, &burst, &(struct xdp_desc){.addr = batch[i].addr, .len = batch[i].len},
                     to->vm, HS_TAP_TOO_LONG, look);
            lose(p, entries[i], HS_T_TOO_LONG);
            hs_port_let_go(p, batch[i].addr);
            continue;
        }
        entries[on] = entries[i];
        descs[on++] = (struct xdp_desc){.addr = batch[i].addr, .len = batch[i].len};
    }
    if (look)
        tell_all(p, &burst, told, descs, on, to->vm, look);
    hs_channel_reclaim(&to->out);
    to->waits = way->wait;
    taken = put_into_ring(p, to, descs, on);
    if (taken < on && way->wait)
        taken = wait_for_room(p, to, descs, taken, on);
    p->counters.ring_out += taken;
    if (p->tally)
        tally_out(entries, descs, taken, HS_T_RING_PACKETS, HS_T_RING_BYTES);
    for (i = taken; i < on; i++) {
        if (look && told[i])
            told[i]->end = HS_TAP_FULL_RING;
        lose(p, entries[i], HS_T_FULL_RING);
    }
    if (look)
        hs_tap_publish(&burst);
    for (i = to->out.data ? 0 : taken; i < on; i++) /* isolated: sent by copy, all are ours still */
        hs_port_let_go(p, descs[i].addr);
}

/* Entries [*counted, n) are of one flow, and about to be sent. */
static void count_sent(struct hs_tally_entry *const *entries, uint32_t *counted, uint32_t n) {
    if (n > *counted && entries[*counted])
        hs_tally_add(entries[*counted], HS_T_SENT, n - *counted);
    *counted = n;
}

void hs_port_send(struct hs_port *p, const struct hs_packet *batch, uint32_t n) {
    const uint64_t now = p->tally && n ? hs_now() : 0;
    const uint64_t look = now && hs_tap_wanted(p->tap, now) ? now : 0;
    struct hs_tally_entry *entries[HS_BURST];
    struct way way, next;
    uint32_t start, i;

    /* Runs of packets with the same way out, in order. */
    for (start = 0; start < n; start = i) {
        uint32_t counted = 0;

        way = way_of(p, &batch[start], now);
        next = way;
        for (i = start;;) {
            struct hs_tally_entry *e = next.entry;

            entries[i - start] = e;
            if (e && (i == start || e != entries[i - start - 1])) {
                /* Before another flow can get the place; and `sent` before the packets go. */
                atomic_store_explicit(&e->last, now, memory_order_release);
                count_sent(entries, &counted, i - start);
            }
            if (++i == n || i - start == HS_BURST)
                break;
            if (next.known &&
                hs_flow_again(hs_packet_data(p, &batch[i]), batch[i].len, &p->last.look))
                continue;
            next = way_of(p, &batch[i], now);
            if (next.to != way.to || next.wait != way.wait)
                break;
        }
        count_sent(entries, &counted, i - start);
        if (way.to)
            send_ring(p, &way, batch + start, entries, i - start, look);
        else
            send_eth0(p, batch + start, entries, i - start, look);
    }
}

void hs_port_finish(struct hs_port *p, struct hs_packet *batch, uint32_t n, uint64_t drop) {
    uint32_t on = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (drop >> i & 1)
            hs_port_drop(p, &batch[i], 1);
        else
            batch[on++] = batch[i];
    }
    hs_port_send(p, batch, on);
}
