// SPDX-License-Identifier: Apache-2.0
/* See port/port.h. This file: the way in, eth0 and the channels in their order, and what came in
 * the tally. */
#define _GNU_SOURCE
#include "port/parts.h"

struct hs_tally_entry *hs_port_entry(struct hs_port *p, const struct hs_tuple *tuple, uint32_t peer,
                                     uint64_t now) {
    struct hs_tally_entry *e = hs_tally_open(p->tally, p->tally_entries, tuple, peer, now);

    if (e == p->last.sent)
        p->last.sent = NULL;
    if (e == p->last.in)
        p->last.in = NULL;
    return e;
}

/* Count what came from a neighbour, by flow: packets of one flow that follow each other, together.
 */
static void tally_in(struct hs_port *p, const struct hs_packet *batch, uint32_t n, uint32_t peer) {
    const uint64_t now = hs_now();
    struct hs_tuple tuple;

    for (uint32_t i = 0; i < n;) {
        struct hs_tally_entry *e = &p->tally->other;
        const uint32_t first = i;
        uint64_t bytes = 0;

        if (!p->last.in || p->last.in_peer != peer ||
            !hs_flow_again(hs_packet_data(p, &batch[i]), batch[i].len, &p->last.in_look)) {
            if (hs_flow_parse(hs_packet_data(p, &batch[i]), batch[i].len, &tuple) == 0) {
                e = p->last.in = hs_port_entry(p, &tuple, peer, now);
                p->last.in_look = hs_flow_look_of(&tuple);
                p->last.in_peer = peer;
            }
            bytes = batch[i++].len;
        } else {
            e = p->last.in;
        }
        if (e == p->last.in)
            for (; i < n &&
                   hs_flow_again(hs_packet_data(p, &batch[i]), batch[i].len, &p->last.in_look);
                 i++)
                bytes += batch[i].len;
        atomic_store_explicit(&e->last, now, memory_order_release);
        hs_tally_add(e, HS_T_RING_BYTES, bytes);
        hs_tally_add(e, HS_T_RING_PACKETS, i - first);
    }
}

/* Promise to take what waits in the rings, behind what waits at eth0 now: it may be later packets
 * of the same flows. Returns whether some of it can be taken before eth0 runs empty. */
static int promise(struct hs_port *p) {
    int due = 0;

    for (uint32_t i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *nb = &p->neighbour[i];

        if (nb->vm && nb->seen == 0) {
            nb->seen = hs_ring_avail(&nb->in.packets, HS_BURST);
            nb->after = p->eth0.received;
            if (nb->seen && p->has_eth0)
                nb->after += hs_xsk_waiting(&p->eth0);
        }
        due |= nb->vm && nb->seen && p->eth0.received >= nb->after;
    }
    return due;
}

uint32_t hs_port_recv(struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    struct xdp_desc *descs = (struct xdp_desc *)(void *)batch;
    uint32_t got = 0, most, i;
    int empty = 1;

    if (n > HS_BURST)
        n = HS_BURST;
    most = n;
    if (p->umem.free_count < p->umem.frames_own / 2)
        hs_port_reclaim(p);
    else if (p->umem.homeward_count)
        hs_port_send_home(p);
    if (p->gone)
        hs_port_bury(p);
    if (promise(p)) /* an eth0 that is always full must not keep the rings waiting: half each */
        most = (n + (p->odd ^= 1)) / 2;
    if (p->has_eth0) {
        if (p->eth0.in_tx)
            hs_xsk_reap(&p->eth0);
        got = hs_xsk_recv(&p->eth0, descs, most); /* options, our `from`, is 0 */
        empty = got < most;
        p->counters.eth0_in += got;
        p->counters.too_long += p->eth0.too_long;
        p->eth0.too_long = 0;
    }
    /* By turns: one that keeps its ring filled must not keep the others waiting. */
    for (i = 0; i < p->neighbours && got < n; i++) {
        const uint32_t at = p->turn + i < p->neighbours ? p->turn + i : p->turn + i - p->neighbours;
        struct hs_neighbour *nb = &p->neighbour[at];
        uint32_t want = nb->seen < n - got ? nb->seen : n - got, have, k;

        if (nb->vm == 0 || want == 0 || (!empty && p->eth0.received < nb->after))
            continue;
        have = hs_channel_recv(&nb->in, descs + got, want);
        nb->seen = have == want ? nb->seen - have : 0; /* else some were refused: look again */
        for (k = 0; k < have; k++)
            batch[got + k].from = nb->vm;
        if (p->tally)
            tally_in(p, batch + got, have, nb->vm);
        got += have;
        p->counters.ring_in += have;
        hs_port_wake(p, nb, HS_WAKE_FOR_ROOM);
    }
    if (p->neighbours > 1)
        p->turn = p->turn + 1 < p->neighbours ? p->turn + 1 : 0;
    return got;
}
