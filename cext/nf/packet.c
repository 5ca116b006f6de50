// SPDX-License-Identifier: Apache-2.0
/* See nf/packet.h. This file: the change of a checksum, and the cache of datagrams. */
#include "nf/packet.h"

#include <string.h>

void hs_sum_change(uint8_t *sum, const uint8_t *from, const uint8_t *to, uint32_t n) {
    uint32_t total = (uint16_t)~hs_load16(sum);

    for (uint32_t i = 0; i < n; i += 2)
        total += (uint16_t)~hs_load16(from + i) + (uint32_t)hs_load16(to + i);
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    hs_store16(sum, (uint16_t)~total);
}

static struct hs_frag *place(struct hs_frags *f, const struct hs_view *v) {
    uint32_t h = v->id * 2654435761u ^ hs_datagram_proto(&v->tuple);

    for (int i = 0; i < 16; i++)
        h = (h ^ v->tuple.src[i]) * 16777619u + v->tuple.dst[i];
    return &f->at[(h ^ h >> 15) % HS_FRAGS];
}

struct hs_frag *hs_frags_find(struct hs_frags *f, const struct hs_view *v, uint64_t now) {
    struct hs_frag *frag = place(f, v);

    if (frag->until <= now || frag->id != v->id || frag->proto != hs_datagram_proto(&v->tuple) ||
        frag->family != v->tuple.family || memcmp(frag->src, v->tuple.src, 16) != 0 ||
        memcmp(frag->dst, v->tuple.dst, 16) != 0)
        return NULL;
    return frag;
}

struct hs_frag *hs_frags_add(struct hs_frags *f, const struct hs_view *v, uint64_t now) {
    struct hs_frag *frag = place(f, v);

    memset(frag, 0, sizeof(*frag));
    memcpy(frag->src, v->tuple.src, 16);
    memcpy(frag->dst, v->tuple.dst, 16);
    frag->id = v->id;
    frag->proto = hs_datagram_proto(&v->tuple);
    frag->family = v->tuple.family;
    frag->until = now + hs_fragment_ns(v->tuple.family);
    return frag;
}
