// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Checksums that a sender leaves to be finished, and what they may not overwrite.
 *
 * A packet may say that its checksum is still to be computed, and where to write it
 * (CHECKSUM_PARTIAL in linux/skbuff.h). Whoever sends frames of its own says so as it likes
 * (PACKET_VNET_HDR, packet(7)). It is written behind the classifier: at a port with `offload =
 * false`, by an uplink's hardware, or before a packet function. Over an address, a port or a tag it
 * would make another packet of the one that was judged. */
#ifndef HS_UNFINISHED_BPF_H
#define HS_UNFINISHED_BPF_H

#include <bpf/bpf_core_read.h>

#include "bpf/kernel.bpf.h"
#include "flow/packet.bpf.h"

enum {
    HS_CHECKSUM_PARTIAL = 3,
    HS_UNJUDGED = 34, /* nothing from here on is judged if it is not IP, or in a VLAN of its own */
};

/* Whether a packet's checksum is still to be finished. */
static __always_inline int hs_is_partial(const struct __sk_buff *skb) {
    const struct sk_buff *real = (void *)skb;

    return BPF_CORE_READ_BITFIELD_PROBED(real, ip_summed) == HS_CHECKSUM_PARTIAL;
}

/* Whether the checksum of the packet in hand is to be written over what the packet was judged by:
 * neither where its protocol has it, nor behind that header (tunnels have it there). */
static __noinline int hs_overwrites(struct __sk_buff *skb) {
    const struct sk_buff *real = (void *)skb;
    struct hs_packet *p = hs_packet();
    __u32 at, own = 0, header = 0;

    if (!p || !hs_is_partial(skb))
        return 0;
    at = (__u32)BPF_CORE_READ(real, csum_start) + BPF_CORE_READ(real, csum_offset) -
         BPF_CORE_READ(real, mac_header);
    if (at + 2 > skb->len || p->error || p->fragment == 2)
        return 1;
    if (!p->l4)
        return at < HS_UNJUDGED;
    switch (p->key.tuple.proto) {
    case IPPROTO_TCP:
        own = 16;
        header = 20;
        break;
    case IPPROTO_UDP:
    case IPPROTO_UDPLITE:
        own = 6;
        header = 8;
        break;
    case IPPROTO_SCTP:
        own = 8;
        header = 12;
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        own = 2;
        header = 8;
        break;
    }
    return at != p->l4 + own && at < p->l4 + header;
}

#endif
