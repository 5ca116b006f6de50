// SPDX-License-Identifier: Apache-2.0
/* A tap: what is told is read, in order and whole, or counted as lost; whatever stands in it, a
 * reader stays inside. */
#include "check.h"
#include "sight/tap.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FRAME 1500u

static struct hs_tap *tap;
static uint8_t frame[HS_TAP_MOST], copy[HS_TAP_MOST];

/* Tell of `n` packets of `length` bytes, each full of its number. */
static void tell(uint32_t n, uint32_t length) {
    struct hs_tap_burst burst = hs_tap_begin(tap);

    while (n--) {
        const struct hs_tap_record record = {.to = 7, .end = HS_TAP_SENT, .length = length};

        memset(frame, (int)(burst.count & 0xff), length);
        CHECK(hs_tap_add(&burst, &record, frame) != NULL);
    }
    hs_tap_publish(&burst);
}

/* Read one; whether there was one. */
static int read_one(struct hs_tap_reader *reader, uint32_t length) {
    struct hs_tap_record record;
    const int64_t taken = hs_tap_next(tap, reader, &record, copy, FRAME);

    if (taken < 0)
        return 0;
    CHECK(taken == length && record.length == length && record.to == 7);
    CHECK(length == 0 || (copy[0] == (record.number & 0xff) && copy[length - 1] == copy[0]));
    return 1;
}

static void test_in_order_round_and_round(void) {
    struct hs_tap_reader reader;
    uint32_t seen = 0;

    hs_tap_start(tap, &reader);
    for (uint32_t i = 0; i < 20000; i++) { /* more than three times around */
        const uint32_t length = i * 37 % FRAME;

        tell(1, length);
        seen += (uint32_t)read_one(&reader, length);
    }
    CHECK(seen == 20000);
    CHECK(hs_tap_lost(tap, &reader) == 0);
}

static void test_what_is_written_over_is_counted(void) {
    struct hs_tap_reader reader;
    uint32_t seen = 0;

    hs_tap_start(tap, &reader);
    for (uint32_t i = 0; i < 300; i++)
        tell(50, FRAME);
    CHECK(!read_one(&reader, FRAME)); /* it looks for where it can go on */
    CHECK(hs_tap_lost(tap, &reader) == 300u * 50);
    tell(3, 60);
    while (read_one(&reader, 60))
        seen++;
    CHECK(seen == 3);
    CHECK(hs_tap_lost(tap, &reader) == 300u * 50);
}

static void test_a_reader_that_stops(void) {
    struct hs_tap_reader reader;

    hs_tap_start(tap, &reader);
    tell(1, FRAME);
    tell(1, FRAME);
    hs_tap_stop(tap, &reader);
    tell(1, FRAME);
    CHECK(read_one(&reader, FRAME));
    CHECK(read_one(&reader, FRAME));
    CHECK(!read_one(&reader, FRAME));
    hs_tap_start(tap, &reader);
    atomic_store(&tap->head, reader.tail + 3 * (uint64_t)HS_TAP_BYTES);
    hs_tap_stop(tap, &reader); /* a writer that says what cannot be */
    CHECK(reader.end == reader.tail + HS_TAP_BYTES);
}

static void test_what_is_not_published_is_not_seen(void) {
    struct hs_tap_record record = {.to = 7, .end = HS_TAP_SENT, .length = 60}, *made;
    struct hs_tap_burst burst = hs_tap_begin(tap);
    struct hs_tap_reader reader;

    hs_tap_start(tap, &reader);
    made = hs_tap_add(&burst, &record, frame);
    CHECK(made != NULL);
    CHECK(hs_tap_next(tap, &reader, &record, copy, FRAME) == -EAGAIN);
    made->end = HS_TAP_FULL_RING;
    hs_tap_publish(&burst);
    CHECK(hs_tap_next(tap, &reader, &record, copy, 14) == 14);
    CHECK(record.end == HS_TAP_FULL_RING && record.length == 60);
    record.length = HS_TAP_MOST;
    burst = hs_tap_begin(tap);
    CHECK(hs_tap_add(&burst, &record, frame) == NULL);
}

static void test_only_while_somebody_looks(void) {
    hs_tap_look(tap, 100);
    CHECK(hs_tap_wanted(tap, 99));
    CHECK(!hs_tap_wanted(tap, 100));
    CHECK(!hs_tap_wanted(NULL, 99));
}

/* Values that are near what is allowed, and any others. */
static uint32_t odd(void) {
    static const uint32_t near[] = {0, 8, 32, 40, 1500, 1528, 1536, HS_TAP_MOST, 0xffffffff};

    return rand() % 2 ? near[(unsigned)rand() % (sizeof(near) / sizeof(*near))] : (uint32_t)rand();
}

static void test_whatever_stands_in_it(void) {
    struct hs_tap_reader reader;
    struct hs_tap_record record;

    srand(1);
    hs_tap_start(tap, &reader);
    for (uint32_t i = 0; i < 300000; i++) {
        const uint64_t at = reader.tail & (HS_TAP_BYTES - 1) & ~UINT64_C(7);
        struct hs_tap_record said = {.size = odd() & ~7u,
                                     .to = (uint16_t)rand(),
                                     .end = (uint16_t)(rand() % 8),
                                     .number = odd(),
                                     .length = odd()};

        if (HS_TAP_BYTES - at >= sizeof(said))
            memcpy(tap->data + at, &said, sizeof(said));
        if (rand() % 4 == 0)
            atomic_store(&tap->head, reader.tail + odd());
        if (rand() % 8 == 0)
            atomic_store(&tap->reserve, reader.tail + odd());
        if (rand() % 1000 == 0)
            atomic_store(&tap->head, (uint64_t)rand() << 32);
        CHECK(hs_tap_next(tap, &reader, &record, copy, FRAME) <= FRAME);
    }
}

#ifndef __SANITIZE_THREAD__ /* copies that may be torn are the point */
static void *write_all_the_time(void *stop) {
    while (!atomic_load((_Atomic int *)stop))
        tell(8, FRAME);
    return NULL;
}

/* Two threads: what is read is whole, or counted. */
static void test_a_writer_that_does_not_wait(void) {
    struct hs_tap_reader reader;
    _Atomic int stop = 0;
    uint32_t seen = 0;
    pthread_t writer;

    hs_tap_start(tap, &reader);
    CHECK(pthread_create(&writer, NULL, write_all_the_time, &stop) == 0);
    while (seen < 20000)
        seen += (uint32_t)read_one(&reader, FRAME);
    atomic_store(&stop, 1);
    pthread_join(writer, NULL);
    while (reader.tail != atomic_load(&tap->head))
        seen += (uint32_t)read_one(&reader, FRAME);
    CHECK((uint32_t)(seen + hs_tap_lost(tap, &reader)) == atomic_load(&tap->count));
}
#endif

int main(void) {
    void (*const tests[])(void) = {
        test_in_order_round_and_round,    test_what_is_written_over_is_counted,
        test_a_reader_that_stops,         test_what_is_not_published_is_not_seen,
        test_only_while_somebody_looks,   test_whatever_stands_in_it,
#ifndef __SANITIZE_THREAD__
        test_a_writer_that_does_not_wait,
#endif
    };

    for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
        tap = aligned_alloc(128, sizeof(*tap));
        CHECK(tap != NULL);
        memset(tap, 0, sizeof(*tap));
        hs_tap_init(tap);
        tests[i]();
        free(tap);
    }
    return 0;
}
