// SPDX-License-Identifier: Apache-2.0
/* Writes what a capture took (sight/take.h) as packets of a pcapng file (IETF
 * draft-ietf-opsawg-pcapng), little-endian.
 *
 * What there is to say of a packet, its interface and its options, is the caller's to know. It is
 * told once for each kind: packets of one flow at one place, by one verdict. The kinds that are
 * known are kept, HS_WRITER_KINDS at most; if there are more, all are asked for anew. One thread.
 */
#ifndef HS_WRITE_H
#define HS_WRITE_H

#include "sight/sight.h"

#include <stddef.h>
#include <stdint.h>

enum {
    HS_WRITER_KINDS = 1 << 14,
    HS_WRITER_INTERFACES = 1 << 16,
    HS_WRITER_ROOM = 1 << 22,    /* bytes that are written at once */
    HS_WRITER_OPTIONS = 1 << 14, /* bytes of one kind's options */
};

/* Why hs_writer_write returns. */
enum {
    HS_WRITER_DONE = 0,
    HS_WRITER_UNKNOWN = 1,
    HS_WRITER_ALONE = 2, /* the same of a packet whose bytes count: its answer is for it alone */
    HS_WRITER_FULL = 3,
};

/* For how long what is said of a kind holds. */
enum {
    HS_KIND_ONCE = 0, /* for the next packet */
    HS_KIND_TURN = 1, /* until hs_writer_turn: it may be decided soon */
    HS_KIND_KEPT = 2,
};

struct hs_writing {
    uint64_t done;  /* bytes of the records, from the first */
    uint64_t used;  /* bytes in hs_writer_bytes, written since the call before */
    uint64_t most;  /* packets that may still be written; counts down */
    int64_t offset; /* ns from CLOCK_MONOTONIC to the file's times */
};

struct hs_writer;

/* seed: secret, or a VM could make two packets of one id. NULL and errno. */
struct hs_writer *hs_writer_open(const uint64_t seed[2]);
void hs_writer_close(struct hs_writer *writer);

/* The kinds that were told for a turn are asked for anew. */
void hs_writer_turn(struct hs_writer *writer);

/* Write the records from `at->done` on, as far as their kinds are known and there is room. Records
 * that cannot be ones end it: -EPROTO. */
int hs_writer_write(struct hs_writer *writer, const uint8_t *records, uint64_t size,
                    struct hs_writing *at);
const uint8_t *hs_writer_bytes(const struct hs_writer *writer);

/* Tell the kind of the record at `from`. interface: its number in the file; negative: packets of
 * this kind are left out. options: of pcapng, padded and with their end. Returns 0, -EINVAL, or
 * -ENOMEM. */
int hs_writer_know(struct hs_writer *writer, const uint8_t *records, uint64_t size, uint64_t from,
                   int32_t interface, const uint8_t *options, uint32_t len, int how);

/* Packets written of an interface. */
uint64_t hs_writer_count(const struct hs_writer *writer, uint32_t interface);

/* The same number for the same packet, wherever it is seen: what routers change (addresses of the
 * frame, TTL, the IPv4 header's sum) does not count. */
uint64_t hs_packet_id(const uint8_t *frame, uint32_t len, const uint64_t seed[2]);

#endif
