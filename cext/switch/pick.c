// SPDX-License-Identifier: Apache-2.0
/* See switch/pick.h. This file: one pass over the two arrays, for each map. */
#include "switch/pick.h"

uint32_t hs_flows_pick(struct hs_key *keys, struct hs_flow *flows, uint32_t count,
                       const uint8_t *wanted) {
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (keys[i].vm > HS_VM_MAX || !wanted[keys[i].vm] || !flows[i].packets)
            continue;
        if (kept != i) {
            keys[kept] = keys[i];
            flows[kept] = flows[i];
        }
        kept++;
    }
    return kept;
}

uint32_t hs_drops_pick(struct hs_drop_key *keys, struct hs_drop *drops, uint32_t count,
                       uint64_t until) {
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!keys[i].key.tuple.family || drops[i].last >= until)
            continue;
        if (kept != i) {
            keys[kept] = keys[i];
            drops[kept] = drops[i];
        }
        kept++;
    }
    return kept;
}
