/* See port.h. */
#define _GNU_SOURCE
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int hs_port_open(struct hs_port *p, int umem_fd, uint32_t frames, uint32_t frame_size,
                 uint32_t first, uint32_t count) {
    int ret;

    memset(p, 0, sizeof(*p));
    p->spin_ns = 20000;
    ret = hs_umem_open(&p->umem, umem_fd, frames, frame_size, first, count);
    if (ret == 0)
        hs_umem_spread(&p->umem, frame_size / 4 * 3);
    return ret;
}

int hs_port_eth0(struct hs_port *p, const char *interface, uint32_t ring) {
    int ret = hs_xsk_open(&p->eth0, interface, &p->umem, ring);

    p->has_eth0 = ret == 0;
    return ret;
}

int hs_port_eth0_fd(const struct hs_port *p) {
    return p->has_eth0 ? hs_xsk_fd(&p->eth0) : -ENOTCONN;
}

int hs_port_neighbour(struct hs_port *p, uint32_t vm, const struct hs_channel_shape *shape,
                      int out_fd, int in_fd, int bell_in, int bell_out) {
    struct hs_neighbour *n = NULL;
    uint32_t number;
    int ret;

    for (number = 1; number <= HS_NEIGHBOURS_MAX && !n; number++)
        if (p->neighbour[number - 1].vm == 0)
            n = &p->neighbour[number - 1];
    if (!n || vm == 0)
        return -ENOSPC;
    number--;
    ret = hs_channel_open(&n->out, out_fd, shape, &p->umem, number, 1);
    if (ret < 0)
        return ret;
    ret = hs_channel_open(&n->in, in_fd, shape, &p->umem, number, 0);
    if (ret < 0)
        goto out;
    n->vm = vm;
    n->bell_in = bell_in;
    n->bell_out = bell_out;
    n->seen = 0;
    if (number > p->neighbours)
        p->neighbours = number;
    return 0;
out:
    hs_channel_close(&n->out);
    return ret;
}

int hs_port_rules(struct hs_port *p, int fd, uint32_t entries) {
    const uint64_t size = hs_rules_bytes(entries);
    struct stat st;
    void *at;

    if (size == 0)
        return -EINVAL;
    if (fstat(fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size < size)
        return -EMSGSIZE;
    at = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return -errno;
    p->rules = at;
    p->rules_size = size;
    p->rule_entries = entries;
    return 0;
}

void hs_port_forget(struct hs_port *p, uint32_t vm) {
    for (uint32_t i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];

        if (n->vm != vm || vm == 0)
            continue;
        hs_umem_recover(&p->umem, n->out.number);
        hs_channel_close(&n->out);
        hs_channel_close(&n->in);
        close(n->bell_in);
        close(n->bell_out);
        n->vm = 0;
    }
    p->last_to = 0;
}

void hs_port_close(struct hs_port *p) {
    for (uint32_t i = 0; i < p->neighbours; i++)
        hs_port_forget(p, p->neighbour[i].vm);
    if (p->has_eth0)
        hs_xsk_close(&p->eth0);
    if (p->rules)
        munmap((void *)(uintptr_t)p->rules, p->rules_size);
    hs_umem_close(&p->umem);
    memset(p, 0, sizeof(*p));
}

/* Frames that belong to the other end of a channel go home. */
static void send_home(struct hs_port *p) {
    struct hs_umem *u = &p->umem;
    uint32_t i, kept = 0;

    for (i = 0; i < u->homeward_count; i++) {
        const uint32_t frame = u->homeward[i], number = u->origin[frame];
        const uint64_t addr = (uint64_t)frame << u->frame_shift;

        /* The neighbour is gone: nobody to take it, and nobody who would miss it. */
        if (p->neighbour[number - 1].vm == 0)
            continue;
        if (hs_channel_return(&p->neighbour[number - 1].in, &addr, 1) == 0)
            u->homeward[kept++] = frame;
    }
    u->homeward_count = kept;
}

static void let_go(struct hs_port *p, uint64_t addr) {
    struct hs_umem *u = &p->umem;
    uint32_t frame = hs_umem_frame(u, addr);

    if (u->origin[frame] == 0)
        hs_umem_give(u, addr);
    else
        u->homeward[u->homeward_count++] = frame;
}

uint32_t hs_port_recv(struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    struct xdp_desc *descs = (struct xdp_desc *)(void *)batch;
    uint32_t got = 0, i;

    if (n > HS_BURST)
        n = HS_BURST;
    if (p->umem.homeward_count)
        send_home(p);
    for (i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *nb = &p->neighbour[i];

        if (nb->vm && nb->seen == 0)
            nb->seen = hs_ring_avail(&nb->in.packets, HS_BURST);
    }
    if (p->has_eth0) {
        if (p->eth0.in_tx)
            hs_xsk_reap(&p->eth0);
        got = hs_xsk_recv(&p->eth0, descs, n); /* options, our `from`, is 0 */
        p->counters.eth0_in += got;
    }
    for (i = 0; i < p->neighbours && got < n; i++) {
        struct hs_neighbour *nb = &p->neighbour[i];
        uint32_t want = nb->seen < n - got ? nb->seen : n - got, have, k;

        if (nb->vm == 0 || want == 0)
            continue;
        have = hs_channel_recv(&nb->in, descs + got, want);
        nb->seen = 0;
        for (k = 0; k < have; k++)
            batch[got + k].from = nb->vm;
        got += have;
        p->counters.ring_in += have;
        if (hs_ring_must_ring(&nb->in.packets, HS_PRODUCER))
            hs_bell_ring(nb->bell_out);
    }
    return got;
}

/* The neighbour a current rule sends this packet to; NULL: eth0. */
static struct hs_neighbour *route(struct hs_port *p, const struct hs_packet *packet) {
    struct hs_tuple tuple;
    uint32_t withdrawn;

    if (!p->rules || p->neighbours == 0 ||
        hs_flow_parse(hs_packet_data(p, packet), packet->len, &tuple) < 0)
        return NULL;
    withdrawn = atomic_load_explicit(&p->rules->withdrawn, memory_order_acquire);
    if (withdrawn != p->last_withdrawn || p->last_to == 0 ||
        memcmp(&tuple, &p->last_tuple, sizeof(tuple)) != 0) {
        p->last_to = hs_rules_find(p->rules, p->rule_entries, &tuple);
        p->last_tuple = tuple;
        p->last_withdrawn = withdrawn;
    }
    if (p->last_to)
        for (uint32_t i = 0; i < p->neighbours; i++)
            if (p->neighbour[i].vm == p->last_to)
                return &p->neighbour[i];
    return NULL;
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

        while (n->vm && hs_ring_free(r, hs_ring_size(r)) < hs_ring_size(r)) {
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

static void send_eth0(struct hs_port *p, const struct hs_packet *batch, uint32_t n) {
    struct xdp_desc descs[HS_BURST];
    uint32_t taken = 0, i;

    drain(p);
    for (i = 0; i < n; i++)
        descs[i] = (struct xdp_desc){.addr = batch[i].addr, .len = batch[i].len};
    if (p->has_eth0)
        taken = hs_xsk_send(&p->eth0, descs, n);
    p->counters.eth0_out += taken;
    p->counters.full_eth0 += n - taken;
    for (i = taken; i < n; i++)
        let_go(p, descs[i].addr);
}

static void send_ring(struct hs_port *p, struct hs_neighbour *to, const struct hs_packet *batch,
                      uint32_t n) {
    struct xdp_desc descs[HS_BURST];
    uint64_t start = 0;
    uint32_t taken, i;

    for (i = 0; i < n; i++)
        descs[i] = (struct xdp_desc){.addr = batch[i].addr, .len = batch[i].len};
    hs_channel_reclaim(&to->out);
    taken = hs_channel_send(&to->out, descs, n);
    if (hs_ring_must_ring(&to->out.packets, HS_CONSUMER))
        hs_bell_ring(to->bell_out);
    while (taken < n && p->wait_on_full) {
        uint64_t now = hs_now();

        if (start == 0)
            start = now;
        if (now - start > HS_WAIT)
            break;
        sched_yield(); /* the receiver may be waiting for this very core */
        taken += hs_channel_send(&to->out, descs + taken, n - taken);
        if (hs_ring_must_ring(&to->out.packets, HS_CONSUMER))
            hs_bell_ring(to->bell_out);
    }
    p->counters.ring_out += taken;
    p->counters.full_ring += n - taken;
    for (i = to->out.data ? 0 : taken; i < n; i++) /* isolated: sent by copy, all are ours still */
        let_go(p, descs[i].addr);
}

void hs_port_send(struct hs_port *p, const struct hs_packet *batch, uint32_t n) {
    uint32_t start, i;

    /* Runs of packets with the same way out, in order. */
    for (start = 0; start < n; start = i) {
        struct hs_neighbour *to = route(p, &batch[start]);

        for (i = start + 1; i < n && i - start < HS_BURST && route(p, &batch[i]) == to; i++)
            continue;
        if (to)
            send_ring(p, to, batch + start, i - start);
        else
            send_eth0(p, batch + start, i - start);
    }
}

void hs_port_drop(struct hs_port *p, const struct hs_packet *batch, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        let_go(p, batch[i].addr);
    p->counters.dropped += n;
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

int hs_port_new(struct hs_port *p, struct hs_packet *packet) {
    for (uint32_t i = 0; p->umem.free_count == 0 && i < p->neighbours; i++)
        if (p->neighbour[i].vm)
            hs_channel_reclaim(&p->neighbour[i].out);
    if (p->umem.free_count == 0)
        return -ENOBUFS;
    *packet = (struct hs_packet){.addr = hs_umem_take(&p->umem)};
    return 0;
}

static int something(struct hs_port *p) {
    if (p->has_eth0 && xsk_cons_nb_avail(&p->eth0.rx, 1))
        return 1;
    for (uint32_t i = 0; i < p->neighbours; i++)
        if (p->neighbour[i].vm && hs_ring_avail(&p->neighbour[i].in.packets, 1))
            return 1;
    return 0;
}

static int sleep_until(struct hs_port *p, int also, uint64_t ns) {
    struct pollfd polled[HS_NEIGHBOURS_MAX + 2];
    struct timespec limit = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    uint32_t count = 0, bells, i;
    int ret;

    for (i = 0; i < p->neighbours; i++)
        if (p->neighbour[i].vm) {
            hs_ring_sleep(&p->neighbour[i].in.packets, HS_CONSUMER);
            polled[count++] = (struct pollfd){.fd = p->neighbour[i].bell_in, .events = POLLIN};
        }
    bells = count;
    if (p->has_eth0)
        polled[count++] = (struct pollfd){.fd = hs_xsk_fd(&p->eth0), .events = POLLIN};
    if (also >= 0)
        polled[count++] = (struct pollfd){.fd = also, .events = POLLIN};
    if (bells && hs_ring_barrier() < 0 && ns > 1000000)
        limit = (struct timespec){0, 1000000}; /* no barrier: a wake-up may be missed */
    ret = 0;
    if (!something(p)) {
        p->counters.sleeps++;
        ret = ppoll(polled, count, &limit, NULL);
        if (ret < 0)
            ret = errno == EINTR ? 0 : -errno;
    }
    for (i = 0; i < p->neighbours; i++)
        if (p->neighbour[i].vm)
            hs_ring_awake(&p->neighbour[i].in.packets, HS_CONSUMER);
    for (i = 0; ret > 0 && i < bells; i++)
        if (polled[i].revents & POLLIN)
            hs_bell_quiet(polled[i].fd);
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
        if (p->umem.homeward_count)
            send_home(p);
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

int hs_port_source(struct hs_port *p, const uint8_t *packet, uint32_t len, int also) {
    struct hs_packet batch[HS_BURST];
    struct pollfd ask = {.fd = also, .events = POLLIN};
    uint32_t rounds = 0;

    if (len > p->umem.frame_size / 2)
        return -EMSGSIZE;
    for (;;) {
        uint32_t n = hs_port_recv(p, batch, HS_BURST);

        hs_port_drop(p, batch, n); /* nobody answers a source */
        for (n = 0; n < HS_BURST && hs_port_new(p, &batch[n]) == 0; n++) {
            batch[n].len = len;
            hs_copy(p->umem.base + batch[n].addr, packet, len);
        }
        if (n > 0)
            hs_port_send(p, batch, n);
        else
            sched_yield();
        if (++rounds % 256 == 0 && poll(&ask, 1, 0) > 0)
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
