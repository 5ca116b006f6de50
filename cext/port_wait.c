/* Waiting for packets, and the loops of functions written in C. See port.h. */
#define _GNU_SOURCE
#include "port_parts.h"

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

/* Whether frames that are another's are lent out: they must go home when they come back, which
 * rings no bell, or their owner, far up the chain, waits for them as long as this port sleeps. */
static int owes_frames(const struct hs_port *p) {
    for (uint32_t i = 0; i < p->neighbours; i++) {
        const struct hs_neighbour *n = &p->neighbour[i];

        if (n->vm && !n->gone && !n->out.data && (uint32_t)n->out.moved != n->out.returns.own)
            return 1;
    }
    return p->umem.homeward_count > 0;
}

static int sleep_until(struct hs_port *p, int also, uint64_t ns) {
    struct hs_neighbour *rung[HS_NEIGHBOURS_MAX];
    struct pollfd polled[HS_NEIGHBOURS_MAX + 2];
    struct timespec limit = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    uint32_t count = 0, bells, i;
    int ret;

    for (i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];

        if (n->vm == 0 || n->gone || n->deaf)
            continue;
        hs_ring_sleep(&n->in.packets, HS_CONSUMER);
        polled[count] = (struct pollfd){.fd = n->bell_in, .events = POLLIN};
        rung[count++] = n;
    }
    bells = count;
    if (p->has_eth0)
        polled[count++] = (struct pollfd){.fd = hs_xsk_fd(&p->eth0), .events = POLLIN};
    if (also >= 0)
        polled[count++] = (struct pollfd){.fd = also, .events = POLLIN};
    if (ns > 1000000 &&
        ((bells && hs_ring_barrier() < 0) ||                       /* a wake-up may be missed */
         owes_frames(p) || (p->has_eth0 && p->eth0.in_fill == 0))) /* nothing can come by eth0 */
        limit = (struct timespec){0, 1000000};
    ret = 0;
    if (!something(p)) {
        p->counters.sleeps++;
        ret = ppoll(polled, count, &limit, NULL);
        if (ret < 0)
            ret = errno == EINTR ? 0 : -errno;
    }
    for (i = 0; i < bells; i++) {
        hs_ring_awake(&rung[i]->in.packets, HS_CONSUMER);
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
        if (waited < p->spin_ns) {
            sched_yield();
            continue;
        }
        hs_port_reclaim(p);
        if (p->has_eth0 && p->eth0.in_fill < p->eth0.fill.size / 2)
            hs_xsk_refill(&p->eth0);
        if (p->gone)
            hs_port_bury(p);
        ret = sleep_until(p, also, ns - waited);
        if (ret != 0)
            return ret;
    }
}

int hs_port_loop(struct hs_port *p, hs_judge judge, void *state, int also) {
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
            if (++rounds % 1024 == 0 && poll(&ask, 1, 0) > 0)
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
