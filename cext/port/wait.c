// SPDX-License-Identifier: Apache-2.0
/* See port/port.h. This file: waiting for packets, for room in the socket, and for frames. */
#define _GNU_SOURCE
#include "port/parts.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>

static int something(struct hs_port *p) {
    if (p->has_eth0 && xsk_cons_nb_avail(&p->eth0.rx, 1))
        return 1;
    for (uint32_t i = 0; i < p->neighbours; i++)
        if (p->neighbour[i].vm && hs_ring_avail(&p->neighbour[i].in.packets, 1))
            return 1;
    return 0;
}

/* Whether frames that are another's are lent out: they must go home when they come back, or their
 * owner, far up the chain, waits for them as long as this port sleeps. The bell rings for half a
 * ring; what is less is looked for now and then. */
static int owes_frames(const struct hs_port *p) {
    for (uint32_t i = 0; i < p->neighbours; i++) {
        const struct hs_neighbour *n = &p->neighbour[i];

        if (n->vm && !n->gone && !n->out.data && n->out.lent - n->in.home != n->out.returns.own)
            return 1;
    }
    return p->umem.homeward_count > 0;
}

/* Whether so many have come back that they should go home before this port sleeps. */
static int frames_are_back(const struct hs_port *p) {
    for (uint32_t i = 0; i < p->neighbours; i++) {
        struct hs_ring r = p->neighbour[i].out.returns; /* a look only */

        if (p->neighbour[i].vm && !p->neighbour[i].gone && r.shared &&
            hs_ring_avail(&r, hs_ring_size(&r)) >= hs_ring_size(&r) / HS_FRAMES_PART_IDLE)
            return 1;
    }
    return 0;
}

static int sleep_until(struct hs_port *p, int also, uint64_t ns) {
    struct hs_neighbour *rung[HS_NEIGHBOURS_MAX];
    struct pollfd polled[HS_NEIGHBOURS_MAX + 2];
    struct timespec limit = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    const int crowded = hs_now() < p->pace.crowded_until;
    const uint32_t here = (uint32_t)sched_getcpu();
    uint32_t count = 0, bells, i;
    int ret;

    for (i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];

        if (n->vm == 0 || n->gone || n->deaf)
            continue;
        hs_ring_sleeps_on(&n->in.packets, HS_CONSUMER, here);
        if (crowded)
            hs_ring_sleep_for_half(&n->in.packets, HS_CONSUMER);
        else
            hs_ring_sleep(&n->in.packets, HS_CONSUMER);
        if (!n->out.data) {
            hs_ring_sleeps_on(&n->out.returns, HS_CONSUMER, here);
            hs_ring_sleep_for_half(&n->out.returns, HS_CONSUMER);
        }
        polled[count] = (struct pollfd){.fd = n->bell_in, .events = POLLIN};
        rung[count++] = n;
    }
    bells = count;
    if (p->has_eth0)
        polled[count++] = (struct pollfd){.fd = hs_xsk_fd(&p->eth0), .events = POLLIN};
    if (also >= 0)
        polled[count++] = (struct pollfd){.fd = also, .events = POLLIN};
    if (ns > HS_LATE &&
        (owes_frames(p) || (p->has_eth0 && p->eth0.in_fill == 0))) /* nothing can come by eth0 */
        limit = (struct timespec){0, HS_LATE};
    ret = 0;
    if (!something(p) && !frames_are_back(p)) {
        p->counters.sleeps++;
        ret = ppoll(polled, count, &limit, NULL);
        if (ret < 0)
            ret = errno == EINTR ? 0 : -errno;
    }
    for (i = 0; i < bells; i++) {
        hs_ring_awake(&rung[i]->in.packets, HS_CONSUMER);
        if (!rung[i]->out.data)
            hs_ring_awake(&rung[i]->out.returns, HS_CONSUMER);
        if (ret > 0 && polled[i].revents & POLLIN)
            hs_bell_quiet(polled[i].fd);
        else if (ret > 0 && polled[i].revents) /* nobody will ring it any more */
            rung[i]->deaf = 1;
    }
    if (ret > 0 && also >= 0 && polled[count - 1].revents)
        return 2;
    return ret < 0 ? ret : 0;
}

int hs_port_wait(struct hs_port *p, int also, uint64_t ns) {
    const uint64_t start = hs_now();

    for (;;) {
        uint64_t waited;
        int ret;

        if (something(p))
            return 1;
        waited = hs_now() - start;
        if (waited >= ns)
            return 0;
        if (p->has_eth0 && p->eth0.in_tx)
            hs_xsk_reap(&p->eth0);
        hs_port_reclaim(p); /* before neighbours are woken: they may wait for frames */
        hs_port_ring(p, 1);
        if (waited < p->pace.spin_ns && start + waited >= p->pace.crowded_until) {
            hs_port_yield(p, start + waited);
            continue;
        }
        if (p->has_eth0 && p->eth0.in_fill < p->eth0.fill.size / 2)
            hs_xsk_refill(&p->eth0);
        if (p->gone)
            hs_port_bury(p);
        ret = sleep_until(p, also, ns - waited);
        if (ret != 0)
            return ret;
    }
}

int hs_port_wait_for_frames(struct hs_port *p, int also) {
    const struct timespec limit = {0, HS_LATE};
    struct pollfd polled[HS_NEIGHBOURS_MAX + 2];
    const uint64_t now = hs_now();
    uint32_t count = 0, i;
    int ret = 0;

    hs_port_ring(p, 1);
    if (now >= p->pace.crowded_until || (p->has_eth0 && p->eth0.in_tx)) {
        hs_port_yield(p, now);
        return 0;
    }
    for (i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];

        if (n->vm == 0 || n->gone || n->deaf || n->out.data)
            continue;
        hs_ring_sleeps_on(&n->out.returns, HS_CONSUMER, (uint32_t)sched_getcpu());
        hs_ring_sleep_for_half(&n->out.returns, HS_CONSUMER);
        polled[count++] = (struct pollfd){.fd = n->bell_in, .events = POLLIN};
    }
    if (p->has_eth0)
        polled[count++] = (struct pollfd){.fd = hs_xsk_fd(&p->eth0), .events = POLLIN};
    if (also >= 0)
        polled[count++] = (struct pollfd){.fd = also, .events = POLLIN};
    hs_port_reclaim(p);
    if (p->umem.free_count < HS_BURST && !something(p)) {
        p->counters.sleeps++;
        ret = ppoll(polled, count, &limit, NULL);
    }
    for (i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];

        if (n->vm == 0 || n->gone || n->deaf || n->out.data)
            continue;
        hs_ring_awake(&n->out.returns, HS_CONSUMER);
        hs_bell_quiet(n->bell_in);
    }
    if (ret < 0)
        return errno == EINTR ? 0 : -errno;
    return ret > 0 && also >= 0 && polled[count - 1].revents ? 2 : 0;
}
