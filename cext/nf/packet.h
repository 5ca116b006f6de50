// SPDX-License-Identifier: Apache-2.0
/* What a network function does to frames besides reading them (flow/view.h): how to change a field
 * so that the checksums over it stay right, and what became of a datagram's first fragment. */
#ifndef HS_NF_PACKET_H
#define HS_NF_PACKET_H
#include "flow/view.h"

#include <stdint.h>
#include <string.h>

/* Correct the checksum at `sum` for `n` bytes (even) that change from `from` to `to` (RFC 1624,
 * equation 3). */
void hs_sum_change(uint8_t *sum, const uint8_t *from, const uint8_t *to, uint32_t n);

/* Which datagrams a first fragment was let through for, and what became of its addresses: the later
 * ones do as it did. A small cache: an old datagram makes room for a new one. */
enum { HS_FRAGS = 1024 };

struct hs_frag {
    uint8_t src[16], dst[16];
    uint32_t id;
    uint8_t proto, family; /* proto: hs_datagram_proto */
    uint8_t mac[6];        /* what the translator wrote: the destination's MAC address ... */
    uint8_t to[4];         /* ... and the address that took the other's place */
    uint64_t until;        /* 0: free */
};
struct hs_frags {
    struct hs_frag at[HS_FRAGS];
};

/* The entry of a datagram that lives; NULL: none. */
struct hs_frag *hs_frags_find(struct hs_frags *f, const struct hs_view *v, uint64_t now);
/* A new entry for a first fragment's datagram. */
struct hs_frag *hs_frags_add(struct hs_frags *f, const struct hs_view *v, uint64_t now);

#endif
