// SPDX-License-Identifier: Apache-2.0
/* The hostile peer: it writes whatever it likes into the region, at any moment, while this side
 * goes on sending, receiving, returning and reclaiming. This side must not crash, hang, touch
 * memory outside its frames and the region (AddressSanitizer watches the heap; region and umem lie
 * between pages that fault), nor end up with a frame that it owns twice.
 *
 * Argument: descriptors in all (default 10^7), spread over each mode and side, with the peer
 * writing between two calls (the same run every time); and one in a hundred more with the peer in a
 * thread.
 */
#define _GNU_SOURCE
#include "ring/channel.h"
#include "check.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define FRAME 2048
#define FRAMES 256
#define LONGEST (FRAME - 512)
#define RING 256

struct side {
    struct hs_umem umem;
    struct hs_channel channel;
    uint64_t handled;
    uint32_t calls;
    uint32_t held[FRAMES]; /* frames in this program's hands */
    uint32_t held_count;
};

static _Atomic int stop;

/* What was refused, by mode and side; in the end every reason there can be must have been met. */
static uint64_t refused[HS_SHARED + 1][2][HS_COUNTERS];
static const struct {
    uint32_t mode;
    int sender;
    enum hs_bad reason[5];
    int reasons;
} expected[] = {
    {HS_ISOLATED, 0, {HS_BAD_INDEX, HS_BAD_LEN, HS_BAD_OPTIONS, HS_NO_FRAME}, 4},
    {HS_ISOLATED, 1, {HS_BAD_INDEX, HS_FULL}, 2},
    {HS_SHARED, 0, {HS_BAD_INDEX, HS_BAD_LEN, HS_BAD_OPTIONS, HS_BAD_ADDR, HS_BAD_STATE}, 5},
    {HS_SHARED, 1, {HS_BAD_INDEX, HS_BAD_ADDR, HS_BAD_STATE, HS_FULL}, 4},
};

/* An interesting number: small, a limit, near a limit, an index near the true one, or anything. */
static uint64_t nasty(uint64_t *random, uint32_t near) {
    uint64_t r = draw(random);

    switch (r >> 60) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX;
    case 2:
        return (uint64_t)FRAMES * FRAME - (r & 4095);
    case 3:
        return UINT64_MAX - (r & 4095);
    case 4:
        return r & 0xffff;
    case 5:
        return UINT64_C(1) << (r & 63);
    case 6:
    case 7:
    case 8:
        return near + (r & 511);
    case 9:
    case 10:
        return (r % FRAMES) * FRAME; /* a frame's start */
    case 11:
        return 1 + r % FRAME;
    case 12:
        return near - (r & 511);
    default:
        return r;
    }
}

/* A struct xdp_desc as an honest peer could have written it, or nearly. */
static struct xdp_desc plausible(uint64_t *random) {
    uint64_t r = draw(random);
    struct xdp_desc d = {.addr = (r % FRAMES) * FRAME, .len = 1 + (r >> 20) % FRAME};

    if (r >> 61 == 0)
        d.addr += r >> 40 & 2047;
    if (r >> 58 == 1)
        d.options = (uint32_t)r;
    return d;
}

enum slots { BRIEFS, DESCS, RETURNED };

static void vandalise_ring(struct hs_ring *r, uint64_t *random, enum slots kind) {
    uint32_t n = draw(random) % 64;
    uint32_t *words = hs_ring_briefs(r);
    uint32_t own = __atomic_load_n(&r->own, __ATOMIC_RELAXED);
    uint32_t start = (uint32_t)draw(random);

    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = (start + i) & (RING - 1);
        if (kind != DESCS) {
            uint64_t r64 = draw(random);
            uint32_t good = kind == BRIEFS ? 1 + r64 % FRAME : r64 % FRAMES;
            __atomic_store_n(&words[slot], r64 >> 62 ? good : (uint32_t)nasty(random, 0),
                             __ATOMIC_RELAXED);
        } else if (draw(random) >> 62) {
            struct xdp_desc d = plausible(random);
            __atomic_store_n(&hs_ring_descs(r)[slot].addr, d.addr, __ATOMIC_RELAXED);
            __atomic_store_n(&hs_ring_descs(r)[slot].len, d.len, __ATOMIC_RELAXED);
            __atomic_store_n(&hs_ring_descs(r)[slot].options, d.options, __ATOMIC_RELAXED);
        } else {
            __atomic_store_n(&words[slot * 4 + draw(random) % 4], nasty(random, 0),
                             __ATOMIC_RELAXED);
        }
    }
    switch (draw(random) & 15) {
    case 0:
        atomic_store(&r->shared->producer, (uint32_t)nasty(random, own));
        break;
    case 1:
        atomic_store(&r->shared->consumer, (uint32_t)nasty(random, own));
        break;
    case 2:
        atomic_store(&r->shared->sleeps[draw(random) & 1], (uint32_t)draw(random));
        break;
    default: /* what gets furthest: indices that can be true */
        atomic_store(&r->shared->producer, own + (uint32_t)(draw(random) % (RING + 1)));
        atomic_store(&r->shared->consumer, own - (uint32_t)(draw(random) % 64));
    }
}

/* The peer also knows this side's private indices, which only makes it a better liar. */
static void vandalise(struct side *s, uint64_t *random) {
    const int shared = s->channel.shape.mode == HS_SHARED;

    vandalise_ring(&s->channel.packets, random, shared ? DESCS : BRIEFS);
    if (shared)
        vandalise_ring(&s->channel.returns, random, RETURNED);
}

/* No frame is both free and in hand, or twice either. */
static void check_book(const struct side *s) {
    uint8_t seen[FRAMES] = {0};
    const struct hs_umem *u = &s->umem;

    CHECK(u->free_count <= FRAMES && s->held_count <= FRAMES && u->homeward_count == 0);
    for (uint32_t i = 0; i < u->free_count; i++)
        CHECK(u->free_frames[i] < FRAMES && seen[u->free_frames[i]]++ == 0);
    for (uint32_t i = 0; i < s->held_count; i++)
        CHECK(s->held[i] < FRAMES && seen[s->held[i]]++ == 0);
    for (uint32_t i = 0; i < FRAMES; i++)
        CHECK(!seen[i] || u->state[i] == HS_OWN);
}

static void receive(struct side *s, uint64_t *random) {
    struct hs_channel *c = &s->channel;
    struct xdp_desc batch[64];
    uint64_t addrs[64];
    uint64_t bad = c->counters[HS_BAD_LEN] + c->counters[HS_BAD_ADDR] +
                   c->counters[HS_BAD_OPTIONS] + c->counters[HS_BAD_STATE];
    uint32_t n = hs_channel_recv(c, batch, 1 + draw(random) % 64), keep;

    s->handled += n + c->counters[HS_BAD_LEN] + c->counters[HS_BAD_ADDR] +
                  c->counters[HS_BAD_OPTIONS] + c->counters[HS_BAD_STATE] - bad;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *at = hs_umem_data(&s->umem, batch[i].addr);
        uint32_t frame = hs_umem_frame(&s->umem, batch[i].addr);

        CHECK(batch[i].len >= 1 && batch[i].len <= LONGEST && frame < FRAMES);
        CHECK((batch[i].addr & (FRAME - 1)) + batch[i].len <= FRAME);
        at[0] = at[batch[i].len - 1] = 1; /* ours to write */
        s->held[s->held_count++] = frame;
    }
    keep = s->calls++ % 64 < 16 ? FRAMES : draw(random) % 32; /* now and then all of them */
    while (s->held_count > keep) {
        uint32_t k = 0;
        while (k < 64 && s->held_count > keep)
            addrs[k++] = (uint64_t)s->held[--s->held_count] * FRAME;
        if (c->data) {
            for (uint32_t i = 0; i < k; i++)
                hs_umem_give(&s->umem, addrs[i]);
        } else {
            uint32_t taken = hs_channel_return(c, addrs, k);
            for (uint32_t i = taken; i < k; i++) /* no room: still ours */
                s->held[s->held_count++] = hs_umem_frame(&s->umem, addrs[i]);
            if (taken < k)
                break;
        }
    }
}

static void transmit(struct side *s, uint64_t *random) {
    struct hs_channel *c = &s->channel;
    struct xdp_desc batch[64];
    uint32_t n = 1 + draw(random) % 64, taken;
    uint64_t before = c->counters[HS_BAD_STATE] + c->counters[HS_BAD_ADDR];

    s->handled += hs_channel_reclaim(c);
    s->handled += c->counters[HS_BAD_STATE] + c->counters[HS_BAD_ADDR] - before;
    if (n > s->umem.free_count)
        n = s->umem.free_count;
    for (uint32_t i = 0; i < n; i++)
        batch[i] = (struct xdp_desc){.addr = hs_umem_take(&s->umem),
                                     .len = 1 + (uint32_t)(draw(random) % LONGEST)};
    taken = hs_channel_send(c, batch, n);
    s->handled += taken;
    for (uint32_t i = c->data ? 0 : taken; i < n; i++)
        hs_umem_give(&s->umem, batch[i].addr);
}

struct vandal {
    struct side *side;
    uint64_t random;
};

static void *vandal_thread(void *arg) {
    struct vandal *v = arg;

    while (!atomic_load(&stop))
        vandalise(v->side, &v->random);
    return arg;
}

static void attack(uint32_t mode, int sender, uint64_t descriptors, int concurrent, uint64_t seed) {
    struct hs_channel_shape shape = {mode, RING, mode == HS_ISOLATED ? 1u << 17 : 0, LONGEST};
    struct side *s = calloc(1, sizeof(*s));
    struct vandal v = {s, seed};
    int fd = hs_channel_make(&shape);
    int umem = mode == HS_SHARED ? hs_region_make("fuzz", FRAMES * FRAME) : -1;
    uint32_t own = mode == HS_ISOLATED || sender ? FRAMES : 0, rounds = 0;
    uint64_t random = seed * 77 + 1;
    pthread_t thread;

    CHECK(fd >= 0 && s);
    CHECK(hs_umem_open(&s->umem, umem, FRAMES, FRAME, 0, own) == 0);
    hs_umem_spread(&s->umem, LONGEST);
    CHECK(hs_channel_open(&s->channel, fd, &shape, &s->umem, 1, sender) == 0);
    atomic_store(&stop, 0);
    if (concurrent)
        CHECK(pthread_create(&thread, NULL, vandal_thread, &v) == 0);
    while (s->handled < descriptors) {
        if (!concurrent)
            vandalise(s, &v.random);
        if (sender)
            transmit(s, &random);
        else
            receive(s, &random);
        if (rounds++ % 256 == 0)
            check_book(s);
        /* A peer that kept every frame: the daemon takes them back when it is gone. */
        if (sender && mode == HS_SHARED && s->umem.free_count == 0)
            s->handled += hs_umem_recover(&s->umem, 1);
    }
    atomic_store(&stop, 1);
    if (concurrent)
        pthread_join(thread, NULL);
    check_book(s);
    for (uint32_t i = 0; i < HS_COUNTERS; i++)
        refused[mode][sender][i] += s->channel.counters[i];
    hs_channel_close(&s->channel);
    hs_umem_close(&s->umem);
    close(fd);
    if (umem >= 0)
        close(umem);
    free(s);
}

int main(int argc, char **argv) {
    uint64_t total = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000000;

    for (uint32_t mode = HS_ISOLATED; mode <= HS_SHARED; mode++)
        for (int sender = 0; sender < 2; sender++)
            for (int concurrent = 0; concurrent < 2; concurrent++)
                attack(mode, sender, concurrent ? total / 100 : total / 4, concurrent,
                       11 + mode * 4 + (uint64_t)sender);
    for (uint32_t i = 0; i < sizeof(expected) / sizeof(*expected); i++)
        for (int k = 0; k < expected[i].reasons; k++)
            CHECK(refused[expected[i].mode][expected[i].sender][expected[i].reason[k]] > 0);
    return 0;
}
