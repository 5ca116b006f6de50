// SPDX-License-Identifier: Apache-2.0
/* Where a routing rule sends a flow's packets: a table in shared memory that
 * the daemon writes and one VM reads, without locks.
 *
 * The table is a region that the VM maps read-only. Each entry is a small seqlock: the writer makes
 * `sequence` odd, writes, and makes it even again (release); a reader that sees an odd one, or
 * another one after reading (acquire), has found nothing, and the packet goes to the switch.
 * A rule holds only while its epoch is the table's: one store makes all rules of an old policy
 * stale. The tuple is flow/tuple.h's, for the rules are derived from the classifier's flows.
 */
#ifndef HS_RULES_H
#define HS_RULES_H
#include "flow/tuple.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define HS_RULES_MAGIC 0x6c756872u
#define HS_RULES_VERSION 1
#define HS_RULES_PROBE 8 /* entries looked at for a tuple */
#define HS_TO_VM 0xffffu
#define HS_TO_WAIT 0x10000u /* with the VM number: if its ring is full, wait for room */

struct hs_rules_entry {
    _Atomic uint32_t sequence;
    _Atomic uint32_t epoch;    /* 0: empty */
    _Atomic uint64_t words[5]; /* the tuple */
    _Atomic uint32_t to;       /* VM number, and HS_TO_WAIT */
    uint32_t pad;
};
_Static_assert(sizeof(struct hs_rules_entry) == 56, "layout is protocol");
_Static_assert(sizeof(struct hs_tuple) == 40, "five words");

struct hs_rules {
    uint32_t magic, version;
    uint32_t entries; /* a power of two */
    _Atomic uint32_t epoch;
    _Atomic uint32_t withdrawn; /* grows whenever a rule or all of them cease to hold */
    _Alignas(64) struct hs_rules_entry entry[];
};
_Static_assert(offsetof(struct hs_rules, entry) == 64, "layout is protocol");

/* Bytes of a table of `entries` (a power of two in [8, 2^20]); 0 if it is not. */
uint64_t hs_rules_bytes(uint32_t entries);

/* Writer: make an empty table in zeroed memory. */
void hs_rules_init(struct hs_rules *rules, uint32_t entries);

/* Writer: every rule with another epoch is stale from now on. */
void hs_rules_set_epoch(struct hs_rules *rules, uint32_t epoch);

/* Writer: add or change a rule; to: a VM number, and HS_TO_WAIT. Returns 0, or -ENOSPC: its places
 * hold other current rules. */
int hs_rules_put(struct hs_rules *rules, const struct hs_tuple *tuple, uint32_t to, uint32_t epoch);

/* Writer: remove a rule, if it is there. */
void hs_rules_remove(struct hs_rules *rules, const struct hs_tuple *tuple);

/* Reader: what a current rule names (`to`), or 0. `entries`: what the table's maker said. */
uint32_t hs_rules_find(const struct hs_rules *rules, uint32_t entries,
                       const struct hs_tuple *tuple);

#endif
