// SPDX-License-Identifier: Apache-2.0
/* What a packet function puts into rings and loses, for those who capture: a region that one port
 * writes and any number of readers read, each at its own pace, without locks.
 *
 * `until`: somebody looks until then (CLOCK_MONOTONIC, ns). A reader sets it, again and again while
 * it looks; a port that finds it in the past writes nothing, and has looked at one word. A reader
 * that is killed leaves it to run out.
 *
 * Writer and readers. Records stand behind one another in `data`, round and round; `head` and
 * `reserve` count bytes since the start. The writer raises `reserve` to where it is going to write
 * (release fence, before the writes), writes, and then raises `head` (release), pairing with the
 * reader's load of it (acquire). It waits for nobody, and writes over what is oldest. A reader
 * copies a record, and then looks (acquire fence) whether `reserve` has come as far as to it: such
 * a copy may be torn, and is not believed. It goes on at `head` then; `number`, which grows by 1
 * with each record, tells how many it has missed.
 *
 * A reader believes nothing of it: the VM may write what it likes at any moment. The region is
 * sealed against shrinking (ring/umem.h). */
#ifndef HS_TAP_H
#define HS_TAP_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define HS_TAP_MAGIC 0x70617463u
#define HS_TAP_VERSION 1
#define HS_TAP_BYTES (8u << 20) /* of data: a power of two; some 80,000 packets of 64 bytes */
#define HS_TAP_MOST 65536u      /* bytes of one record at most */

enum hs_tap_end {
    HS_TAP_SENT = 1,      /* it went into the ring to VM `to` */
    HS_TAP_FULL_RING = 2, /* lost: no room in that ring */
    HS_TAP_TOO_LONG = 3,  /* lost: longer than that ring takes */
    HS_TAP_FULL_ETH0 = 4, /* lost: no room in the socket's ring */
    HS_TAP_NOTHING = 5,   /* no packet, up to the end of `data`: only the first 8 bytes count */
};

/* Before the bytes of the frame. */
struct hs_tap_record {
    uint32_t size; /* with the frame and up to the next record: a multiple of 8 */
    uint16_t to;   /* VM number */
    uint16_t end;  /* enum hs_tap_end */
    uint64_t time; /* CLOCK_MONOTONIC, ns */
    uint32_t number;
    uint32_t epoch;  /* of the rule */
    uint32_t length; /* of the frame; all of it follows */
    uint32_t pad;
};
_Static_assert(sizeof(struct hs_tap_record) == 32, "layout is protocol");

struct hs_tap {
    uint32_t magic, version;
    _Atomic uint64_t until;
    _Alignas(64) _Atomic uint64_t head;
    _Atomic uint64_t reserve;
    _Atomic uint32_t count; /* the `number` of the next record */
    _Alignas(64) uint8_t data[HS_TAP_BYTES];
};
_Static_assert(offsetof(struct hs_tap, data) == 128, "layout is protocol");

/* Make an empty one in zeroed memory. */
void hs_tap_init(struct hs_tap *tap);

/* Writer: whether somebody looks. now: CLOCK_MONOTONIC, ns. */
static inline int hs_tap_wanted(const struct hs_tap *tap, uint64_t now) {
    /* Pairs with hs_tap_look: what is sent after that has returned is written. */
    return tap && atomic_load_explicit(&tap->until, memory_order_acquire) > now;
}

/* Writer: records that nobody sees until hs_tap_publish. */
struct hs_tap_burst {
    struct hs_tap *tap;
    uint64_t head;
    uint32_t count;
};
struct hs_tap_burst hs_tap_begin(struct hs_tap *tap);
/* Add a packet; what is in `record` but its size and number is the caller's. Returns the record as
 * it stands, whose `end` may be changed until it is published; NULL: too long for any. */
struct hs_tap_record *hs_tap_add(struct hs_tap_burst *burst, const struct hs_tap_record *record,
                                 const uint8_t *frame);
void hs_tap_publish(const struct hs_tap_burst *burst);

/* Reader: one of possibly several. */
struct hs_tap_reader {
    uint64_t tail;
    uint32_t number; /* of the next record */
    uint64_t lost;   /* records that were written over before they were read, or make no sense */
    uint64_t end;    /* what stands there and behind is of no interest */
};

/* Reader: look from now on, until `until`; later ones extend it. */
void hs_tap_look(struct hs_tap *tap, uint64_t until);
/* Reader: begin with what is written next. */
void hs_tap_start(const struct hs_tap *tap, struct hs_tap_reader *reader);
/* Reader: what is written from now on is of no interest. */
void hs_tap_stop(const struct hs_tap *tap, struct hs_tap_reader *reader);
/* Reader: how many it has missed so far. */
uint64_t hs_tap_lost(const struct hs_tap *tap, const struct hs_tap_reader *reader);
/* Reader: copy the next record and its frame, of at most `room` bytes. Returns bytes of the frame
 * that were copied; -EAGAIN: there is none; or that something else has to be looked at for once. */
int64_t hs_tap_next(const struct hs_tap *tap, struct hs_tap_reader *reader,
                    struct hs_tap_record *record, uint8_t *frame, uint32_t room);

#endif
