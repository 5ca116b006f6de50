// SPDX-License-Identifier: Apache-2.0
/* See write.h. This file: the table of kinds, by open addressing, and the packets' ids. */
#include "sight/write.h"

#include "flow/tuple.h"
#include "sight/take.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <stdlib.h>
#include <string.h>

enum {
    PACKET = 6, /* Enhanced Packet Block */
    HEAD = 28,  /* of one: type, length, interface, time, captured, length */
    ID = 12,    /* its option epb_packetid */
    TAIL = 4,
    SLOTS = 2 * HS_WRITER_KINDS,
    MASKED = 14 + 40, /* bytes of a frame in which something does not count */
};

/* Of a record all that its story depends on. */
struct kind {
    uint64_t verdict;
    struct hs_key key;
    uint32_t reason;
    uint16_t route, to;
    uint8_t place, reply;
    uint16_t zero;
};
_Static_assert(sizeof(struct kind) == 64, "compared as bytes");

struct slot {
    struct kind kind;
    uint64_t turn; /* 0: kept */
    uint8_t *options;
    uint32_t len;
    int32_t interface;
    uint32_t used;
};

struct hs_writer {
    uint64_t seed[2], turn, counts[HS_WRITER_INTERFACES];
    struct slot *slots, once;
    uint8_t *bytes;
    uint32_t kinds;
};

static uint64_t word(const uint8_t *at) {
    uint64_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

static uint64_t fold(uint64_t a, uint64_t b) {
    const unsigned __int128 product = (unsigned __int128)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* 64 bits of some bytes, by multiplying pieces of 16 that the seed hides (as wyhash does). */
static uint64_t hash(uint64_t state, const uint8_t *at, uint32_t len, const uint64_t seed[2]) {
    uint8_t rest[16] = {0};
    uint32_t left = len;

    for (; left >= 16; at += 16, left -= 16)
        state = fold(word(at) ^ seed[1], word(at + 8) ^ state);
    memcpy(rest, at, left);
    state = fold(word(rest) ^ seed[1], word(rest + 8) ^ state);
    return fold(state ^ len, seed[0] | 1);
}

uint64_t hs_packet_id(const uint8_t *frame, uint32_t len, const uint64_t seed[2]) {
    uint8_t front[MASKED] = {0};
    const uint32_t first = len < MASKED ? len : MASKED;
    uint64_t state;

    memcpy(front, frame, first);
    memset(front, 0, 12);
    if (front[12] == ETH_P_IP >> 8 && front[13] == (ETH_P_IP & 0xff) && len >= 14 + 20)
        front[22] = front[24] = front[25] = 0;
    else if (front[12] == ETH_P_IPV6 >> 8 && front[13] == (ETH_P_IPV6 & 0xff) && len >= 14 + 40)
        front[21] = 0;
    state = hash(seed[0], front, first < 12 ? 12 : first, seed);
    return len > MASKED ? hash(state, frame + MASKED, len - MASKED, seed) : state;
}

struct hs_writer *hs_writer_open(const uint64_t seed[2]) {
    struct hs_writer *writer = calloc(1, sizeof(*writer));

    if (!writer)
        return NULL;
    memcpy(writer->seed, seed, sizeof(writer->seed));
    writer->turn = 1;
    writer->slots = calloc(SLOTS, sizeof(*writer->slots));
    writer->bytes = malloc(HS_WRITER_ROOM);
    if (writer->slots && writer->bytes)
        return writer;
    hs_writer_close(writer);
    errno = ENOMEM;
    return NULL;
}

static void forget(struct hs_writer *writer) {
    uint32_t i;

    for (i = 0; i < SLOTS; i++)
        free(writer->slots[i].options);
    memset(writer->slots, 0, SLOTS * sizeof(*writer->slots));
    writer->kinds = 0;
}

void hs_writer_close(struct hs_writer *writer) {
    if (writer->slots)
        forget(writer);
    free(writer->once.options);
    free(writer->slots);
    free(writer->bytes);
    free(writer);
}

void hs_writer_turn(struct hs_writer *writer) {
    writer->turn++;
}

/* The record at `from`; NULL if there is none. */
static const struct hs_sight *record_at(const uint8_t *records, uint64_t size, uint64_t from,
                                        struct hs_sight *sight, uint32_t *whole) {
    if (from > size || size - from < sizeof(*whole))
        return NULL;
    memcpy(whole, records + from, sizeof(*whole));
    from += sizeof(*whole);
    if (*whole < sizeof(*sight) || size - from < *whole)
        return NULL;
    memcpy(sight, records + from, sizeof(*sight));
    if (sight->before > HS_SIGHT_BEFORE || sight->taken > *whole - sizeof(*sight))
        return NULL;
    return sight;
}

static struct kind kind_of(const struct hs_sight *sight) {
    struct kind kind = {
        .verdict = sight->verdict,
        .key.vm = sight->key.vm,
        .reason = sight->reason,
        .route = sight->route,
        .to = sight->to,
        .place = sight->place,
        .reply = sight->reply,
    };

    if (sight->key.tuple.family) /* else it has none: its bytes are whatever was there before */
        kind.key.tuple = sight->key.tuple;
    return kind;
}

/* The kind's slot, or the free one where it would be. */
static struct slot *slot_of(struct hs_writer *writer, const struct kind *kind) {
    uint32_t at =
        (uint32_t)hash(writer->seed[1], (const uint8_t *)kind, sizeof(*kind), writer->seed);

    for (;; at++) { /* half of the slots are free */
        struct slot *slot = &writer->slots[at % SLOTS];

        if (!slot->used || !memcmp(&slot->kind, kind, sizeof(*kind)))
            return slot;
    }
}

/* An ICMP error is told by its bytes. */
static int by_its_bytes(const struct hs_sight *sight, const uint8_t *frame, uint32_t len) {
    const struct hs_tuple *tuple = &sight->key.tuple;
    struct hs_tuple about;

    if (tuple->family &&
        ((tuple->proto != HS_IP_ICMP && tuple->proto != HS_IP_ICMPV6) || tuple->sport))
        return 0;
    return hs_sight_about(frame, len, &about);
}

static uint8_t *put32(uint8_t *at, uint32_t value) {
    memcpy(at, &value, sizeof(value));
    return at + sizeof(value);
}

static uint8_t *put64(uint8_t *at, uint64_t value) {
    memcpy(at, &value, sizeof(value));
    return at + sizeof(value);
}

int hs_writer_write(struct hs_writer *writer, const uint8_t *records, uint64_t size,
                    struct hs_writing *at) {
    struct hs_sight sight;
    uint32_t whole;

    at->used = 0;
    while (at->done < size && at->most) {
        uint8_t *out = writer->bytes + at->used, *frame = out + HEAD;
        const struct slot *slot = &writer->once;
        uint32_t len, block;
        struct kind kind;
        uint64_t time, id;

        if (!record_at(records, size, at->done, &sight, &whole))
            return -EPROTO;
        len = sight.before + sight.taken;
        if (HS_WRITER_ROOM - at->used < HEAD + ((len + 3u) & ~3u) + ID + HS_WRITER_OPTIONS + TAIL)
            return HS_WRITER_FULL;
        memcpy(frame, sight.head, sight.before);
        memcpy(frame + sight.before, records + at->done + sizeof(whole) + sizeof(sight),
               sight.taken);
        if (!slot->used) {
            if (by_its_bytes(&sight, frame, len))
                return HS_WRITER_ALONE;
            kind = kind_of(&sight);
            slot = slot_of(writer, &kind);
            if (!slot->used || (slot->turn && slot->turn != writer->turn))
                return HS_WRITER_UNKNOWN;
        }
        writer->once.used = 0;
        at->done += sizeof(whole) + ((whole + 3u) & ~3u);
        if (slot->interface < 0)
            continue;
        id = hs_packet_id(frame, len, writer->seed);
        time = sight.time + (uint64_t)at->offset;
        block = HEAD + ((len + 3u) & ~3u) + ID + slot->len + TAIL;
        out = put32(put32(put32(out, PACKET), block), (uint32_t)slot->interface);
        out = put32(put32(out, (uint32_t)(time >> 32)), (uint32_t)time);
        out = put32(put32(out, len), sight.length);
        memset(out + len, 0, -len & 3u);
        out = put64(put32(out + ((len + 3u) & ~3u), 5 | 8u << 16), id);
        memcpy(out, slot->options, slot->len);
        put32(out + slot->len, block);
        at->used += block;
        at->most--;
        writer->counts[slot->interface]++;
    }
    return HS_WRITER_DONE;
}

const uint8_t *hs_writer_bytes(const struct hs_writer *writer) {
    return writer->bytes;
}

int hs_writer_know(struct hs_writer *writer, const uint8_t *records, uint64_t size, uint64_t from,
                   int32_t interface, const uint8_t *options, uint32_t len, int how) {
    struct slot *slot = &writer->once;
    struct hs_sight sight;
    struct kind kind;
    uint8_t *copy;
    uint32_t whole;

    if (!record_at(records, size, from, &sight, &whole) || len > HS_WRITER_OPTIONS || len & 3u ||
        interface >= HS_WRITER_INTERFACES)
        return -EINVAL;
    copy = malloc(len ? len : 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, options, len);
    kind = kind_of(&sight);
    if (how != HS_KIND_ONCE) {
        if (writer->kinds == HS_WRITER_KINDS)
            forget(writer);
        slot = slot_of(writer, &kind);
        writer->kinds += !slot->used;
    }
    free(slot->options);
    *slot = (struct slot){
        .kind = kind,
        .turn = how == HS_KIND_KEPT ? 0 : writer->turn,
        .options = copy,
        .len = len,
        .interface = interface,
        .used = 1,
    };
    return 0;
}

uint64_t hs_writer_count(const struct hs_writer *writer, uint32_t interface) {
    return interface < HS_WRITER_INTERFACES ? writer->counts[interface] : 0;
}
