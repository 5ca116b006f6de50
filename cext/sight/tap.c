// SPDX-License-Identifier: Apache-2.0
/* See sight/tap.h. This file: the port's and the reader's side of the region. */
#include "sight/tap.h"

#include <errno.h>
#include <string.h>

#define MASK (HS_TAP_BYTES - 1u)
#ifdef __SANITIZE_THREAD__ /* which gcc has no fences for; its tests have one thread */
#define FENCE(order) ((void)0)
#else
#define FENCE(order) atomic_thread_fence(order)
#endif
#define SHORT 8u /* bytes of a record that is HS_TAP_NOTHING, at least */

void hs_tap_init(struct hs_tap *tap) {
    tap->magic = HS_TAP_MAGIC;
    tap->version = HS_TAP_VERSION;
}

struct hs_tap_burst hs_tap_begin(struct hs_tap *tap) {
    return (struct hs_tap_burst){
        .tap = tap,
        .head = atomic_load_explicit(&tap->head, memory_order_relaxed) & ~UINT64_C(7),
        .count = atomic_load_explicit(&tap->count, memory_order_relaxed),
    };
}

/* `size` bytes at the head are about to be written. */
static uint8_t *reserve(struct hs_tap_burst *burst, uint32_t size) {
    uint8_t *at = burst->tap->data + (burst->head & MASK);

    burst->head += size;
    atomic_store_explicit(&burst->tap->reserve, burst->head, memory_order_relaxed);
    /* Pairs with the fence in hs_tap_next: who has copied any of our writes sees it. */
    FENCE(memory_order_release);
    return at;
}

struct hs_tap_record *hs_tap_add(struct hs_tap_burst *burst, const struct hs_tap_record *record,
                                 const uint8_t *frame) {
    const uint32_t left = HS_TAP_BYTES - (uint32_t)(burst->head & MASK);
    struct hs_tap_record *made;
    uint32_t size;

    if (record->length > HS_TAP_MOST - sizeof(*record))
        return NULL;
    size = ((uint32_t)sizeof(*record) + record->length + 7u) & ~7u;
    if (size > left) {
        const struct hs_tap_record rest = {.size = left, .end = HS_TAP_NOTHING};

        memcpy(reserve(burst, left), &rest, SHORT);
    }
    made = (struct hs_tap_record *)(void *)reserve(burst, size);
    *made = *record;
    made->size = size;
    made->number = burst->count++;
    memcpy(made + 1, frame, record->length);
    return made;
}

void hs_tap_publish(const struct hs_tap_burst *burst) {
    atomic_store_explicit(&burst->tap->count, burst->count, memory_order_relaxed);
    atomic_store_explicit(&burst->tap->head, burst->head, memory_order_release);
}

void hs_tap_look(struct hs_tap *tap, uint64_t until) {
    atomic_store_explicit(&tap->until, until, memory_order_release);
}

void hs_tap_start(const struct hs_tap *tap, struct hs_tap_reader *reader) {
    memset(reader, 0, sizeof(*reader));
    reader->tail = atomic_load_explicit(&tap->head, memory_order_acquire) & ~UINT64_C(7);
    reader->number = atomic_load_explicit(&tap->count, memory_order_relaxed);
    reader->end = UINT64_MAX;
}

void hs_tap_stop(const struct hs_tap *tap, struct hs_tap_reader *reader) {
    const uint64_t head = atomic_load_explicit(&tap->head, memory_order_acquire);

    /* More than there can be is written over. */
    reader->end = head - reader->tail > HS_TAP_BYTES ? reader->tail + HS_TAP_BYTES : head;
}

uint64_t hs_tap_lost(const struct hs_tap *tap, const struct hs_tap_reader *reader) {
    const uint64_t head = atomic_load_explicit(&tap->head, memory_order_acquire) & ~UINT64_C(7);
    const uint32_t count = atomic_load_explicit(&tap->count, memory_order_relaxed);

    return reader->lost + (reader->tail == head ? (uint32_t)(count - reader->number) : 0);
}

/* Go on behind what cannot be read any more, or makes no sense. */
static int64_t skip(struct hs_tap_reader *reader, uint64_t head) {
    reader->tail = head;
    return -EAGAIN;
}

int64_t hs_tap_next(const struct hs_tap *tap, struct hs_tap_reader *reader,
                    struct hs_tap_record *record, uint8_t *frame, uint32_t room) {
    const uint64_t head = atomic_load_explicit(&tap->head, memory_order_acquire) & ~UINT64_C(7);
    uint64_t waiting = head - reader->tail;
    uint32_t at = (uint32_t)(reader->tail & MASK), left = HS_TAP_BYTES - at, taken;

    if (reader->tail >= reader->end)
        return -EAGAIN;
    if (waiting > HS_TAP_BYTES)
        return skip(reader, head);
    if (waiting && left >= SHORT) {
        memcpy(record, tap->data + at, SHORT);
        if (record->end == HS_TAP_NOTHING && record->size == left && left <= waiting) {
            reader->tail += left;
            waiting -= left;
            left = HS_TAP_BYTES;
            at = 0;
        }
    }
    if (waiting == 0)
        return -EAGAIN;
    if (waiting < sizeof(*record) || left < sizeof(*record))
        return skip(reader, head);
    memcpy(record, tap->data + at, sizeof(*record));
    if (record->length > HS_TAP_MOST || record->size < sizeof(*record) + record->length ||
        record->size > waiting || record->size > left || record->size & 7u)
        return skip(reader, head);
    taken = record->length < room ? record->length : room;
    memcpy(frame, tap->data + at + sizeof(*record), taken);
    /* Pairs with the fence in `reserve`. */
    FENCE(memory_order_acquire);
    if (atomic_load_explicit(&tap->reserve, memory_order_relaxed) - reader->tail > HS_TAP_BYTES)
        return skip(reader, head);
    reader->tail += record->size;
    reader->lost += (uint32_t)(record->number - reader->number);
    reader->number = record->number + 1;
    return taken;
}
