// SPDX-License-Identifier: Apache-2.0
/* One process holds both ends: what a channel does between honest peers, and what it refuses.
 * Every index starts just below 2^32, so that each case also crosses the wrap. */
#define _GNU_SOURCE
#include "ring/channel.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FRAME 2048
#define FRAMES 256

struct pair {
    struct hs_umem from, to;
    struct hs_channel tx, rx;
};

static void near_the_wrap(struct hs_ring *a, struct hs_ring *b) {
    const uint32_t start = UINT32_MAX - 5;

    a->own = a->peer = a->published = b->own = b->peer = b->published = start;
    atomic_store(&a->shared->producer, start);
    atomic_store(&a->shared->consumer, start);
}

static void open_pair(struct pair *p, uint32_t mode, uint32_t ring_size) {
    struct hs_channel_shape shape = {mode, ring_size, mode == HS_ISOLATED ? 1u << 17 : 0, FRAME};
    int umem = -1, fd = hs_channel_make(&shape);

    CHECK(fd >= 0);
    if (mode == HS_SHARED)
        CHECK((umem = hs_region_make("test", FRAMES * FRAME)) >= 0);
    CHECK(hs_umem_open(&p->from, umem, FRAMES, FRAME, 0, FRAMES) == 0);
    CHECK(hs_umem_open(&p->to, umem, FRAMES, FRAME, 0, mode == HS_ISOLATED ? FRAMES : 0) == 0);
    CHECK(hs_channel_open(&p->tx, fd, &shape, &p->from, 1, 1) == 0);
    CHECK(hs_channel_open(&p->rx, fd, &shape, &p->to, 2, 0) == 0);
    near_the_wrap(&p->tx.packets, &p->rx.packets);
    p->tx.tail_index = p->tx.packets.peer;
    if (mode == HS_SHARED)
        near_the_wrap(&p->rx.returns, &p->tx.returns);
    close(fd);
    if (umem >= 0)
        close(umem);
}

static void close_pair(struct pair *p) {
    hs_channel_close(&p->tx);
    hs_channel_close(&p->rx);
    hs_channel_close(&p->rx);
    hs_umem_close(&p->from);
    hs_umem_close(&p->to);
    hs_umem_close(&p->to);
}

static void fill(uint8_t *at, uint32_t len, uint64_t seed) {
    for (uint32_t i = 0; i < len; i++)
        at[i] = (uint8_t)draw(&seed);
}

static void holds(const uint8_t *at, uint32_t len, uint64_t seed) {
    for (uint32_t i = 0; i < len; i++)
        CHECK(at[i] == (uint8_t)draw(&seed));
}

static uint32_t done_with(struct pair *p, const struct xdp_desc *batch, uint32_t n) {
    uint64_t addrs[64];

    for (uint32_t i = 0; i < n; i++) {
        addrs[i] = batch[i].addr;
        if (p->rx.data)
            hs_umem_give(&p->to, batch[i].addr);
    }
    return p->rx.data ? n : hs_channel_return(&p->rx, addrs, n);
}

/* Every length, in batches of changing size, arrives as it was sent and in order. */
static void every_length(uint32_t mode) {
    struct pair p;
    uint64_t sent = 0, received = 0, random = 7;

    open_pair(&p, mode, 64);
    while (received < 3 * FRAME) {
        struct xdp_desc batch[64];
        uint32_t n = 1 + draw(&random) % 64, taken, got;

        hs_channel_reclaim(&p.tx);
        for (uint32_t i = 0; i < n; i++) {
            CHECK(p.from.free_count > 0);
            batch[i].addr = hs_umem_take(&p.from);
            batch[i].len = (uint32_t)((sent + i) % FRAME) + 1;
            batch[i].options = 0;
            fill(hs_umem_data(&p.from, batch[i].addr), batch[i].len, sent + i + 1);
        }
        taken = hs_channel_send(&p.tx, batch, n);
        sent += taken;
        for (uint32_t i = mode == HS_ISOLATED ? 0 : taken; i < n; i++)
            hs_umem_give(&p.from, batch[i].addr);
        got = hs_channel_recv(&p.rx, batch, 1 + draw(&random) % 64);
        for (uint32_t i = 0; i < got; i++) {
            CHECK(batch[i].len == received % FRAME + 1);
            holds(hs_umem_data(&p.to, batch[i].addr), batch[i].len, received + 1);
            received++;
        }
        CHECK(done_with(&p, batch, got) == got);
    }
    CHECK(p.tx.moved == sent && p.rx.moved == received);
    for (int i = 0; i < HS_COUNTERS; i++)
        CHECK(i == HS_FULL || (p.tx.counters[i] == 0 && p.rx.counters[i] == 0));
    close_pair(&p);
}

/* A full channel takes what fits, says so, and goes on when there is room. */
static void full(uint32_t mode) {
    struct pair p;
    struct xdp_desc batch[64];
    uint32_t room = mode == HS_ISOLATED ? 64 : 32, got;

    open_pair(&p, mode, room);
    for (uint32_t i = 0; i < 64; i++)
        batch[i] = (struct xdp_desc){.addr = hs_umem_take(&p.from), .len = 64};
    CHECK(hs_channel_send(&p.tx, batch, 64) == room);
    CHECK(hs_channel_send(&p.tx, batch + room, 64 - room) == 0);
    CHECK(p.tx.counters[HS_FULL] == (room == 64 ? 0 : 2));
    CHECK((got = hs_channel_recv(&p.rx, batch, 3)) == 3);
    CHECK(done_with(&p, batch, 3) == 3);
    for (uint32_t i = 0; i < 4; i++)
        batch[i] = (struct xdp_desc){.addr = hs_umem_take(&p.from), .len = 64};
    CHECK(hs_channel_send(&p.tx, batch, 4) == 3);
    close_pair(&p);
}

/* The byte ring is the limit, not the descriptors: large packets, and the skip at the end. */
static void data_full(void) {
    struct pair p;
    struct xdp_desc batch[64];

    open_pair(&p, HS_ISOLATED, 1024);
    for (int round = 0; round < 50; round++) {
        uint32_t n = 0, got;

        for (uint32_t i = 0; i < 64; i++)
            batch[i] = (struct xdp_desc){.addr = (uint64_t)i * FRAME, .len = 1999};
        do
            n += (got = hs_channel_send(&p.tx, batch, 64));
        while (got == 64);
        CHECK(n >= (1u << 17) / FRAME - 1 && n <= (1u << 17) / FRAME);
        while ((got = hs_channel_recv(&p.rx, batch, 64)) > 0) {
            n -= got;
            done_with(&p, batch, got);
        }
        CHECK(n == 0);
        if (round & 1) /* a look at the receiver's index in between changes nothing */
            CHECK(hs_ring_free(&p.tx.packets, 1024) == 1024);
    }
    close_pair(&p);
}

/* Shared mode: no frame is ever owned twice, whatever is claimed. */
static void ownership(void) {
    struct pair p;
    struct xdp_desc batch[4];
    uint64_t addr;

    open_pair(&p, HS_SHARED, 64);
    batch[0] = batch[1] = (struct xdp_desc){.addr = hs_umem_take(&p.from), .len = 64};
    addr = batch[0].addr;
    CHECK(hs_channel_send(&p.tx, batch, 2) == 2); /* the same frame twice */
    CHECK(p.tx.counters[HS_BAD_STATE] == 1 && p.tx.moved == 1);
    CHECK(hs_channel_return(&p.rx, &addr, 1) == 1); /* before it came */
    CHECK(p.rx.counters[HS_BAD_STATE] == 1);
    CHECK(hs_channel_recv(&p.rx, batch, 4) == 1 && batch[0].addr == addr);
    CHECK(hs_channel_return(&p.rx, &addr, 1) == 1);
    CHECK(hs_channel_return(&p.rx, &addr, 1) == 1); /* twice */
    CHECK(p.rx.counters[HS_BAD_STATE] == 2);
    CHECK(hs_channel_reclaim(&p.tx) == 1 && p.from.free_count == FRAMES);
    close_pair(&p);
}

/* Shared mode, both ways: a question goes from `a` by `b` to `c` and is answered in its own frame.
 * It goes home with the answer, and no book has it twice. In each book the number of a neighbour is
 * that of both channels. */
static void answer(void) {
    const struct hs_channel_shape shape = {HS_SHARED, 64, 0, FRAME};
    const int umem = hs_region_make("test", FRAMES * FRAME);
    struct hs_umem a, b, c;
    struct hs_channel out[4], in[4]; /* a to b, b to c, c to b, b to a */
    struct hs_umem *const from[4] = {&a, &b, &c, &b}, *const to[4] = {&b, &c, &b, &a};
    const uint32_t number_from[4] = {1, 2, 1, 1}, number_to[4] = {1, 1, 2, 1};
    struct xdp_desc batch[4];
    uint64_t addr;

    CHECK(umem >= 0 && hs_umem_open(&a, umem, FRAMES, FRAME, 0, FRAMES) == 0);
    CHECK(hs_umem_open(&b, umem, FRAMES, FRAME, 0, 0) == 0);
    CHECK(hs_umem_open(&c, umem, FRAMES, FRAME, 0, 0) == 0);
    for (int i = 0; i < 4; i++) {
        const int fd = hs_channel_make(&shape);

        CHECK(fd >= 0 && hs_channel_open(&out[i], fd, &shape, from[i], number_from[i], 1) == 0);
        CHECK(hs_channel_open(&in[i], fd, &shape, to[i], number_to[i], 0) == 0);
        close(fd);
    }
    for (int round = 0; round < 3; round++) {
        batch[0] = (struct xdp_desc){.addr = addr = hs_umem_take(&a), .len = 64};
        for (int i = 0; i < 4; i++) {
            CHECK(hs_channel_send(&out[i], batch, 1) == 1);
            CHECK(hs_channel_recv(&in[i], batch, 4) == 1 && batch[0].addr == addr);
        }
        CHECK(a.state[addr / FRAME] == HS_OWN && a.origin[addr / FRAME] == 0);
        CHECK(b.state[addr / FRAME] == HS_FOREIGN && c.state[addr / FRAME] == HS_FOREIGN);
        hs_umem_give(&a, addr);
        CHECK(a.free_count == FRAMES);
    }
    CHECK(out[0].lent == 3 && in[3].home == 3 && out[1].lent == 3 && in[2].home == 3);
    CHECK(out[2].lent == 0 && out[3].lent == 0 && in[0].home == 0 && in[1].home == 0);
    /* It came back with a packet, and not once more: not to be let go of, nor as another packet. */
    batch[0] = (struct xdp_desc){.addr = addr = hs_umem_take(&a), .len = 64};
    CHECK(hs_channel_send(&out[0], batch, 1) == 1 && hs_channel_recv(&in[0], batch, 4) == 1);
    CHECK(hs_channel_send(&out[3], batch, 1) == 1 && hs_channel_recv(&in[3], batch, 4) == 1);
    b.state[addr / FRAME] = HS_OWN; /* b lies to itself */
    b.origin[addr / FRAME] = 1;
    CHECK(hs_channel_send(&out[3], batch, 1) == 1 && hs_channel_recv(&in[3], batch, 4) == 0);
    CHECK(in[3].counters[HS_BAD_STATE] == 1);
    b.state[addr / FRAME] = HS_OWN;
    b.origin[addr / FRAME] = 1;
    CHECK(hs_channel_return(&in[0], &addr, 1) == 1 && hs_channel_reclaim(&out[0]) == 0);
    CHECK(out[0].counters[HS_BAD_STATE] == 1 && a.state[addr / FRAME] == HS_OWN);
    for (int i = 0; i < 4; i++) {
        hs_channel_close(&out[i]);
        hs_channel_close(&in[i]);
    }
    hs_umem_close(&a);
    hs_umem_close(&b);
    hs_umem_close(&c);
    close(umem);
}

static void bad_length(uint32_t mode) {
    struct pair p;
    struct xdp_desc batch[3] = {
        {.addr = 0, .len = 0}, {.addr = FRAME, .len = 1}, {0, FRAME + 1, 0}};

    open_pair(&p, mode, 64);
    if (mode == HS_ISOLATED) {
        CHECK(hs_channel_send(&p.tx, batch, 3) == 3 && p.tx.moved == 1);
        CHECK(p.tx.counters[HS_BAD_LEN] == 2);
    }
    close_pair(&p);
}

/* A descriptor as a hostile sender puts it there: nothing of ours has looked at it. */
static uint32_t received_of(struct pair *p, struct xdp_desc d) {
    struct hs_ring *r = &p->tx.packets;
    uint32_t at = atomic_load(&r->shared->producer);
    struct xdp_desc batch[4];

    ((struct xdp_desc *)hs_ring_descs(r))[at & r->mask] = d;
    atomic_store(&r->shared->producer, at + 1);
    return hs_channel_recv(&p->rx, batch, 4);
}

/* By one byte: a packet ends with its frame at the latest, and its frame is of the region. */
static void bad_descriptors(void) {
    const uint64_t end = (uint64_t)FRAMES * FRAME;
    struct pair p;

    open_pair(&p, HS_SHARED, 64);
    CHECK(received_of(&p, (struct xdp_desc){4 * FRAME - 10, 10, 0}) == 1);
    CHECK(received_of(&p, (struct xdp_desc){end - FRAME, FRAME, 0}) == 1);
    CHECK(p.rx.counters[HS_BAD_ADDR] == 0);
    CHECK(received_of(&p, (struct xdp_desc){6 * FRAME - 10, 11, 0}) == 0);
    CHECK(received_of(&p, (struct xdp_desc){7 * FRAME + 1, FRAME, 0}) == 0);
    CHECK(received_of(&p, (struct xdp_desc){end, 1, 0}) == 0);
    CHECK(received_of(&p, (struct xdp_desc){UINT64_MAX, 1, 0}) == 0);
    CHECK(p.rx.counters[HS_BAD_ADDR] == 4 && p.rx.counters[HS_BAD_LEN] == 0);
    CHECK(received_of(&p, (struct xdp_desc){8 * FRAME, 0, 0}) == 0);
    CHECK(received_of(&p, (struct xdp_desc){8 * FRAME, FRAME + 1, 0}) == 0);
    CHECK(p.rx.counters[HS_BAD_LEN] == 2);
    CHECK(received_of(&p, (struct xdp_desc){8 * FRAME, 1, 1}) == 0);
    CHECK(p.rx.counters[HS_BAD_OPTIONS] == 1);
    CHECK(received_of(&p, (struct xdp_desc){3 * FRAME, 1, 0}) == 0); /* it is here already */
    CHECK(p.rx.counters[HS_BAD_STATE] == 1);
    close_pair(&p);
}

/* What is not a sealed region of the right size and shape is not mapped. */
static void regions(void) {
    struct hs_channel_shape shape = {HS_ISOLATED, 64, 1u << 17, FRAME}, other = shape;
    struct hs_channel c;
    struct hs_umem u;
    uint8_t *base = NULL;
    int fd = memfd_create("plain", MFD_ALLOW_SEALING), pipes[2];

    CHECK(fd >= 0 && ftruncate(fd, 8192) == 0);
    CHECK(hs_region_map(fd, 8192, &base) == -EPERM);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    CHECK(hs_region_map(fd, 8192, &base) == -EPERM);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) == 0);
    CHECK(hs_region_map(fd, 4096, &base) == -EMSGSIZE);
    CHECK(hs_region_map(fd, 8192, &base) == 0);
    CHECK(ftruncate(fd, 4096) < 0 && errno == EPERM);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192) == 0);
    CHECK(base[4096] == 0); /* a punched page reads as zeroes */
    hs_region_unmap(base, 8192);
    close(fd);
    CHECK(pipe(pipes) == 0 && hs_region_map(pipes[0], 8192, &base) == -EINVAL);
    close(pipes[0]);
    close(pipes[1]);
    CHECK(hs_region_map(-1, 8192, &base) == -EBADF);

    CHECK(hs_umem_open(&u, -1, 16, FRAME, 0, 16) == 0);
    fd = hs_channel_make(&shape);
    CHECK(fd >= 0);
    other.max_len = 64;
    CHECK(hs_channel_open(&c, fd, &other, &u, 1, 1) == -EPROTO);
    other = shape;
    other.ring_size = 128;
    CHECK(hs_channel_open(&c, fd, &other, &u, 1, 1) < 0);
    other = shape;
    other.max_len = FRAME + 1; /* longer than a frame of this umem */
    CHECK(hs_channel_open(&c, fd, &other, &u, 1, 1) == -EINVAL);
    other = shape;
    other.ring_size = 100;
    CHECK(hs_channel_bytes(&other) == 0);
    other = shape;
    other.data_size = 100000;
    CHECK(hs_channel_bytes(&other) == 0);
    other = shape;
    other.mode = 3;
    CHECK(hs_channel_bytes(&other) == 0);
    CHECK(hs_channel_open(&c, fd, &shape, &u, 0, 1) == -EINVAL);
    CHECK(hs_channel_open(&c, fd, &shape, &u, HS_CHANNELS_MAX, 1) == -EINVAL);
    close(fd);
    hs_umem_close(&u);
    CHECK(hs_umem_open(&u, -1, 16, 1000, 0, 16) == -EINVAL);
    CHECK(hs_umem_open(&u, -1, 16, FRAME, 8, 9) == -EINVAL);
    CHECK(hs_umem_open(&u, -1, 0, FRAME, 0, 0) == -EINVAL);
}

/* Only the bytes of the packet itself are copied. */
static void no_leak(void) {
    for (uint32_t len = 0; len <= 1024; len++) {
        uint8_t from[1100], to[1100];

        memset(from, 1, sizeof(from));
        memset(to, 2, sizeof(to));
        hs_copy(to + 3, from + 5, len);
        for (uint32_t i = 0; i < sizeof(to); i++)
            CHECK(to[i] == (i >= 3 && i < 3 + len ? 1 : 2));
    }
}

int main(void) {
    regions();
    no_leak();
    for (uint32_t mode = HS_ISOLATED; mode <= HS_SHARED; mode++) {
        every_length(mode);
        full(mode);
        bad_length(mode);
    }
    bad_descriptors();
    data_full();
    ownership();
    answer();
    return 0;
}
