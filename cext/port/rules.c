// SPDX-License-Identifier: Apache-2.0
/* See port/rules.h. This file: the writer's and the reader's side of the table. */
#include "port/rules.h"

#include <errno.h>
#include <string.h>

uint64_t hs_rules_bytes(uint32_t entries) {
    if (entries < HS_RULES_PROBE || entries > 1u << 20 || (entries & (entries - 1)))
        return 0;
    return sizeof(struct hs_rules) + (uint64_t)entries * sizeof(struct hs_rules_entry);
}

void hs_rules_init(struct hs_rules *rules, uint32_t entries) {
    rules->magic = HS_RULES_MAGIC;
    rules->version = HS_RULES_VERSION;
    rules->entries = entries;
}

void hs_rules_set_epoch(struct hs_rules *rules, uint32_t epoch) {
    atomic_store_explicit(&rules->epoch, epoch, memory_order_release);
    atomic_fetch_add_explicit(&rules->withdrawn, 1, memory_order_release);
}

static int same(const struct hs_rules_entry *e, const uint64_t words[5]) {
    for (int i = 0; i < 5; i++)
        if (atomic_load_explicit(&e->words[i], memory_order_acquire) != words[i])
            return 0;
    return 1;
}

static void write_entry(struct hs_rules_entry *e, const uint64_t words[5], uint32_t to,
                        uint32_t epoch) {
    uint32_t sequence = atomic_load_explicit(&e->sequence, memory_order_relaxed);

    /* Pairs with the reader's loads of the fields: whoever sees one of ours sees the odd number. */
    atomic_store_explicit(&e->sequence, sequence + 1, memory_order_relaxed);
    for (int i = 0; i < 5; i++)
        atomic_store_explicit(&e->words[i], words[i], memory_order_release);
    atomic_store_explicit(&e->to, to, memory_order_release);
    atomic_store_explicit(&e->epoch, epoch, memory_order_release);
    atomic_store_explicit(&e->sequence, sequence + 2, memory_order_release);
}

int hs_rules_put(struct hs_rules *rules, const struct hs_tuple *tuple, uint32_t to,
                 uint32_t epoch) {
    const uint32_t current = atomic_load_explicit(&rules->epoch, memory_order_relaxed);
    struct hs_rules_entry *free_entry = NULL;
    uint64_t words[5];
    uint32_t start;
    int replaced = 0;

    memcpy(words, tuple, sizeof(words));
    start = hs_tuple_hash(tuple);
    for (uint32_t i = 0; i < HS_RULES_PROBE; i++) {
        struct hs_rules_entry *e = &rules->entry[(start + i) & (rules->entries - 1)];

        if (same(e, words)) {
            free_entry = e;
            replaced = 1;
            break;
        }
        if (!free_entry && atomic_load_explicit(&e->epoch, memory_order_relaxed) != current)
            free_entry = e;
    }
    if (!free_entry)
        return -ENOSPC;
    if (replaced && atomic_load_explicit(&free_entry->to, memory_order_relaxed) == to &&
        atomic_load_explicit(&free_entry->epoch, memory_order_relaxed) == epoch)
        return 0;
    write_entry(free_entry, words, to, epoch);
    if (replaced)
        atomic_fetch_add_explicit(&rules->withdrawn, 1, memory_order_release);
    return 0;
}

void hs_rules_remove(struct hs_rules *rules, const struct hs_tuple *tuple) {
    const uint64_t nothing[5] = {0};
    uint64_t words[5];
    uint32_t start;

    memcpy(words, tuple, sizeof(words));
    start = hs_tuple_hash(tuple);
    for (uint32_t i = 0; i < HS_RULES_PROBE; i++) {
        struct hs_rules_entry *e = &rules->entry[(start + i) & (rules->entries - 1)];

        if (same(e, words))
            write_entry(e, nothing, 0, 0);
    }
    atomic_fetch_add_explicit(&rules->withdrawn, 1, memory_order_release);
}

uint32_t hs_rules_find(const struct hs_rules *rules, uint32_t entries,
                       const struct hs_tuple *tuple) {
    const uint32_t epoch = atomic_load_explicit(&rules->epoch, memory_order_acquire);
    uint64_t words[5];
    uint32_t start;

    if (epoch == 0)
        return 0;
    memcpy(words, tuple, sizeof(words));
    start = hs_tuple_hash(tuple);
    for (uint32_t i = 0; i < HS_RULES_PROBE; i++) {
        const struct hs_rules_entry *e = &rules->entry[(start + i) & (entries - 1)];
        uint32_t sequence = atomic_load_explicit(&e->sequence, memory_order_acquire), to, its;

        if ((sequence & 1) || !same(e, words))
            continue;
        to = atomic_load_explicit(&e->to, memory_order_acquire);
        its = atomic_load_explicit(&e->epoch, memory_order_acquire);
        if (atomic_load_explicit(&e->sequence, memory_order_relaxed) != sequence)
            return 0;
        return its == epoch ? to : 0;
    }
    return 0;
}
