// SPDX-License-Identifier: Apache-2.0
/* Rules: what a reader may find, while a writer changes them; and the parser of flows against any
 * bytes, each frame in memory of exactly its size, so that AddressSanitizer sees one byte too far.
 */
#include "flow/parse.h"
#include "port/rules.h"
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define ENTRIES 64
#define FLOWS 32
#define ENOUGH 1000 /* rules found by the reader, so that the two did run side by side */

static struct hs_rules *rules;
static _Atomic int stop, enough;

static struct hs_tuple flow(uint32_t n) {
    struct hs_tuple t = {.family = 4, .proto = 17, .sport = (uint16_t)n};

    memcpy(t.src, &n, 4);
    return t;
}

static void *write_all(void *arg) {
    uint64_t random = 5;

    for (uint32_t epoch = 1; epoch < 3000 || !atomic_load(&enough); epoch++) {
        hs_rules_set_epoch(rules, epoch);
        for (uint32_t i = 0; i < FLOWS; i++) {
            struct hs_tuple t = flow(i);
            if (draw(&random) & 1)
                hs_rules_put(rules, &t, 1000 + i, epoch);
            else
                hs_rules_remove(rules, &t);
        }
    }
    atomic_store(&stop, 1);
    return arg;
}

/* A reader never finds another flow's rule, nor half of one. */
static void readers(void) {
    pthread_t writer;
    uint64_t random = 9, found = 0;

    CHECK(pthread_create(&writer, NULL, write_all, NULL) == 0);
    while (!atomic_load(&stop)) {
        uint32_t n = (uint32_t)(draw(&random) % FLOWS), to;
        struct hs_tuple t = flow(n);

        to = hs_rules_find(rules, ENTRIES, &t);
        CHECK(to == 0 || to == 1000 + n);
        found += to != 0;
        if (found == ENOUGH)
            atomic_store(&enough, 1);
    }
    CHECK(pthread_join(writer, NULL) == 0);
    CHECK(found >= ENOUGH);
}

static void life(void) {
    struct hs_tuple a = flow(1), b = flow(2);
    uint32_t kept = 0;

    CHECK(hs_rules_find(rules, ENTRIES, &a) == 0);
    hs_rules_set_epoch(rules, 7);
    CHECK(hs_rules_put(rules, &a, 3, 7) == 0 && hs_rules_find(rules, ENTRIES, &a) == 3);
    CHECK(hs_rules_find(rules, ENTRIES, &b) == 0);
    CHECK(hs_rules_put(rules, &a, 4, 7) == 0 && hs_rules_find(rules, ENTRIES, &a) == 4);
    hs_rules_set_epoch(rules, 8); /* stale at once */
    CHECK(hs_rules_find(rules, ENTRIES, &a) == 0);
    hs_rules_set_epoch(rules, 7);
    hs_rules_remove(rules, &a);
    CHECK(hs_rules_find(rules, ENTRIES, &a) == 0);
    for (uint32_t n = 0; n < 10 * ENTRIES; n++) { /* more than there is room for */
        struct hs_tuple t = flow(n);
        int ret = hs_rules_put(rules, &t, 1 + n, 7);
        CHECK(ret == 0 || ret == -ENOSPC);
    }
    for (uint32_t n = 0; n < 10 * ENTRIES; n++) {
        struct hs_tuple t = flow(n);
        uint32_t to = hs_rules_find(rules, ENTRIES, &t);
        CHECK(to == 0 || to == 1 + n);
        kept += to != 0;
    }
    CHECK(kept > ENTRIES / 2 && kept <= ENTRIES);
}

static void any_bytes(void) {
    uint64_t random = 1;
    uint32_t flows = 0, repeats = 0;
    int parsed, again;

    for (int n = 0; n < 300000; n++) {
        uint32_t len = (uint32_t)(draw(&random) % 120);
        uint8_t *frame = malloc(len + !len);
        struct hs_flow_look look = {0};
        struct hs_tuple t;

        CHECK(frame && !hs_flow_again(frame, 0, &look));
        for (uint32_t i = 0; i < len; i++)
            frame[i] = (uint8_t)draw(&random);
        if (len > 23) { /* near enough to get further than the ethertype */
            frame[0] &= 0xfe;
            frame[12] = n & 1 ? 0x08 : 0x86;
            frame[13] = n & 1 ? 0x00 : 0xdd;
            frame[14] = (uint8_t)(n & 1 ? 0x40 | (n & 2 ? 5 : frame[14] & 7) : 0x60);
            frame[n & 1 ? 16 : 18] = 0;
            frame[n & 1 ? 20 : 19] &= 0x7f;
            if ((n & 7) == 3) /* no fragment */
                frame[20] = frame[21] = 0;
            frame[n & 1 ? 23 : 20] = (uint8_t[]){1, 6, 17, 58}[frame[5] & 3];
        }
        parsed = hs_flow_parse(frame, len, &t) == 0;
        flows += parsed;
        if (parsed)
            look = hs_flow_look_of(&t);
        /* The short way knows each flow that it is for again ... */
        again = parsed && hs_flow_again(frame, len, &look);
        CHECK(again ==
              (parsed && t.family == 4 && (t.proto == 6 || t.proto == 17) && frame[14] == 0x45));
        repeats += again;
        if (again) { /* ... and takes nothing for it that the long way would not */
            const struct hs_tuple before = t;

            frame[draw(&random) % len] ^= 1u << (draw(&random) & 7);
            again = hs_flow_again(frame, len, &look);
            parsed = hs_flow_parse(frame, len, &t) == 0;
            CHECK(!again || (parsed && hs_tuple_same(&t, &before)));
        }
        free(frame);
    }
    CHECK(flows > 100 && repeats > 100);
}

int main(void) {
    CHECK(hs_rules_bytes(ENTRIES) > 0 && hs_rules_bytes(63) == 0 && hs_rules_bytes(4) == 0);
    rules = aligned_alloc(64, (hs_rules_bytes(ENTRIES) + 63) & ~UINT64_C(63));
    CHECK(rules);
    memset(rules, 0, hs_rules_bytes(ENTRIES));
    hs_rules_init(rules, ENTRIES);
    life();
    memset(rules, 0, hs_rules_bytes(ENTRIES));
    hs_rules_init(rules, ENTRIES);
    readers();
    any_bytes();
    free(rules);
    return 0;
}
