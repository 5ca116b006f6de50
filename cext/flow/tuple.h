// SPDX-License-Identifier: Apache-2.0
/* A flow, one direction: the tuple that every part of the data plane names it by, and what can be
 * done with one. For BPF programs and for user space; needs <linux/types.h> alone.
 *
 * Addresses and ports are as in the packet, all else is in host byte order. Unused bytes are zero:
 * a tuple is a hash key, and is compared as bytes. */
#ifndef HS_TUPLE_H
#define HS_TUPLE_H

#include <linux/types.h>

enum {
    HS_IP_ICMP = 1,
    HS_IP_TCP = 6,
    HS_IP_UDP = 17,
    HS_IP_ICMPV6 = 58,
    HS_IP_SCTP = 132,
    HS_IP_UDPLITE = 136,
};

/* How far every parser looks: a frame that has more is malformed, or dropped by name. */
enum {
    HS_TAGS = 8,       /* VLAN tags */
    HS_EXTENSIONS = 8, /* IPv6 extension headers */
};

struct hs_tuple {
    __u8 src[16], dst[16]; /* IPv4 in the first four bytes; MAC addresses if family is 0 */
    __u16 sport, dport;    /* network order; ICMP echo: the identifier in both */
    __u8 proto;            /* IANA number */
    __u8 family;           /* 4, 6, or 0: not IP, ethertype in sport */
    __u16 vlan;            /* VLAN identifier in host order, 0: untagged */
};
_Static_assert(sizeof(struct hs_tuple) == 40, "hash key without padding");

/* What the policies in force look at. Tagged frames, and frames that are not IP, have a flow only
 * if some match names a VLAN, or an ethertype. WAIT: fragments wait for their first one
 * (switch/wait.h). */
enum { HS_ON = 1, HS_ON_VLAN = 2, HS_ON_ETHERTYPE = 4, HS_ON_WAIT = 8 };

/* A flow in the VM that sends it, and at that VM's port of the switch. */
struct hs_key {
    __u32 vm;
    struct hs_tuple tuple;
};
_Static_assert(sizeof(struct hs_key) == 44, "hash key without padding");

/* How long a datagram's fragments belong together, and how many datagrams are remembered. */
enum {
    HS_FRAGMENT_SECONDS = 40,   /* Linux waits 30 s for them; links delay */
    HS_FRAGMENT_SECONDS_6 = 70, /* and 60 s over IPv6 */
    HS_DATAGRAMS_MAX = 1 << 16,
};

/* In a BPF program a call would be one that the verifier follows. */
#define HS_INLINE static inline __attribute__((always_inline))

/* Whether a protocol has ports in the first four bytes of its header. */
HS_INLINE int hs_has_ports(__u8 proto) {
    return proto == HS_IP_TCP || proto == HS_IP_UDP || proto == HS_IP_SCTP ||
           proto == HS_IP_UDPLITE;
}

/* The same by family, in nanoseconds. */
HS_INLINE __u64 hs_fragment_ns(__u8 family) {
    const __u64 seconds = family == 6 ? HS_FRAGMENT_SECONDS_6 : HS_FRAGMENT_SECONDS;

    return seconds * 1000000000;
}

/* The protocol by which fragments of one datagram are told from another's: none over IPv6, where a
 * receiver asks the first fragment alone for it (RFC 8200). */
HS_INLINE __u8 hs_datagram_proto(const struct hs_tuple *t) {
    return t->family == 6 ? 0 : t->proto;
}

/* The other direction. */
HS_INLINE void hs_tuple_turn(const struct hs_tuple *from, struct hs_tuple *to) {
    __builtin_memcpy(to->src, from->dst, 16);
    __builtin_memcpy(to->dst, from->src, 16);
    to->sport = from->dport;
    to->dport = from->sport;
    to->proto = from->proto;
    to->family = from->family;
    to->vlan = from->vlan;
}

/* One key for both directions: the tuple whose source is the smaller end, by the four words of its
 * address and then by its port, each read in host byte order. Returns whether that is the tuple
 * turned round. */
HS_INLINE int hs_tuple_both_ways(const struct hs_tuple *tuple, struct hs_tuple *key) {
    for (int i = 0; i < 16; i += 4) {
        __u32 src, dst;

        __builtin_memcpy(&src, tuple->src + i, 4);
        __builtin_memcpy(&dst, tuple->dst + i, 4);
        if (src == dst)
            continue;
        if (src < dst)
            goto as_it_is;
        goto turned;
    }
    if (tuple->sport <= tuple->dport)
        goto as_it_is;
turned:
    hs_tuple_turn(tuple, key);
    return 1;
as_it_is:
    *key = *tuple;
    return 0;
}

HS_INLINE int hs_tuple_same(const struct hs_tuple *a, const struct hs_tuple *b) {
    __u64 x[5], y[5];

    __builtin_memcpy(x, a, sizeof(x));
    __builtin_memcpy(y, b, sizeof(y));
    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4])) == 0;
}

/* A number for a tuple. Not keyed: whoever chooses the tuples can make them
 * collide. */
HS_INLINE __u32 hs_tuple_hash(const struct hs_tuple *tuple) {
    __u64 words[5], h = 0;

    __builtin_memcpy(words, tuple, sizeof(words));
    for (int i = 0; i < 5; i++)
        h = (h ^ words[i]) * 0x9e3779b97f4a7c15u + (h >> 29);
    return (__u32)(h >> 32) ^ (__u32)h;
}

#endif
