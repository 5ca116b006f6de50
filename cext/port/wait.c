/* Waiting for packets, and the loops of functions written in C. See port/port.h. */
#define _GNU_SOURCE
#include "port/parts.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>

enum { LATE = 20000000 }; /* ns: what nobody rings for is looked for so often */

/* Of a ring: what a neighbour is woken for, that sleeps for half; and a port about to sleep. */
enum { PACKETS_PART = 2, FRAMES_PART = 2, FRAMES_PART_IDLE = 8 };

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
                                   : hs_ring_has_enough(out, PACKETS_PART));
    if (what & HS_WAKE_FOR_ROOM && (idle || !hs_ring_near(in, HS_PRODUCER, here)))
        ring |= hs_ring_rings(in, HS_PRODUCER, hs_ring_has_room_for(in));
    if (what & HS_WAKE_FOR_FRAMES && (idle || !hs_ring_near(frames, HS_CONSUMER, here)))
        ring |= hs_ring_rings(frames, HS_CONSUMER,
                              hs_ring_has_enough(frames, idle ? FRAMES_PART_IDLE : FRAMES_PART));
    if (ring)
        hs_bell_ring(n->bell_out);
}

void hs_port_wake(struct hs_port *p, struct hs_neighbour *n, enum hs_wake what) {
    if (p->puts_off)
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
        p->crowded_until = back + HS_CROWDED;
}

/* Whether so many have come back that they should go home before this port sleeps. */
static int frames_are_back(const struct hs_port *p) {
    for (uint32_t i = 0; i < p->neighbours; i++) {
        struct hs_ring r = p->neighbour[i].out.returns; /* a look only */

        if (p->neighbour[i].vm && !p->neighbour[i].gone && r.shared &&
            hs_ring_avail(&r, hs_ring_size(&r)) >= hs_ring_size(&r) / FRAMES_PART_IDLE)
            return 1;
    }
    return 0;
}

static int sleep_until(struct hs_port *p, int also, uint64_t ns) {
    struct hs_neighbour *rung[HS_NEIGHBOURS_MAX];
    struct pollfd polled[HS_NEIGHBOURS_MAX + 2];
    struct timespec limit = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    const int crowded = hs_now() < p->crowded_until;
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
    if (ns > LATE &&
        (owes_frames(p) || (p->has_eth0 && p->eth0.in_fill == 0))) /* nothing can come by eth0 */
        limit = (struct timespec){0, LATE};
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
        if (waited < p->spin_ns && start + waited >= p->crowded_until) {
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
    const struct timespec limit = {0, LATE};
    struct pollfd polled[HS_NEIGHBOURS_MAX + 2];
    const uint64_t now = hs_now();
    uint32_t count = 0, i;
    int ret = 0;

    hs_port_ring(p, 1);
    if (now >= p->crowded_until || (p->has_eth0 && p->eth0.in_tx)) {
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

static int loop(struct hs_port *p, hs_judge judge, void *state, int also) {
    struct hs_packet batch[HS_BURST];
    struct pollfd ask = {.fd = also, .events = POLLIN};
    uint32_t rounds = 0;

    for (;;) {
        uint32_t n = hs_port_recv(p, batch, HS_BURST), on;
        int ret;

        if (n > 0) {
            on = judge(state, p, batch, n);
            if (on > 0)
                hs_port_send(p, batch, on);
            if (on < n)
                hs_port_drop(p, batch + on, n - on);
            if (++rounds % HS_ROUNDS_PUT_OFF == 0)
                hs_port_ring(p, 0);
            if (rounds % 1024 == 0 && poll(&ask, 1, 0) > 0)
                return 0;
            continue;
        }
        ret = hs_port_wait(p, also, UINT64_C(1000000000));
        if (ret < 0)
            return ret;
        if (ret == 2)
            return 0;
    }
}

int hs_port_loop(struct hs_port *p, hs_judge judge, void *state, int also) {
    int ret;

    p->puts_off = 1;
    ret = loop(p, judge, state, also);
    p->puts_off = 0;
    hs_port_ring(p, 1);
    return ret;
}

uint32_t hs_judge_forward(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    (void)state;
    (void)p;
    (void)batch;
    return n;
}

uint32_t hs_judge_sink(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    (void)state;
    (void)p;
    (void)batch;
    (void)n;
    return 0;
}
