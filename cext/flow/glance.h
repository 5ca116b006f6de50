// SPDX-License-Identifier: Apache-2.0
/* The flow of a packet, told from its IP header and the eight bytes behind it, and nothing else.
 *
 * For a program that meets a packet anywhere in the kernel, with pointers that it must copy from:
 * flow/met.bpf.h, which adds the VLAN. Whatever flow is found here, the parsers of frames find too
 * (tests/c/test_agree.c). None is found of a packet that takes more than a glance: a fragment,
 * extension headers, and what an ICMP message other than echo is about. */
#ifndef HS_GLANCE_H
#define HS_GLANCE_H

#include "flow/tuple.h"

enum { HS_GLANCE_IP = 40, HS_GLANCE_L4 = 8 }; /* bytes read */

/* The first half, of the HS_GLANCE_IP bytes at the IP header: family, protocol and addresses.
 * Returns the length of the IP header, or 0: no flow. */
HS_INLINE __u32 hs_glance_ip(const __u8 *ip, struct hs_tuple *tuple) {
    __u32 header, left;

    if (ip[0] >> 4 == 4) {
        const __u32 total = (__u32)ip[2] << 8 | ip[3];

        header = (ip[0] & 15) * 4u;
        if (header < 20 || total < header || (ip[6] & 0x3f) | ip[7])
            return 0;
        left = total - header;
        tuple->proto = ip[9];
        __builtin_memcpy(tuple->src, ip + 12, 4);
        __builtin_memcpy(tuple->dst, ip + 16, 4);
    } else if (ip[0] >> 4 == 6) {
        header = 40;
        left = (__u32)ip[4] << 8 | ip[5];
        tuple->proto = ip[6];
        __builtin_memcpy(tuple->src, ip + 8, 16);
        __builtin_memcpy(tuple->dst, ip + 24, 16);
    } else {
        return 0;
    }
    tuple->family = ip[0] >> 4;
    return left < (tuple->proto == HS_IP_TCP ? 20u : 8u) ? 0 : header;
}

/* The second half, of the HS_GLANCE_L4 bytes behind the IP header: the ports. Returns 0 for no
 * flow. */
HS_INLINE int hs_glance_l4(const __u8 *l4, struct hs_tuple *tuple) {
    const int v6 = tuple->family == 6;

    if (hs_has_ports(tuple->proto)) {
        __builtin_memcpy(&tuple->sport, l4, 2);
        __builtin_memcpy(&tuple->dport, l4 + 2, 2);
        return 1;
    }
    switch (tuple->proto) {
    case HS_IP_ICMP:
        if (v6 || (l4[0] != 8 && l4[0] != 0))
            return 0;
        break;
    case HS_IP_ICMPV6:
        if (!v6 || (l4[0] != 128 && l4[0] != 129))
            return 0;
        break;
    case 0:  /* hop-by-hop options (RFC 8200 4.3) */
    case 43: /* routing */
    case 44: /* fragment */
    case 51: /* authentication (RFC 4302) */
    case 60: /* destination options */
        return !v6;
    default:
        return 1;
    }
    __builtin_memcpy(&tuple->sport, l4 + 4, 2);
    tuple->dport = tuple->sport;
    return 1;
}

#endif
