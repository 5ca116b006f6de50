// SPDX-License-Identifier: Apache-2.0
/* See port/port.h. This file: whom to wake, and when; and giving way to who wants the core. */
#define _GNU_SOURCE
#include "port/parts.h"

#include <sched.h>

/* idle: there is nothing more to do, and this port is about to sleep itself. Until then nobody is
 * woken who would have to wait for this very core, or take it away in the midst of a batch; nor one
 * for packets that have room: woken by a port that is about to sleep, a process runs where it did
 * or here, whichever is free, and the core that is given up is not left idle. */
static void wake(struct hs_neighbour *n, uint32_t what, int idle) {
    struct hs_ring *in = &n->in.packets, *out = &n->out.packets, *frames = &n->in.returns;
    const uint32_t here = idle ? 0 : (uint32_t)sched_getcpu();
    int ring = 0;

    if (n->vm == 0 || n->gone)
        return;
    if (what & HS_WAKE_FOR_PACKETS && (idle || !n->waits))
        ring |= hs_ring_rings(out, HS_CONSUMER,
                              idle ? hs_ring_must_ring(out, HS_CONSUMER)
                                   : hs_ring_has_enough(out, HS_PACKETS_PART));
    if (what & HS_WAKE_FOR_ROOM && (idle || !hs_ring_near(in, HS_PRODUCER, here)))
        ring |= hs_ring_rings(in, HS_PRODUCER, hs_ring_has_room_for(in));
    if (what & HS_WAKE_FOR_FRAMES && (idle || !hs_ring_near(frames, HS_CONSUMER, here)))
        ring |=
            hs_ring_rings(frames, HS_CONSUMER,
                          hs_ring_has_enough(frames, idle ? HS_FRAMES_PART_IDLE : HS_FRAMES_PART));
    if (ring)
        hs_bell_ring(n->bell_out);
}

void hs_port_wake(struct hs_port *p, struct hs_neighbour *n, enum hs_wake what) {
    if (p->pace.puts_off)
        n->put_off |= what;
    else
        wake(n, what, 1);
}

void hs_port_ring(struct hs_port *p, int idle) {
    for (uint32_t i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];
        int late;

        if (n->put_off == 0)
            continue;
        late = idle || ++n->rounds_put_off > HS_ROUNDS_LATE;
        wake(n, n->put_off, late);
        if (late)
            n->put_off = n->rounds_put_off = 0;
    }
}

void hs_port_yield(struct hs_port *p, uint64_t now) {
    uint64_t back;

    sched_yield();
    back = hs_now();
    if (back - now > HS_AWAY)
        p->pace.crowded_until = back + HS_CROWDED;
}
