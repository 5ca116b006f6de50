// SPDX-License-Identifier: Apache-2.0
/* A frame as a network function sees it: which flow, where its headers are, what an ICMP error is
 * about.
 *
 * The flow is the classifier's (flow/packet.bpf.h), so that a function judges by the same tuple as
 * the switch; but a later fragment has no ports here, and the protocol that it says itself; an ICMP
 * error is its own flow (`inner` is the one that it is about), and an IPv6 packet whose length is
 * in an option (RFC 2675) is malformed. Nothing is read past `len`; lengths that lie make a frame
 * malformed. */
#ifndef HS_VIEW_H
#define HS_VIEW_H
#include "flow/bytes.h"
#include "flow/tuple.h"

#include <stdint.h>

enum { HS_FLAG_FIN = 1, HS_FLAG_SYN = 2, HS_FLAG_RST = 4, HS_FLAG_ACK = 16 };
enum { HS_WHOLE = 0, HS_FIRST_FRAGMENT = 1, HS_LATER_FRAGMENT = 2 };

struct hs_view {
    struct hs_tuple tuple; /* family 0: not IP */
    struct hs_tuple inner; /* of an ICMP error: the packet it is about, as it went; family 0: none,
                              or one whose sender the error is not to */
    uint32_t l3, l4;       /* offsets of the headers; l4 is 0 in a later fragment */
    uint32_t inner_l3, inner_l4;
    uint32_t end; /* where the IP packet ends */
    uint32_t id;  /* of the datagram, if it is fragmented */
    uint8_t fragment;
    uint8_t tcp_flags, dscp;
    uint8_t type; /* ICMP's */
};

/* 0, or -1: malformed. */
int hs_view_parse(const uint8_t *frame, uint32_t len, struct hs_view *v);

#endif
