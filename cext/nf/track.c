// SPDX-License-Identifier: Apache-2.0
/* See nf/track.h. This file: the table in its memfd, its sets, and how long a connection may be
 * silent. */
#define _GNU_SOURCE
#include "nf/track.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t bytes_of(uint32_t entries) {
    return sizeof(struct hs_track_kept) + (uint64_t)entries * sizeof(struct hs_tracked);
}

static uint64_t hashed(const struct hs_track *t, const uint64_t *words, int n) {
    uint64_t h = t->seed;

    for (int i = 0; i < n; i++) {
        h = (h ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return h;
}

uint32_t hs_track_source(const struct hs_track *t, const uint8_t address[16]) {
    uint64_t words[2];

    memcpy(words, address, sizeof(words));
    return (uint32_t)(hashed(t, words, 2) >> 32) & (HS_TRACK_SOURCES - 1);
}

static uint32_t source_in(const struct hs_track *t, const uint64_t key[5], uint8_t turned) {
    struct hs_tuple tuple;

    memcpy(&tuple, key, sizeof(tuple));
    return hs_track_source(t, turned & HS_TRACK_TURNED ? tuple.dst : tuple.src);
}

static uint32_t source_of(const struct hs_track *t, const struct hs_tracked *e) {
    return source_in(t, e->key, e->turned);
}

int hs_track_open(struct hs_track *t, uint32_t entries, int fd) {
    const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    struct stat st = {0};
    uint64_t size;
    void *at;

    memset(t, 0, sizeof(*t));
    for (t->entries = HS_TRACK_WAYS; t->entries < entries;)
        t->entries *= 2;
    size = bytes_of(t->entries);
    if (fd >= 0 && fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size != 0 && (uint64_t)st.st_size != size)
        return -EPROTO;
    if (fd >= 0 && st.st_size == 0 && ftruncate(fd, (off_t)size) < 0)
        return -errno;
    t->of_source = calloc(HS_TRACK_SOURCES, sizeof(*t->of_source));
    if (!t->of_source)
        return -ENOMEM;
    at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED) {
        const int error = errno;

        hs_track_close(t);
        return -error;
    }
    t->kept = at;
    t->entry = t->kept->entry;
    if (t->kept->magic != HS_TRACK_MAGIC) {
        if (getrandom(&t->kept->seed, sizeof(t->kept->seed), 0) != sizeof(t->kept->seed)) {
            hs_track_close(t);
            return -EIO;
        }
        t->kept->entries = t->entries;
        t->kept->magic = HS_TRACK_MAGIC;
        t->seed = t->kept->seed;
        return 0; /* a look at its entries would have the kernel make memory for them */
    }
    t->seed = t->kept->seed;
    for (uint32_t i = 0; i < t->entries; i++)
        if (t->entry[i].state != HS_FREE)
            t->of_source[source_of(t, &t->entry[i])]++;
    return 0;
}

void hs_track_close(struct hs_track *t) {
    if (t->kept)
        munmap(t->kept, bytes_of(t->entries));
    free(t->of_source);
    memset(t, 0, sizeof(*t));
}

/* The first entry of the set. */
static struct hs_tracked *set_of(const struct hs_track *t, const uint64_t key[5]) {
    const uint32_t at = (uint32_t)(hashed(t, key, 5) >> 32) & (t->entries - 1);

    return &t->entry[at & ~(uint32_t)(HS_TRACK_WAYS - 1)];
}

static uint8_t proto_of(const struct hs_tracked *e) {
    struct hs_tuple tuple;

    memcpy(&tuple, e->key, sizeof(tuple));
    return tuple.proto;
}

int hs_track_over(const struct hs_tracked *e, uint64_t now) {
    const uint8_t proto = proto_of(e);
    uint64_t idle = HS_IDLE_OTHER;

    if (proto == HS_IP_TCP)
        idle = e->state == HS_OPEN ? HS_IDLE_TCP_OPEN : HS_IDLE_TCP;
    else if (proto == HS_IP_UDP)
        idle = HS_IDLE_UDP;
    else if (proto == HS_IP_ICMP || proto == HS_IP_ICMPV6)
        idle = HS_IDLE_ICMP;
    return now - e->last > idle;
}

struct hs_tracked *hs_track_find(struct hs_track *t, const struct hs_tuple *tuple, uint64_t now) {
    struct hs_tracked *e;
    uint64_t key[5];

    memcpy(key, tuple, sizeof(key));
    e = set_of(t, key);
    for (int i = 0; i < HS_TRACK_WAYS; i++, e++)
        if (e->state != HS_FREE && memcmp(e->key, key, sizeof(key)) == 0)
            return hs_track_over(e, now) ? NULL : e;
    return NULL;
}

/* Whether a source that has `mine` may have a place of one that has `theirs`. */
static int is_crowd(const struct hs_track *t, uint32_t theirs, uint32_t mine) {
    return theirs > t->entries / HS_TRACK_CROWD && theirs > 2 * mine + HS_TRACK_FEW;
}

/* Whose place is taken in a full set; NULL: nobody's. */
static struct hs_tracked *gives_way(const struct hs_track *t, struct hs_tracked *set, uint32_t mine,
                                    uint64_t now) {
    struct hs_tracked *crowd = NULL, *waits = NULL;
    uint32_t most = 0;

    for (struct hs_tracked *e = set; e < set + HS_TRACK_WAYS; e++) {
        const uint32_t theirs = t->of_source[source_of(t, e)];

        if (is_crowd(t, theirs, mine) &&
            (theirs > most || (theirs == most && e->state == HS_NEW && crowd->state != HS_NEW))) {
            crowd = e;
            most = theirs;
        }
        if (e->state == HS_NEW && proto_of(e) == HS_IP_TCP && now - e->last > HS_IDLE_SYN &&
            mine <= 2 * theirs + HS_TRACK_FEW && (!waits || e->last < waits->last))
            waits = e;
    }
    return crowd ? crowd : waits;
}

struct hs_tracked *hs_track_room(struct hs_track *t, const struct hs_tuple *tuple, uint8_t turned,
                                 uint64_t now) {
    struct hs_tracked *set, *room = NULL;
    uint64_t key[5];

    memcpy(key, tuple, sizeof(key));
    set = set_of(t, key);
    for (struct hs_tracked *e = set; e < set + HS_TRACK_WAYS; e++) {
        if (e->state != HS_FREE && memcmp(e->key, key, sizeof(key)) == 0)
            return e; /* the same connection, long ago: there must not be two entries */
        if (!room && (e->state == HS_FREE || hs_track_over(e, now)))
            room = e;
    }
    return room ? room : gives_way(t, set, t->of_source[source_in(t, key, turned)], now);
}

void hs_track_free(struct hs_track *t, struct hs_tracked *e) {
    if (e->state == HS_FREE)
        return;
    t->of_source[source_of(t, e)]--;
    e->state = HS_FREE;
}

void hs_track_set(struct hs_track *t, struct hs_tracked *e, const struct hs_tuple *tuple,
                  uint8_t turned, uint64_t now) {
    hs_track_free(t, e);
    atomic_signal_fence(memory_order_seq_cst);
    memset(e, 0, sizeof(*e));
    memcpy(e->key, tuple, sizeof(e->key));
    e->turned = turned;
    e->last = now;
    t->of_source[source_of(t, e)]++;
    atomic_signal_fence(memory_order_seq_cst); /* a kill may come between any two stores */
    e->state = HS_NEW;
}

void hs_track_touch(struct hs_tracked *e, int reply, uint8_t tcp_flags, uint64_t now) {
    e->last = now;
    if (tcp_flags & (HS_FLAG_FIN | HS_FLAG_RST))
        e->state = HS_CLOSING;
    else if (e->state == HS_CLOSING && tcp_flags & HS_FLAG_SYN && !reply)
        e->state = HS_NEW;
    else if (e->state == HS_NEW && reply)
        e->state = HS_OPEN;
}
