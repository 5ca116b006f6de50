// SPDX-License-Identifier: Apache-2.0
/* See bench/ring.h. This file: source and sink of either kind of channel, what the memory would
 * allow, round trips, and waiting. */
#define _GNU_SOURCE
#include "bench/ring.h"

#include "ring/bell.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#define BURST HS_BENCH_BURST
#define SECOND UINT64_C(1000000000)

static int stopped(struct hs_bench *b) {
    return atomic_load_explicit(&b->stop, memory_order_relaxed) != 0;
}

static void source_isolated(struct hs_channel *c, struct hs_bench *b, uint32_t len) {
    struct xdp_desc batch[BURST];
    uint64_t number = 0;
    uint32_t at = 0, i;

    for (i = 0; i < BURST; i++) {
        batch[i] = (struct xdp_desc){.addr = hs_umem_take(c->umem), .len = len};
        memset(hs_umem_data(c->umem, batch[i].addr), (int)i, len);
    }
    while (!stopped(b)) {
        if (at == 0)
            memcpy(hs_umem_data(c->umem, batch[0].addr), &number, sizeof(number));
        at += hs_channel_send(c, batch + at, BURST - at);
        if (at == BURST) {
            at = 0;
            number += BURST;
        }
    }
}

/* What a header holds behind its packet's number. */
static void fill_header(uint8_t rest[HS_BENCH_HEADER - sizeof(uint64_t)], uint32_t len) {
    for (uint32_t i = 0; i < HS_BENCH_HEADER - sizeof(uint64_t); i++)
        rest[i] = (uint8_t)(len + i);
}

static void source_shared(struct hs_channel *c, struct hs_bench *b, uint32_t len) {
    struct xdp_desc batch[BURST];
    uint8_t rest[HS_BENCH_HEADER - sizeof(uint64_t)];
    uint64_t addrs[BURST], number = 0;
    uint32_t waiting = 0, taken, i;

    fill_header(rest, len);
    while (!stopped(b)) {
        struct hs_umem *u = c->umem;
        uint32_t more;

        if (u->free_count < BURST)
            hs_channel_reclaim(c);
        more = hs_umem_take_burst(u, addrs, BURST - waiting);
        for (i = 0; i < more; i++) {
            uint8_t *at = hs_umem_data(u, addrs[i]);

            batch[waiting + i] = (struct xdp_desc){.addr = addrs[i], .len = len};
            memcpy(at, &number, sizeof(number));
            memcpy(at + sizeof(number), rest, sizeof(rest));
            number++;
        }
        waiting += more;
        taken = hs_channel_send(c, batch, waiting);
        for (i = taken; i < waiting; i++)
            batch[i - taken] = batch[i];
        waiting -= taken;
    }
}

void hs_bench_source(struct hs_channel *c, struct hs_bench *b, uint32_t len) {
    if (c->data)
        source_isolated(c, b, len);
    else
        source_shared(c, b, len);
}

static void sink_isolated(struct hs_channel *c, struct hs_bench *b) {
    struct xdp_desc batch[BURST];
    uint64_t count = 0, wrong = 0, number;
    uint32_t n, i;

    while (!stopped(b)) {
        n = hs_channel_recv(c, batch, BURST);
        i = (uint32_t)-count % BURST; /* the first packet of the source's burst, if it is here */
        if (i < n) {
            memcpy(&number, hs_umem_data(c->umem, batch[i].addr), sizeof(number));
            wrong += number != count + i;
        }
        for (i = 0; i < n; i++)
            hs_umem_give(c->umem, batch[i].addr);
        count += n;
        atomic_store_explicit(&b->count, count, memory_order_relaxed);
    }
    atomic_store_explicit(&b->wrong, wrong, memory_order_relaxed);
}

static void sink_shared(struct hs_channel *c, struct hs_bench *b) {
    struct xdp_desc batch[BURST];
    uint8_t rest[HS_BENCH_HEADER - sizeof(uint64_t)];
    uint64_t addrs[BURST], count = 0, wrong = 0, number;
    uint32_t n, i, back = 0, mine = 0;

    fill_header(rest, c->shape.max_len);
    while (!stopped(b)) {
        n = hs_channel_recv(c, batch, BURST);
        for (i = 0; i < n; i++) {
            const uint8_t *at = hs_umem_data(c->umem, batch[i].addr);

            memcpy(&number, at, sizeof(number));
            wrong += number != count + i || memcmp(at + sizeof(number), rest, sizeof(rest)) != 0;
            addrs[i] = batch[i].addr;
        }
        for (back = 0, mine = n; back < mine && !stopped(b);)
            back += hs_channel_return(c, addrs + back, mine - back);
        count += n;
        atomic_store_explicit(&b->count, count, memory_order_relaxed);
    }
    atomic_store_explicit(&b->wrong, wrong, memory_order_relaxed);
}

void hs_bench_sink(struct hs_channel *c, struct hs_bench *b) {
    if (c->data)
        sink_isolated(c, b);
    else
        sink_shared(c, b);
}

static uint32_t stride_of(uint32_t len) {
    return (len + HS_LINE - 1) & ~(uint32_t)(HS_LINE - 1);
}

/* BURST buffers that begin on different cache lines, as a umem's do. */
static _Alignas(HS_LINE) uint8_t buffers[BURST][HS_FRAME_MAX / 4 + HS_LINE];

void hs_bench_limit_source(struct hs_ring_shared *ring, uint8_t *data, uint32_t slots, uint32_t len,
                           struct hs_bench *b) {
    const uint32_t stride = stride_of(len), mask = slots - 1;
    uint32_t own = 0, peer = 0, i;

    while (!stopped(b)) {
        if (slots - (own - peer) < BURST) {
            peer = atomic_load_explicit(&ring->consumer, memory_order_acquire);
            if (slots - (own - peer) < BURST)
                continue;
        }
        for (i = 0; i < BURST; i++)
            hs_copy(data + (uint64_t)((own + i) & mask) * stride, buffers[i], len);
        own += BURST;
        atomic_store_explicit(&ring->producer, own, memory_order_release);
    }
}

void hs_bench_limit_sink(struct hs_ring_shared *ring, uint8_t *data, uint32_t slots, uint32_t len,
                         struct hs_bench *b) {
    const uint32_t stride = stride_of(len), mask = slots - 1;
    uint32_t own = 0, peer = 0, n, i;
    uint64_t count = 0;

    while (!stopped(b)) {
        if (peer == own) {
            peer = atomic_load_explicit(&ring->producer, memory_order_acquire);
            if (peer == own)
                continue;
        }
        n = peer - own < BURST ? peer - own : BURST;
        for (i = 0; i < n; i++)
            hs_copy(buffers[i], data + (uint64_t)((own + i) & mask) * stride, len);
        __asm__ volatile("" ::"r"(buffers) : "memory"); /* the copies are wanted */
        own += n;
        count += n;
        atomic_store_explicit(&ring->consumer, own, memory_order_release);
        atomic_store_explicit(&b->count, count, memory_order_relaxed);
    }
}

/* Until something can be received, or `limit` ns have passed: polling first, then asleep. */
static int await(struct hs_channel *in, int bell, uint64_t spin_ns, uint64_t limit) {
    const uint64_t start = hs_now();
    struct pollfd p = {.fd = bell, .events = POLLIN};
    int ret = 0;

    for (;;) {
        uint64_t waited;

        if (hs_ring_avail(&in->packets, 1))
            return 0;
        waited = hs_now() - start;
        if (waited > limit)
            return -ETIMEDOUT;
        if (waited < spin_ns)
            continue;
        hs_ring_sleep(&in->packets, HS_CONSUMER);
        if (!hs_ring_avail(&in->packets, 1)) {
            ret = poll(&p, 1, (int)((limit - waited) / 1000000) + 1);
            if (ret > 0)
                hs_bell_quiet(bell);
        }
        hs_ring_awake(&in->packets, HS_CONSUMER);
        if (ret < 0 && errno != EINTR)
            return -errno;
    }
}

static int take_one(struct hs_channel *in, int bell, uint64_t spin_ns) {
    struct xdp_desc d;
    int ret = await(in, bell, spin_ns, SECOND);

    if (ret < 0)
        return ret;
    if (hs_channel_recv(in, &d, 1) == 1)
        hs_umem_give(in->umem, d.addr);
    return 0;
}

static void send_one(struct hs_channel *out, int bell, const struct xdp_desc *d) {
    hs_channel_send(out, d, 1);
    if (hs_ring_must_ring(&out->packets, HS_CONSUMER))
        hs_bell_ring(bell);
}

int hs_bench_rtt(struct hs_channel *out, struct hs_channel *in, int bell_in, int bell_out,
                 uint32_t len, uint32_t n, uint64_t spin_ns, uint64_t *ns) {
    struct xdp_desc d = {.addr = hs_umem_take(out->umem), .len = len};
    uint32_t i;
    int ret = 0;

    for (i = 0; i < n && ret == 0; i++) {
        uint64_t start = hs_now();

        if (ns)
            send_one(out, bell_out, &d);
        ret = take_one(in, bell_in, spin_ns);
        if (ret == 0 && !ns)
            send_one(out, bell_out, &d);
        if (ns)
            ns[i] = hs_now() - start;
    }
    hs_umem_give(out->umem, d.addr);
    return ret;
}

int hs_bench_idle(struct hs_channel *in, int bell, uint64_t spin_ns, uint64_t ns) {
    return await(in, bell, spin_ns, ns);
}

int hs_bench_eventfd(int fd_in, int fd_out, uint32_t n, uint64_t *ns) {
    uint64_t one = 1, seen;
    uint32_t i;

    for (i = 0; i < n; i++) {
        uint64_t start = hs_now();

        if (ns && write(fd_out, &one, sizeof(one)) < 0)
            return -errno;
        if (read(fd_in, &seen, sizeof(seen)) < 0)
            return -errno;
        if (!ns && write(fd_out, &one, sizeof(one)) < 0)
            return -errno;
        if (ns)
            ns[i] = hs_now() - start;
    }
    return 0;
}
