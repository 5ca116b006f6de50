// SPDX-License-Identifier: Apache-2.0
/* The flow of a frame, for a port: only what may have a routing rule, and that fast.
 *
 * Whatever flow it finds, flow/view.h finds the same one (tests/c/test_agree.c), and so do the
 * kernel's programs (flow/packet.bpf.h, tests/kernel/test_parsers.py). */
#ifndef HS_PARSE_H
#define HS_PARSE_H
#include "flow/tuple.h"

#include <stdint.h>
#include <string.h>

/* The flow of a frame: all but ICMP other than echo, over IPv4 and IPv6 without fragments and
 * extension headers; protocols without ports have ports 0. 0, or -1: none that could have a rule;
 * it goes to the switch, which knows more. Reads at most `len` bytes. */
int hs_flow_parse(const uint8_t *frame, uint32_t len, struct hs_tuple *tuple);

/* What the bytes of a flow's frames look like from the ethertype to the ports, so that the next
 * frame of the same flow is known by a few words: TCP and UDP over IPv4 without options. A zeroed
 * one is no flow's. */
struct hs_flow_look {
    uint64_t middle, last; /* bytes 20 to 27 and 28 to 35 of the frame, masked: of whole packets */
    uint16_t dport;
    uint32_t
        least; /* bytes of the shortest such frame; 0: frames of this flow look too different */
};

static inline uint64_t hs_flow_word(const uint8_t bytes[8]) {
    uint64_t word;

    memcpy(&word, bytes, sizeof(word));
    return word;
}

static inline struct hs_flow_look hs_flow_look_of(const struct hs_tuple *tuple) {
    struct hs_flow_look look = {.dport = tuple->dport};
    uint8_t middle[8] = {[3] = tuple->proto}, last[8];

    if (tuple->family != 4 || (tuple->proto != 6 && tuple->proto != 17))
        return look;
    memcpy(middle + 6, tuple->src, 2);
    memcpy(last, tuple->src + 2, 2);
    memcpy(last + 2, tuple->dst, 4);
    memcpy(last + 6, &tuple->sport, 2);
    look.middle = hs_flow_word(middle);
    look.last = hs_flow_word(last);
    look.least = 14 + 20 + (tuple->proto == 6 ? 20 : 8);
    return look;
}

/* Whether a frame is of a flow that hs_flow_parse has found before, told from the bytes as they
 * stand. 0: it may be, or not. */
static inline int hs_flow_again(const uint8_t *frame, uint32_t len,
                                const struct hs_flow_look *look) {
    static const uint8_t first[8] = {0x08, 0x00, 0x45}, first_mask[8] = {0xff, 0xff, 0xff};
    /* no fragment; the protocol; the source's first half */
    static const uint8_t middle_mask[8] = {0x3f, 0xff, 0, 0xff, 0, 0, 0xff, 0xff};
    uint64_t differs;
    uint32_t total;
    uint16_t dport;

    if (look->least == 0 || len < look->least)
        return 0;
    memcpy(&dport, frame + 36, sizeof(dport));
    differs = (hs_flow_word(frame + 12) ^ hs_flow_word(first)) & hs_flow_word(first_mask);
    differs |= (hs_flow_word(frame + 20) & hs_flow_word(middle_mask)) ^ look->middle;
    differs |= (hs_flow_word(frame + 28) ^ look->last) | (uint16_t)(dport ^ look->dport);
    total = 14 + (uint32_t)(frame[16] << 8 | frame[17]);
    return ((differs | (frame[0] & 1)) == 0) & (total >= look->least) & (total <= len);
}

#endif
