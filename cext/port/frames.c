// SPDX-License-Identifier: Apache-2.0
/* See port/port.h. This file: whose frame is it, and the way home. */
#define _GNU_SOURCE
#include "port/parts.h"

#include <errno.h>
#include <unistd.h>

void hs_port_send_home(struct hs_port *p) {
    struct hs_umem *u = &p->umem;
    uint32_t i = 0, k, kept = 0;

    while (i < u->homeward_count) { /* those of one neighbour that follow each other, together */
        const uint32_t number = u->origin[u->homeward[i]];
        struct hs_neighbour *nb = &p->neighbour[number - 1];
        uint64_t addrs[HS_BURST];
        uint32_t n = 0, taken;

        for (; n < HS_BURST && i < u->homeward_count && u->origin[u->homeward[i]] == number; i++)
            addrs[n++] = (uint64_t)u->homeward[i] << u->frame_shift;
        /* The neighbour is gone: nobody to take it, and nobody who would miss it. */
        if (nb->vm == 0 || nb->gone) {
            for (k = 0; k < n; k++)
                hs_umem_disown(u, hs_umem_frame(u, addrs[k]));
            continue;
        }
        taken = hs_channel_return(&nb->in, addrs, n);
        for (k = taken; k < n; k++) /* behind i: what is there has been looked at */
            u->homeward[kept++] = hs_umem_frame(u, addrs[k]);
        hs_port_wake(p, nb, HS_WAKE_FOR_FRAMES);
    }
    u->homeward_count = kept;
}

void hs_port_let_go(struct hs_port *p, uint64_t addr) {
    struct hs_umem *u = &p->umem;
    uint32_t frame = hs_umem_frame(u, addr);

    if (u->origin[frame] == 0)
        hs_umem_give(u, addr);
    else
        u->homeward[u->homeward_count++] = frame;
}

void hs_port_reclaim(struct hs_port *p) {
    for (uint32_t i = 0; i < p->neighbours; i++)
        if (p->neighbour[i].vm && !p->neighbour[i].gone)
            hs_channel_reclaim(&p->neighbour[i].out);
    if (p->umem.homeward_count)
        hs_port_send_home(p);
}

void hs_port_part(struct hs_port *p, struct hs_neighbour *n) {
    for (uint32_t i = 0; i < HS_COUNTERS; i++)
        p->refused[i] += n->in.counters[i] + n->out.counters[i];
    hs_umem_recover(&p->umem, n->out.number);
    hs_channel_close(&n->out);
    hs_channel_close(&n->in);
    close(n->bell_in);
    close(n->bell_out);
    n->vm = n->gone = 0;
}

void hs_port_bury(struct hs_port *p) {
    const uint64_t now = hs_now();

    for (uint32_t i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];

        if (!n->gone || now < n->until || hs_ring_avail(&n->in.packets, 1))
            continue;
        n->until = now + HS_MOURNING; /* a frame in a function's hands: not before it lets go */
        if (n->in.data || memchr(p->umem.origin, (int)(i + 1), p->umem.frames) == NULL) {
            hs_port_part(p, n);
            p->gone--;
        }
    }
}

void hs_port_drop(struct hs_port *p, const struct hs_packet *batch, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        hs_port_let_go(p, batch[i].addr);
    p->counters.dropped += n;
}

int hs_port_new(struct hs_port *p, struct hs_packet *packet) {
    if (p->umem.free_count == 0)
        hs_port_reclaim(p);
    if (p->umem.free_count == 0)
        return -ENOBUFS;
    *packet = (struct hs_packet){.addr = hs_umem_take(&p->umem)};
    return 0;
}
