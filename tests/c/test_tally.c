// SPDX-License-Identifier: Apache-2.0
/* The tally: a reader finds whole rows of the right flow, and counts that only grow, while a writer
 * counts and gives places to other flows; a hostile writer's table is read without harm. */
#include "port/tally.h"
#include "check.h"

#include <pthread.h>
#include <string.h>

#define ENTRIES 64
#define FLOWS 40

static struct hs_tally *tally;
static _Atomic int stop;

static struct hs_tuple flow(uint32_t n) {
    struct hs_tuple t = {.family = 4, .proto = 17, .sport = (uint16_t)n, .dport = 7};

    memcpy(t.src, &n, 4);
    return t;
}

/* Each flow n has a peer of 1000 + n, and counts n + 1 bytes for each packet. */
static void *count(void *arg) {
    uint64_t random = 3, now = 1;

    for (uint32_t i = 0; i < 400000; i++) {
        uint32_t n = (uint32_t)(draw(&random) % FLOWS);
        struct hs_tuple t = flow(n);
        struct hs_tally_entry *e;

        now += HS_TALLY_IDLE / 1000; /* so that some are silent for long enough to go */
        e = hs_tally_open(tally, ENTRIES, &t, 1000 + n, now);
        if (e == &tally->other)
            continue;
        atomic_store_explicit(&e->last, now, memory_order_release);
        hs_tally_add(e, HS_T_SENT, 1);
        hs_tally_add(e, HS_T_RING_BYTES, n + 1);
        hs_tally_add(e, HS_T_RING_PACKETS, 1);
    }
    atomic_store(&stop, 1);
    return arg;
}

static void check_row(const struct hs_tally_row *row) {
    uint32_t n;
    struct hs_tuple t;

    memcpy(&n, row->tuple.src, 4);
    t = flow(n);
    CHECK(n < FLOWS && row->peer == 1000 + n && memcmp(&t, &row->tuple, sizeof(t)) == 0);
    CHECK(row->count[HS_T_SENT] >= row->count[HS_T_RING_PACKETS]);
    CHECK(row->count[HS_T_RING_BYTES] % (n + 1) == 0);
}

static void readers(void) {
    struct hs_tally_row rows[ENTRIES];
    uint64_t random = 5, found = 0;
    pthread_t writer;

    CHECK(pthread_create(&writer, NULL, count, NULL) == 0);
    while (!atomic_load(&stop)) {
        uint32_t at = 0, k, n = (uint32_t)(draw(&random) % FLOWS);
        struct hs_tuple t = flow(n);

        k = hs_tally_read(tally, ENTRIES, &at, rows, ENTRIES);
        CHECK(at == ENTRIES || k == ENTRIES);
        for (uint32_t i = 0; i < k; i++)
            check_row(&rows[i]);
        if (hs_tally_find(tally, ENTRIES, &t, 1000 + n, rows))
            check_row(rows);
        CHECK(!hs_tally_find(tally, ENTRIES, &t, 1, rows));
        found += k;
    }
    CHECK(pthread_join(writer, NULL) == 0);
    CHECK(found > 0);
}

static void *vandalise(void *arg) {
    _Atomic uint64_t *words = (_Atomic uint64_t *)(void *)tally;
    uint64_t random = 8;

    while (!atomic_load(&stop))
        atomic_store_explicit(&words[draw(&random) % (hs_tally_bytes(ENTRIES) / 8)], draw(&random),
                              memory_order_relaxed);
    return arg;
}

static void hostile(void) {
    struct hs_tally_row rows[ENTRIES], other;
    pthread_t writer;

    atomic_store(&stop, 0);
    CHECK(pthread_create(&writer, NULL, vandalise, NULL) == 0);
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t at = 0, rounds = 0;
        struct hs_tuple t = flow(i % FLOWS);

        while (at < ENTRIES) {
            CHECK(hs_tally_read(tally, ENTRIES, &at, rows, 7) <= 7);
            CHECK(rounds++ <= ENTRIES);
        }
        hs_tally_find(tally, ENTRIES, &t, 0, rows);
        hs_tally_other(tally, &other);
    }
    atomic_store(&stop, 1);
    CHECK(pthread_join(writer, NULL) == 0);
}

int main(void) {
    CHECK(hs_tally_bytes(ENTRIES) > 0 && hs_tally_bytes(63) == 0 && hs_tally_bytes(8) == 0);
    tally = aligned_alloc(128, (hs_tally_bytes(ENTRIES) + 127) & ~UINT64_C(127));
    CHECK(tally);
    memset(tally, 0, hs_tally_bytes(ENTRIES));
    hs_tally_init(tally, ENTRIES);
    readers();
    hostile();
    free(tally);
    return 0;
}
