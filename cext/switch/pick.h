// SPDX-License-Identifier: Apache-2.0
/* Picking what is wanted out of a page of a map, before each entry becomes an object: a look at a
 * million flows is done ten times a second, and a look at all drops beside the daemon's loop, which
 * waits for the interpreter meanwhile. */
#ifndef HS_PICK_H
#define HS_PICK_H
#include <stdint.h>

#include "switch/drops.h"
#include "switch/layout.h"

/* Move the entries of wanted VMs that have packets to the front, in their order. wanted: a byte for
 * each number of a VM, up to HS_VM_MAX; other numbers are not wanted. Returns how many there are.
 */
uint32_t hs_flows_pick(struct hs_key *keys, struct hs_flow *flows, uint32_t count,
                       const uint8_t *wanted);

/* The same for drops: those of a flow that had their last packet before `until` (ns). */
uint32_t hs_drops_pick(struct hs_drop_key *keys, struct hs_drop *drops, uint32_t count,
                       uint64_t until);

#endif
