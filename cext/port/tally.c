// SPDX-License-Identifier: Apache-2.0
/* See port/tally.h. This file: the port's and the daemon's side of the table. */
#include "port/tally.h"

#include <string.h>

uint64_t hs_tally_bytes(uint32_t entries) {
    if (entries < HS_TALLY_PROBE || entries > 1u << 20 || (entries & (entries - 1)))
        return 0;
    return sizeof(struct hs_tally) + (uint64_t)entries * sizeof(struct hs_tally_entry);
}

void hs_tally_init(struct hs_tally *tally, uint32_t entries) {
    tally->magic = HS_TALLY_MAGIC;
    tally->version = HS_TALLY_VERSION;
    tally->entries = entries;
}

static void make(struct hs_tally_entry *e, const uint64_t words[5], uint32_t peer, uint64_t now) {
    uint32_t sequence = atomic_load_explicit(&e->sequence, memory_order_relaxed) | 1;

    /* Pairs with the reader's loads of the fields: whoever sees one of ours sees the odd number. */
    atomic_store_explicit(&e->sequence, sequence, memory_order_relaxed);
    for (int i = 0; i < 5; i++)
        atomic_store_explicit(&e->words[i], words[i], memory_order_release);
    atomic_store_explicit(&e->peer, peer, memory_order_release);
    atomic_store_explicit(&e->last, now, memory_order_release);
    for (int i = 0; i < HS_T_COUNTS; i++)
        atomic_store_explicit(&e->count[i], 0, memory_order_release);
    sequence++;
    atomic_store_explicit(&e->sequence, sequence ? sequence : 2, memory_order_release);
}

static int holds(const struct hs_tally_entry *e, const uint64_t words[5], uint32_t peer) {
    if (atomic_load_explicit(&e->peer, memory_order_acquire) != peer)
        return 0;
    for (int i = 0; i < 5; i++)
        if (atomic_load_explicit(&e->words[i], memory_order_acquire) != words[i])
            return 0;
    return 1;
}

struct hs_tally_entry *hs_tally_open(struct hs_tally *tally, uint32_t entries,
                                     const struct hs_tuple *tuple, uint32_t peer, uint64_t now) {
    struct hs_tally_entry *place = NULL;
    uint64_t words[5];
    uint32_t start;

    memcpy(words, tuple, sizeof(words));
    start = hs_tuple_hash(tuple) + peer;
    for (uint32_t i = 0; i < HS_TALLY_PROBE; i++) {
        struct hs_tally_entry *e = &tally->entry[(start + i) & (entries - 1)];
        uint32_t sequence = atomic_load_explicit(&e->sequence, memory_order_relaxed);

        if (sequence && !(sequence & 1) && holds(e, words, peer))
            return e;
        if (!place && (sequence == 0 || (sequence & 1) || /* its maker died over it */
                       atomic_load_explicit(&e->last, memory_order_relaxed) + HS_TALLY_IDLE < now))
            place = e;
    }
    if (!place)
        return &tally->other;
    make(place, words, peer, now);
    return place;
}

/* 1: the row is a whole one. */
static int snapshot(const struct hs_tally_entry *e, struct hs_tally_row *row) {
    uint32_t sequence = atomic_load_explicit(&e->sequence, memory_order_acquire);
    uint64_t words[5];

    if (sequence == 0 || (sequence & 1))
        return 0;
    for (int i = HS_T_COUNTS - 1; i >= 0; i--) /* `sent` last: never less than its parts */
        row->count[i] = atomic_load_explicit(&e->count[i], memory_order_acquire);
    row->peer = atomic_load_explicit(&e->peer, memory_order_acquire);
    row->last = atomic_load_explicit(&e->last, memory_order_acquire);
    for (int i = 0; i < 5; i++)
        words[i] = atomic_load_explicit(&e->words[i], memory_order_acquire);
    memcpy(&row->tuple, words, sizeof(words));
    row->sequence = sequence;
    return atomic_load_explicit(&e->sequence, memory_order_relaxed) == sequence;
}

int hs_tally_find(const struct hs_tally *tally, uint32_t entries, const struct hs_tuple *tuple,
                  uint32_t peer, struct hs_tally_row *row) {
    uint64_t words[5];
    uint32_t start;

    memcpy(words, tuple, sizeof(words));
    start = hs_tuple_hash(tuple) + peer;
    for (uint32_t i = 0; i < HS_TALLY_PROBE; i++) {
        const struct hs_tally_entry *e = &tally->entry[(start + i) & (entries - 1)];

        if (holds(e, words, peer) && snapshot(e, row) && row->peer == peer &&
            memcmp(&row->tuple, tuple, sizeof(*tuple)) == 0)
            return 1;
    }
    return 0;
}

uint32_t hs_tally_read(const struct hs_tally *tally, uint32_t entries, uint32_t *at,
                       struct hs_tally_row *rows, uint32_t most) {
    uint32_t n = 0;

    for (; *at < entries && n < most; ++*at)
        n += (uint32_t)snapshot(&tally->entry[*at], &rows[n]);
    return n;
}

void hs_tally_other(const struct hs_tally *tally, struct hs_tally_row *row) {
    memset(row, 0, sizeof(*row));
    for (int i = HS_T_COUNTS - 1; i >= 0; i--)
        row->count[i] = atomic_load_explicit(&tally->other.count[i], memory_order_acquire);
}
