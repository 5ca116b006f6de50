// SPDX-License-Identifier: Apache-2.0
/* What became of each flow's packets at one VM's port: a table in shared memory that the VM writes
 * and the daemon reads, without locks.
 *
 * An entry belongs to a flow that the VM sent (`peer` 0), or to one that it took from the ring of
 * VM number `peer`. So each packet on a ring is counted by its sender and by its receiver, and the
 * daemon can hold the two against each other. Packets of no flow that the port can tell
 * (hs_flow_parse), and those for which there was no place, are counted in `other`.
 *
 * Writer and reader. The writer makes an entry in a place that is empty, or whose flow has been
 * silent for HS_TALLY_IDLE: `sequence` becomes odd (no reader believes the rest), the fields are
 * written, and it becomes even again (release), pairing with the reader's first load of it
 * (acquire); the reader looks at it once more behind its loads of the fields (acquire). From then
 * on only `last` and the counts change, each a word of its own: `last` first and `sent` before the
 * packet is given away (release), the others after, so that a reader that takes receivers before
 * senders never sees more received than sent.
 *
 * The daemon believes nothing of it: the VM may write what it likes at any moment, which shows as
 * counts that do not add up. The region is sealed against shrinking (ring/umem.h).
 */
#ifndef HS_TALLY_H
#define HS_TALLY_H
#include "flow/tuple.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define HS_TALLY_MAGIC 0x796c6c74u
#define HS_TALLY_VERSION 1
#define HS_TALLY_PROBE 16
#define HS_TALLY_IDLE UINT64_C(60000000000) /* ns; longer than the daemon keeps idle flows */

enum hs_tally_count {
    HS_T_SENT, /* packets given to the port to be sent; of an entry with a peer: 0 */
    HS_T_RING_PACKETS,
    HS_T_RING_BYTES, /* that went into a ring; with a peer: that were taken from it */
    HS_T_ETH0_PACKETS,
    HS_T_ETH0_BYTES,
    HS_T_FULL_RING, /* lost: no room in the neighbour's ring */
    HS_T_FULL_ETH0, /* lost: no room in the socket's ring */
    HS_T_TOO_LONG,  /* lost: longer than the ring takes */
    HS_T_COUNTS
};

struct hs_tally_entry {
    _Atomic uint32_t sequence; /* 0: empty; odd: being made */
    _Atomic uint32_t peer;
    _Atomic uint64_t words[5]; /* the tuple */
    _Atomic uint64_t last;     /* CLOCK_MONOTONIC, ns */
    _Atomic uint64_t count[HS_T_COUNTS];
    uint64_t pad;
};
_Static_assert(sizeof(struct hs_tally_entry) == 128, "layout is protocol");
_Static_assert(sizeof(struct hs_tuple) == 40, "five words");

struct hs_tally {
    uint32_t magic, version;
    uint32_t entries; /* a power of two */
    uint32_t pad;
    _Alignas(128) struct hs_tally_entry other;
    struct hs_tally_entry entry[];
};
_Static_assert(offsetof(struct hs_tally, entry) == 256, "layout is protocol");

/* A private copy of an entry. */
struct hs_tally_row {
    struct hs_tuple tuple;
    uint32_t peer;
    uint32_t sequence;
    uint64_t last;
    uint64_t count[HS_T_COUNTS];
};

/* Bytes of a table of `entries` (a power of two in [HS_TALLY_PROBE, 2^20]); 0 if it is not. */
uint64_t hs_tally_bytes(uint32_t entries);

/* Make an empty table in zeroed memory. */
void hs_tally_init(struct hs_tally *tally, uint32_t entries);

/* Writer: the flow's entry, made if need be; `other` if there is no place. now: ns. */
struct hs_tally_entry *hs_tally_open(struct hs_tally *tally, uint32_t entries,
                                     const struct hs_tuple *tuple, uint32_t peer, uint64_t now);

/* Reader: the flow's row. 1, or 0: there is none. `entries`: what the table's maker said. */
int hs_tally_find(const struct hs_tally *tally, uint32_t entries, const struct hs_tuple *tuple,
                  uint32_t peer, struct hs_tally_row *row);

/* Reader: up to `most` rows, from place *at on; how many. *at is moved on; it is `entries` at the
 * end. */
uint32_t hs_tally_read(const struct hs_tally *tally, uint32_t entries, uint32_t *at,
                       struct hs_tally_row *rows, uint32_t most);

/* Reader: the counts of `other`. */
void hs_tally_other(const struct hs_tally *tally, struct hs_tally_row *row);

/* Writer: one writer, so no read-modify-write is needed. */
static inline void hs_tally_add(struct hs_tally_entry *e, enum hs_tally_count which, uint64_t n) {
    uint64_t value = atomic_load_explicit(&e->count[which], memory_order_relaxed);

    atomic_store_explicit(&e->count[which], value + n, memory_order_release);
}

#endif
