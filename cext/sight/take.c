/* The reader of a capture's records: libbpf's perf buffer, and a memory of fixed size behind it. */
#include "sight/take.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct hs_taker {
    struct perf_buffer *buffer;
    uint8_t *bytes;
    size_t room, used;
    uint64_t lost;
};

static void sample(void *context, int cpu, void *data, __u32 size) {
    struct hs_taker *taker = context;
    size_t whole = sizeof(size) + ((size + 3u) & ~3u);

    (void)cpu;
    if (whole > taker->room - taker->used) {
        taker->lost++;
        return;
    }
    memcpy(taker->bytes + taker->used, &size, sizeof(size));
    memcpy(taker->bytes + taker->used + sizeof(size), data, size);
    taker->used += whole;
}

static void lost(void *context, int cpu, __u64 count) {
    struct hs_taker *taker = context;

    (void)cpu;
    taker->lost += count;
}

struct hs_taker *hs_taker_open(int map_fd, size_t pages, size_t room) {
    struct hs_taker *taker = calloc(1, sizeof(*taker));
    int saved;

    if (!taker)
        return NULL;
    taker->room = room;
    taker->bytes = malloc(room);
    if (taker->bytes)
        taker->buffer = perf_buffer__new(map_fd, pages, sample, lost, taker, NULL);
    if (taker->buffer)
        return taker;
    saved = errno;
    free(taker->bytes);
    free(taker);
    errno = saved;
    return NULL;
}

int64_t hs_taker_take(struct hs_taker *taker, int ms) {
    int said;

    taker->used = 0;
    said = perf_buffer__poll(taker->buffer, ms);
    if (said < 0 && said != -EINTR)
        return said;
    return (int64_t)taker->used;
}

const uint8_t *hs_taker_bytes(const struct hs_taker *taker) {
    return taker->bytes;
}

uint64_t hs_taker_lost(const struct hs_taker *taker) {
    return taker->lost;
}

void hs_taker_close(struct hs_taker *taker) {
    perf_buffer__free(taker->buffer);
    free(taker->bytes);
    free(taker);
}
