// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Why a packet is dropped: the kernel's reason, or one that it has no name for (HS_REASON_*). In
 * the switch's namespace programs of hostsim alone drop at the entrances of interfaces, the
 * classifier and a direct link's end, which say why by a mark; and at their exits, an impaired
 * link. Anywhere, a packet may be longer than the far end of a link takes (is_skb_forwardable of
 * net/core/dev.c); one that is still to be cut into segments is taken at any length. */
#ifndef HS_REASON_BPF_H
#define HS_REASON_BPF_H

#include "bpf/kernel.bpf.h"
#include "switch/drops.h"
#include "switch/layout.h"

#include <linux/if_ether.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* Of the kernel's structures, what is read here besides. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct skb_shared_info {
    unsigned short gso_size;
};
#pragma clang attribute pop

enum skb_drop_reason {
    SKB_DROP_REASON_NOT_SPECIFIED = 1,
    SKB_DROP_REASON_NO_SOCKET,
    SKB_DROP_REASON_OTHERHOST,
    SKB_DROP_REASON_IPV6DISABLED,
    SKB_DROP_REASON_UNHANDLED_PROTO,
    SKB_DROP_REASON_NETFILTER_DROP,
    SKB_DROP_REASON_TC_INGRESS,
    SKB_DROP_REASON_TC_EGRESS,
    SKB_DROP_REASON_XDP,
    SKB_DROP_REASON_PACKET_SOCK_ERROR,
    SKB_DROP_REASON_IP_INNOROUTES,
};

/* Whether `reason` is this one of the running kernel's, which may not know it. */
#define IS(reason, name)                                                                           \
    (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_##name) &&                   \
     (reason) == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_##name))

/* The other end of a pair of a VM's eth0 and its port: what veth keeps first, behind the device
 * (struct veth_priv). NULL: it is no such pair. */
static __always_inline struct net_device *hs_far_end(struct net_device *dev, __u32 index) {
    __u32 other =
        index - HS_ETH0 <= HS_VM_MAX ? index - HS_ETH0 + HS_IFINDEX : index - HS_IFINDEX + HS_ETH0;
    struct net_device *far = 0;

    if (index - HS_ETH0 > HS_VM_MAX && index - HS_IFINDEX > HS_VM_MAX)
        return 0;
    if (bpf_probe_read_kernel(&far, sizeof(far), (char *)dev + hs_netdev_size()) ||
        (__u32)BPF_CORE_READ(far, ifindex) != other)
        return 0;
    return far;
}

/* Whether a frame is longer than a device takes, with a tag. */
static __always_inline int hs_exceeds(__u32 length, struct net_device *dev) {
    return dev && length > BPF_CORE_READ(dev, mtu) + ETH_HLEN + 4;
}

/* The reason of a drop. home: HS_HOME_SWITCH, or another namespace. framed: the packet has its
 * Ethernet header, as devices have it. */
static __always_inline __u32 hs_reason_of(struct sk_buff *skb, struct net_device *dev, __u32 home,
                                          int framed, __u32 reason) {
    struct skb_shared_info *shared = (struct skb_shared_info *)(skb->head + skb->end);
    __u32 length = skb->len, mark = skb->mark;

    if (home == HS_HOME_SWITCH && IS(reason, TC_EGRESS))
        return HS_REASON_LINK_LOSS;
    if (home == HS_HOME_SWITCH && IS(reason, TC_INGRESS) && (mark & ~HS_DROP_BITS) == HS_MARK_DROP)
        return HS_REASON_OURS + (mark & HS_DROP_NAME);
    if (!IS(reason, NOT_SPECIFIED) || !framed || BPF_CORE_READ(shared, gso_size))
        return reason;
    if (hs_exceeds(length, dev) || hs_exceeds(length, hs_far_end(dev, BPF_CORE_READ(dev, ifindex))))
        return HS_REASON_TOO_LONG;
    return reason;
}

#endif
