// SPDX-License-Identifier: Apache-2.0
/* The reader of a capture's records: libbpf's perf buffer, and a memory of fixed size behind it. */
#define _GNU_SOURCE
#include "sight/take.h"

#include "flow/parse.h"
#include "flow/view.h"
#include "ring/umem.h"
#include "sight/sight.h"
#include "switch/layout.h"
#include "switch/verdict.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct hs_taker {
    struct perf_buffer *buffer;
    uint8_t *bytes;
    size_t room, used;
    size_t next; /* the buffer to begin with */
    int full;    /* a record found no room */
    uint64_t lost;
};

/* What the kernel writes into a buffer (perf_event_open(2), PERF_RECORD_SAMPLE with
 * PERF_SAMPLE_RAW; PERF_RECORD_LOST). */
struct raw {
    struct perf_event_header header;
    uint32_t size;
    uint8_t data[];
};

struct gone {
    struct perf_event_header header;
    uint64_t id, count;
};

static enum bpf_perf_event_ret sample(struct hs_taker *taker, const uint8_t *data, uint32_t size) {
    size_t whole = sizeof(size) + ((size + 3u) & ~3u);

    if (whole > taker->room - taker->used) {
        taker->full = 1;
        return LIBBPF_PERF_EVENT_DONE; /* the event stays where it is */
    }
    memcpy(taker->bytes + taker->used, &size, sizeof(size));
    memcpy(taker->bytes + taker->used + sizeof(size), data, size);
    taker->used += whole;
    return LIBBPF_PERF_EVENT_CONT;
}

static enum bpf_perf_event_ret event(void *context, int cpu, struct perf_event_header *header) {
    struct hs_taker *taker = context;
    const void *at = header;

    (void)cpu;
    if (header->type == PERF_RECORD_SAMPLE) {
        const struct raw *raw = at;

        if (header->size < sizeof(*raw) || raw->size > header->size - sizeof(*raw))
            return LIBBPF_PERF_EVENT_ERROR;
        return sample(taker, raw->data, raw->size);
    } else if (header->type == PERF_RECORD_LOST) {
        const struct gone *gone = at;

        taker->lost += gone->count;
    }
    return LIBBPF_PERF_EVENT_CONT;
}

struct hs_taker *hs_taker_open(int map_fd, size_t pages, size_t room) {
    struct hs_taker *taker = calloc(1, sizeof(*taker));
    /* A packet wakes nobody: on its way it would cost ten times what it costs to be seen. */
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof(attr),
        .config = PERF_COUNT_SW_BPF_OUTPUT,
        .sample_type = PERF_SAMPLE_RAW,
        .sample_period = 1,
        .watermark = 1,
        .wakeup_watermark = (uint32_t)(pages * (size_t)sysconf(_SC_PAGESIZE) / HS_TAKE_WAKES),
    };
    int saved;

    if (!taker)
        return NULL;
    taker->room = room;
    taker->bytes = malloc(room);
    if (taker->bytes)
        taker->buffer = perf_buffer__new_raw(map_fd, pages, &attr, event, taker, NULL);
    if (taker->buffer)
        return taker;
    saved = errno;
    free(taker->bytes);
    free(taker);
    errno = saved;
    return NULL;
}

int64_t hs_taker_take(struct hs_taker *taker, int ms) {
    const size_t buffers = perf_buffer__buffer_cnt(taker->buffer);
    struct pollfd some = {.fd = perf_buffer__epoll_fd(taker->buffer), .events = POLLIN};
    size_t i;

    taker->used = 0;
    if (!taker->full && poll(&some, 1, ms) < 0 && errno != EINTR)
        return -errno;
    taker->full = 0;
    for (i = 0; i < buffers && !taker->full; i++) { /* also what has woken nobody */
        const size_t which = (taker->next + i) % buffers;
        const int said = perf_buffer__consume_buffer(taker->buffer, which);

        if (said < 0)
            return said;
        if (taker->full)
            taker->next = which;
    }
    return (int64_t)taker->used;
}

size_t hs_tap_size(void) {
    return sizeof(struct hs_tap);
}

int hs_tap_open(int fd, struct hs_tap **tap) {
    uint8_t *at;
    const int ret = hs_region_map(fd, sizeof(**tap), &at);

    if (ret == 0)
        *tap = (struct hs_tap *)(void *)at;
    return ret;
}

void hs_tap_close(struct hs_tap *tap) {
    hs_region_unmap((uint8_t *)tap, sizeof(*tap));
}

void hs_tap_empty(struct hs_tap *tap) {
    hs_tap_look(tap, 0);
    (void)madvise(tap->data + 4096 - offsetof(struct hs_tap, data), HS_TAP_BYTES - 4096,
                  MADV_REMOVE);
}

/* What a port says, as far as it can be true. Returns whether it can. */
static int sight_of(const struct hs_tap_record *said, const uint8_t *frame, uint32_t taken,
                    uint32_t vm, struct hs_sight *sight) {
    *sight = (struct hs_sight){
        .time = said->time,
        .verdict = hs_verdict(said->epoch, 0, 0, said->to),
        .key.vm = vm,
        .length = said->length,
        .taken = taken,
        .route = HS_NO_ROUTE,
        .to = said->to,
        .place = said->end == HS_TAP_SENT ? HS_RING : HS_UNSENT,
        .reason = said->end,
    };
    if (hs_flow_parse(frame, taken, &sight->key.tuple) < 0)
        memset(&sight->key.tuple, 0, sizeof(sight->key.tuple));
    return said->end >= HS_TAP_SENT && said->end < HS_TAP_NOTHING && said->to <= HS_VM_MAX;
}

int64_t hs_taker_tap(struct hs_taker *taker, const struct hs_tap *tap, struct hs_tap_reader *reader,
                     uint32_t vm, uint32_t snap) {
    const uint64_t end = reader->tail + HS_TAP_BYTES; /* or one that writes all the time holds us */
    struct hs_tap_record record;
    struct hs_sight sight;

    while (taker->room - taker->used >= sizeof(uint32_t) + sizeof(sight) + HS_TAP_MOST &&
           reader->tail < end) {
        uint8_t *at = taker->bytes + taker->used, *frame = at + sizeof(uint32_t) + sizeof(sight);
        const int64_t taken = hs_tap_next(tap, reader, &record, frame, snap);
        uint32_t size;

        if (taken < 0)
            break;
        if (!sight_of(&record, frame, (uint32_t)taken, vm, &sight)) {
            reader->lost++;
            continue;
        }
        size = (uint32_t)sizeof(sight) + (uint32_t)taken;
        memcpy(at, &size, sizeof(size));
        memcpy(at + sizeof(size), &sight, sizeof(sight));
        taker->used += sizeof(size) + ((size + 3u) & ~3u);
    }
    return (int64_t)taker->used;
}

const uint8_t *hs_taker_bytes(const struct hs_taker *taker) {
    return taker->bytes;
}

int hs_sight_about(const uint8_t *frame, uint32_t len, struct hs_tuple *about) {
    struct hs_view view;

    if (hs_view_parse(frame, len, &view) < 0 || !view.inner.family)
        return 0;
    memset(about, 0, sizeof(*about));
    hs_tuple_turn(&view.inner, about);
    return 1;
}

uint64_t hs_taker_lost(const struct hs_taker *taker) {
    return taker->lost;
}

void hs_taker_close(struct hs_taker *taker) {
    perf_buffer__free(taker->buffer);
    free(taker->bytes);
    free(taker);
}
