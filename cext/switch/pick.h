/* Picking a few VMs' flows out of a page of all, before each becomes an object: a look at a million
 * entries is done ten times a second. */
#ifndef HS_PICK_H
#define HS_PICK_H
#include <stdint.h>

#include "switch/layout.h"

/* Move the entries of wanted VMs that have packets to the front, in their order. wanted: a byte for
 * each number of a VM, up to HS_VM_MAX; other numbers are not wanted. Returns how many there are.
 */
uint32_t hs_flows_pick(struct hs_key *keys, struct hs_flow *flows, uint32_t count,
                       const uint8_t *wanted);

#endif
