// SPDX-License-Identifier: Apache-2.0
/* A ring of packet descriptors in shared memory: one producer, one consumer, neither trusted.
 *
 * The layout is AF_XDP's: free-running 32-bit indices (the slot is index & mask) and a slot for
 * each descriptor: struct xdp_desc (linux/if_xdp.h), or, if that would say what both sides know
 * anyway, a hs_brief or a hs_frame, sixteen to a cache line instead of four. Each side keeps its
 * own index in private memory and only publishes it; it reads the peer's index rarely, into a
 * private copy, and believes it only as far as it can be true. Verbs: the producer reserves, fills
 * and submits; the consumer peeks, reads and releases; both in batches, so that a batch costs one
 * publication.
 *
 * Which atomic pairs with which:
 *     producer  written by submit (release)  read by the consumer's refresh (acquire):
 *               the descriptors, and the data they name, were written before
 *     consumer  written by release (release) read by the producer's refresh (acquire):
 *               the descriptors, and the data they name, were read before
 *     sleeps[s] written by side s before it looks at the rings once more and sleeps; read by the
 *               other side (hs_ring_must_ring) after it has written its own index again. These four
 *               are sequentially consistent: either the sleeper sees the publication, or the other
 *               side sees the flag, so no publication sleeps. It costs the other side a wait for
 *               its stores, so whoever publishes again and again asks now and then only, and before
 *               it has nothing more to do. The other side may make HS_RUNG of the flag (relaxed)
 *               and then rings the bell, which stays rung until the sleeper has heard it: it need
 *               not be rung for the next publication.
 */
#ifndef HS_RING_H
#define HS_RING_H
#include <linux/if_xdp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define HS_APART 128 /* two lines: adjacent-line prefetchers pull pairs */
#define HS_RING_MAX (1u << 16)

enum hs_side { HS_PRODUCER = 0, HS_CONSUMER = 1 };

struct hs_ring_shared {
    _Alignas(HS_APART) _Atomic uint32_t producer;
    _Alignas(HS_APART) _Atomic uint32_t consumer;
    /* On a line that is written only when someone goes to sleep: looking at it costs nothing. */
    _Alignas(HS_APART) _Atomic uint32_t sleeps[2]; /* by enum hs_side */
    _Atomic uint32_t core[2];                      /* where it went to sleep: a hint */
    _Alignas(HS_APART) unsigned char slots[];      /* struct xdp_desc, hs_brief or hs_frame */
};

/* The number of a frame that goes home: what lies in it matters to nobody any more. */
typedef uint32_t hs_frame;

/* Length and options of a packet whose address follows from those before it. */
typedef uint32_t hs_brief;
#define HS_BRIEF_LEN_BITS 24 /* the low bits; the others are xdp_desc's options */

_Static_assert(sizeof(struct xdp_desc) == 16, "the kernel's descriptor");
_Static_assert(offsetof(struct xdp_desc, options) == offsetof(struct xdp_desc, len) + 4 &&
                   offsetof(struct xdp_desc, len) == 8,
               "hs_desc_read takes the two together");
_Static_assert(offsetof(struct hs_ring_shared, consumer) == 128, "layout is protocol");
_Static_assert(offsetof(struct hs_ring_shared, sleeps) == 256, "layout is protocol");
_Static_assert(offsetof(struct hs_ring_shared, slots) == 384, "layout is protocol");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "indices are shared between processes");

/* One side's private handle. */
struct hs_ring {
    struct hs_ring_shared *shared;
    uint32_t mask;
    uint32_t own;       /* this side's index: what has been reserved, or peeked */
    uint32_t published; /* ... and what of it the peer has been told */
    uint32_t peer;      /* the other side's index, as last believed */
    uint64_t bad_index; /* times the peer's index could not be true */
};

/* Bytes of a ring of `size` slots, a power of two in [2, HS_RING_MAX], of `slot` bytes each,
 * rounded up to HS_APART; 0 if `size` is not that. */
uint64_t hs_ring_bytes(uint32_t size, uint32_t slot);

/* Start at the indices 0 (a new region is all zeroes). */
void hs_ring_open(struct hs_ring *r, struct hs_ring_shared *shared, uint32_t size);

/* Say that this side is about to sleep, so that the other rings its bell. After the last ring's
 * call comes one more look at every ring, and only then sleep. */
static inline void hs_ring_sleep(struct hs_ring *r, enum hs_side side) {
    atomic_store_explicit(&r->shared->sleeps[side], 1, memory_order_seq_cst);
}

/* A side may sleep until half of the ring is free, or full, instead of any slot: two that share a
 * core then change places once for so many packets, and not once for each burst. */
enum { HS_SLEEPS = 1, HS_SLEEPS_FOR_HALF = 2, HS_RUNG = 3 };

static inline void hs_ring_sleep_for_half(struct hs_ring *r, enum hs_side side) {
    atomic_store_explicit(&r->shared->sleeps[side], HS_SLEEPS_FOR_HALF, memory_order_seq_cst);
}

/* Say on which core (sched_getcpu(3)) this side is going to sleep; before hs_ring_sleep. */
static inline void hs_ring_sleeps_on(struct hs_ring *r, enum hs_side side, uint32_t core) {
    atomic_store_explicit(&r->shared->core[side], core, memory_order_relaxed);
}

/* Whether the other side, asleep, says that it was on this core. It may lie. */
static inline int hs_ring_near(const struct hs_ring *r, enum hs_side other, uint32_t core) {
    return atomic_load_explicit(&r->shared->core[other], memory_order_relaxed) == core;
}

static inline void hs_ring_awake(struct hs_ring *r, enum hs_side side) {
    atomic_store_explicit(&r->shared->sleeps[side], 0, memory_order_relaxed);
}

/* Does the other side sleep, and how? To be asked after submit or release. 0: no, or its bell has
 * been rung. */
static inline uint32_t hs_ring_must_ring(const struct hs_ring *r, enum hs_side other) {
    uint32_t how;

    if (other == HS_CONSUMER)
        atomic_store_explicit(&r->shared->producer, r->published, memory_order_seq_cst);
    else
        atomic_store_explicit(&r->shared->consumer, r->published, memory_order_seq_cst);
    how = atomic_load_explicit(&r->shared->sleeps[other], memory_order_seq_cst);
    return how != HS_RUNG ? how : 0;
}

/* Whether the bell is to be rung now for one that sleeps so (0: it does not): once for each sleep.
 */
static inline int hs_ring_rings(const struct hs_ring *r, enum hs_side other, uint32_t how) {
    return how != 0 &&
           atomic_compare_exchange_strong_explicit(&r->shared->sleeps[other], &how, HS_RUNG,
                                                   memory_order_relaxed, memory_order_relaxed);
}

static inline uint32_t hs_ring_size(const struct hs_ring *r) {
    return r->mask + 1;
}

/* Producer: how many slots are free, at least `want` if there are; looks at the peer's index only
 * when the private copy does not suffice. */
static inline uint32_t hs_ring_free(struct hs_ring *r, uint32_t want) {
    uint32_t used = r->own - r->peer;

    if (hs_ring_size(r) - used < want) {
        /* pairs with the consumer's release; seq_cst: see `sleeps` */
        uint32_t seen = atomic_load_explicit(&r->shared->consumer, memory_order_seq_cst);
        if (r->own - seen > used) /* backwards, or ahead of us: not possible */
            r->bad_index++;
        else
            r->peer = seen;
        used = r->own - r->peer;
    }
    return hs_ring_size(r) - used;
}

/* Producer: how many slots the consumer has not given back, by its index as it is now. */
static inline uint32_t hs_ring_used(struct hs_ring *r) {
    return hs_ring_size(r) - hs_ring_free(r, hs_ring_size(r) + 1); /* more than can be: it looks */
}

static inline struct xdp_desc *hs_ring_descs(const struct hs_ring *r) {
    return (struct xdp_desc *)(void *)r->shared->slots;
}

static inline hs_brief *hs_ring_briefs(const struct hs_ring *r) {
    return (hs_brief *)(void *)r->shared->slots;
}

static inline hs_frame *hs_ring_frames(const struct hs_ring *r) {
    return (hs_frame *)(void *)r->shared->slots;
}

/* Producer: publish the next `n` slots; the caller has filled them: own & mask and on. */
static inline void hs_ring_submit(struct hs_ring *r, uint32_t n) {
    r->own += n;
    r->published = r->own;
    atomic_store_explicit(&r->shared->producer, r->own, memory_order_release);
}

/* Consumer: how many descriptors wait; looks at the peer's index when the private copy has fewer
 * than `want`. */
static inline uint32_t hs_ring_avail(struct hs_ring *r, uint32_t want) {
    uint32_t known = r->peer - r->own;

    if (known < want) {
        /* pairs with the producer's submit; seq_cst: see `sleeps` */
        uint32_t seen = atomic_load_explicit(&r->shared->producer, memory_order_seq_cst);
        uint32_t avail = seen - r->own;
        /* More than the slots we have released, or fewer than there were: not possible. */
        if (avail > hs_ring_size(r) - (r->own - r->published) || avail < known)
            r->bad_index++;
        else
            r->peer = seen;
        known = r->peer - r->own;
    }
    return known;
}

/* Consumer, after release: does the producer sleep, and has it what it waits for? How, or 0. */
static inline uint32_t hs_ring_has_room_for(struct hs_ring *r) {
    const uint32_t how = hs_ring_must_ring(r, HS_PRODUCER);

    return how == HS_SLEEPS_FOR_HALF && hs_ring_avail(r, hs_ring_size(r)) > hs_ring_size(r) / 2
               ? 0
               : how;
}

/* Producer, after submit: does the consumer sleep, and has it what it waits for: one in `part` of
 * the ring, if it does not wait for anything at all? How it sleeps, or 0. */
static inline uint32_t hs_ring_has_enough(struct hs_ring *r, uint32_t part) {
    const uint32_t how = hs_ring_must_ring(r, HS_CONSUMER);

    return how == HS_SLEEPS_FOR_HALF && hs_ring_used(r) < hs_ring_size(r) / part ? 0 : how;
}

/* A private copy of a descriptor that the peer may be writing: each half is read exactly once. */
static inline struct xdp_desc hs_desc_read(const struct xdp_desc *d) {
    const uint64_t *half = (const uint64_t *)(const void *)d;
    uint64_t addr = __atomic_load_n(&half[0], __ATOMIC_RELAXED);
    uint64_t rest = __atomic_load_n(&half[1], __ATOMIC_RELAXED);
    struct xdp_desc snapshot;

    snapshot.addr = addr;
    __builtin_memcpy(&snapshot.len, &rest, sizeof(rest)); /* len and options, in memory's order */
    return snapshot;
}

/* Consumer: done reading the next `n` descriptors, but not yet with what they name. */
static inline void hs_ring_advance(struct hs_ring *r, uint32_t n) {
    r->own += n;
}

/* Consumer: give every slot that was advanced over back to the producer. */
static inline void hs_ring_release(struct hs_ring *r) {
    if (r->published == r->own)
        return;
    r->published = r->own;
    atomic_store_explicit(&r->shared->consumer, r->own, memory_order_release);
}

#endif
