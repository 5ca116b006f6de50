// SPDX-License-Identifier: Apache-2.0
/* What the kernel's parsers tell of a frame, if they are asked by themselves (flow/parsers.bpf.c).
 */
#ifndef HS_TOLD_H
#define HS_TOLD_H
#include "flow/tuple.h"

/* The kinds of frame: see flow/packet.bpf.h. CONFLICT: a first fragment of a datagram that has one
 * with other ports already. NO_ROOM: one that cannot be remembered. */
enum hs_kind {
    HS_FLOW,
    HS_PLAIN,
    HS_MALFORMED,
    HS_ORPHAN,
    HS_GROUP,
    HS_DEEP,
    HS_CONFLICT,
    HS_NO_ROOM,
};

struct hs_told {
    struct hs_tuple tuple;
    __u32 kind; /* enum hs_kind */
    __u32 l4, end, id;
    __u8 tcp_flags, dscp, error, fragment;
    __u16 group, unknown;
};
_Static_assert(sizeof(struct hs_told) == 64, "no padding");

#endif
