/* A frame as a network function sees it: which flow, where its headers are, what an ICMP error is
 * about; and how to change a field so that the checksums over it stay right.
 *
 * The flow is the classifier's (switch/layout.h, flow/packet.bpf.h), so that a function judges by
 * the same tuple as the switch. Nothing is read past `len`; lengths that lie make a frame
 * malformed.
 */
#ifndef HS_NF_PACKET_H
#define HS_NF_PACKET_H
#include "switch/layout.h"

#include <stdint.h>
#include <string.h>

enum { HS_IP_ICMP = 1, HS_IP_TCP = 6, HS_IP_UDP = 17, HS_IP_ICMPV6 = 58 };
enum { HS_FLAG_FIN = 1, HS_FLAG_SYN = 2, HS_FLAG_RST = 4, HS_FLAG_ACK = 16 };
enum { HS_WHOLE = 0, HS_FIRST_FRAGMENT = 1, HS_LATER_FRAGMENT = 2 };

struct hs_view {
    struct hs_tuple tuple; /* family 0: not IP */
    struct hs_tuple
        inner;       /* of an ICMP error: the packet it is about, as it went; family 0: none */
    uint32_t l3, l4; /* offsets of the headers; l4 is 0 in a later fragment */
    uint32_t inner_l3, inner_l4;
    uint32_t end; /* where the IP packet ends */
    uint32_t id;  /* of the datagram, where it is fragmented */
    uint8_t fragment;
    uint8_t tcp_flags, dscp;
    uint8_t type; /* ICMP's */
};

/* 0, or -1: malformed. */
int hs_view_parse(const uint8_t *frame, uint32_t len, struct hs_view *v);

/* Whether a protocol has ports where TCP has them. */
int hs_view_ports(uint8_t proto);

static inline uint16_t hs_load16(const uint8_t *at) {
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline void hs_store16(uint8_t *at, uint16_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* Correct the checksum at `sum` for `n` bytes (even) that change from `from` to `to` (RFC 1624,
 * equation 3). */
void hs_sum_change(uint8_t *sum, const uint8_t *from, const uint8_t *to, uint32_t n);

/* Which datagrams a first fragment was let through for, and what became of its addresses: the later
 * ones do as it did. A small cache: an old datagram makes room for a new one. */
enum { HS_FRAGS = 1024 };
#define HS_FRAG_LIFE UINT64_C(30000000000) /* ns, as long as Linux keeps fragments */

struct hs_frag {
    uint8_t src[16], dst[16];
    uint32_t id;
    uint8_t proto, family;
    uint8_t mac[6]; /* what the translator wrote: the destination's MAC address ... */
    uint8_t to[4];  /* ... and the address that took the other's place */
    uint64_t until; /* 0: free */
};
struct hs_frags {
    struct hs_frag at[HS_FRAGS];
};

/* The entry of a datagram that lives; NULL: none. */
struct hs_frag *hs_frags_find(struct hs_frags *f, const struct hs_view *v, uint64_t now);
/* A new entry for a first fragment's datagram. */
struct hs_frag *hs_frags_add(struct hs_frags *f, const struct hs_view *v, uint64_t now);

#endif
