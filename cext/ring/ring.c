// SPDX-License-Identifier: Apache-2.0
/* See ring/ring.h. This file: the size of a ring, and its opening; the rest is inline in the
 * header. */
#include "ring/ring.h"

#include <string.h>

uint64_t hs_ring_bytes(uint32_t size, uint32_t slot) {
    uint64_t bytes;

    if (size < 2 || size > HS_RING_MAX || (size & (size - 1)))
        return 0;
    bytes = sizeof(struct hs_ring_shared) + (uint64_t)size * slot;
    return (bytes + HS_APART - 1) & ~(uint64_t)(HS_APART - 1);
}

void hs_ring_open(struct hs_ring *r, struct hs_ring_shared *shared, uint32_t size) {
    memset(r, 0, sizeof(*r));
    r->shared = shared;
    r->mask = size - 1;
}
