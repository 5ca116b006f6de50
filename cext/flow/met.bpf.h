// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The flow of a packet that a program meets anywhere in the kernel (flow/glance.h), with its VLAN.
 *
 * A tag is in the frame, or beside it in the sk_buff; or it is not there at all, because the packet
 * is on an interface that stands for the VLAN. As everywhere, the first identifier that is not 0 is
 * the flow's, and a VLAN inside a VLAN is an ethertype: no flow is found of what is in there. */
#ifndef HS_MET_BPF_H
#define HS_MET_BPF_H

#include "bpf/kernel.bpf.h"
#include "flow/glance.h"

#include <linux/if_ether.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Of the kernel's structures, what is read here besides. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct vlan_dev_priv {
    __u16 vlan_id;
    struct net_device *real_dev;
};
#pragma clang attribute pop

enum {
    HS_NO_HEADER = 0xffff,    /* as in mac_header: there is no Ethernet header */
    HS_OTHER_VLANS = 1 << 12, /* more than one identifier */
    HS_VLAN_DEVICES = 3,
    HS_VLAN_DEVICE = 1 << 0, /* IFF_802_1Q_VLAN, in priv_flags */
};

/* The VLAN of a tag beside a frame; 0: it is none. Linux 6.1 has a bit for whether there is one. */
static __always_inline __u32 hs_vlan_beside(struct sk_buff *skb) {
    int there = bpf_core_field_exists(struct sk_buff, vlan_present)
                    ? BPF_CORE_READ_BITFIELD(skb, vlan_present)
                    : skb->vlan_proto != 0;

    return there ? skb->vlan_tci & 0xfff : 0;
}

/* The VLAN that an interface stands for; 0: none. */
static __always_inline __u32 hs_vlan_of(struct net_device *dev) {
    const __u64 behind = hs_netdev_size();
    __u32 vlan = 0, id;

    if (!bpf_core_type_exists(struct vlan_dev_priv)) /* a module's, that came later */
        return BPF_CORE_READ(dev, priv_flags) & HS_VLAN_DEVICE ? HS_OTHER_VLANS : 0;
    for (int i = 0; i < HS_VLAN_DEVICES; i++) {
        struct vlan_dev_priv *own = (void *)dev + behind;

        if (!(BPF_CORE_READ(dev, priv_flags) & HS_VLAN_DEVICE))
            break;
        id = BPF_CORE_READ(own, vlan_id);
        if (vlan && id)
            return HS_OTHER_VLANS;
        vlan |= id;
        dev = BPF_CORE_READ(own, real_dev);
    }
    return vlan;
}

/* Where the IP header of a frame is, whose Ethernet header is at `at`; 0: there is none. In the
 * upper half: the VLAN, with `vlan`, which is known besides the tags in the frame. head, tail: the
 * sk_buff's. The verifier looks at it once, and not for each way that leads here: not static. */
__noinline __u64 hs_past_tags(__u64 head, __u32 tail, __u32 at, __u32 vlan) {
    __u16 words[2];
    __u32 id;

    at += 2 * ETH_ALEN;
    for (int i = 0; i <= HS_TAGS; i++) {
        if (at + sizeof(words) > tail ||
            bpf_probe_read_kernel(words, sizeof(words), (void *)(head + at)))
            return 0;
        if (words[0] == bpf_htons(ETH_P_IP) || words[0] == bpf_htons(ETH_P_IPV6))
            return (__u64)vlan << 32 | (at + 2);
        if (words[0] != bpf_htons(ETH_P_8021Q) && words[0] != bpf_htons(ETH_P_8021AD))
            return 0;
        id = bpf_ntohs(words[1]) & 0xfff;
        if (vlan && id)
            return 0;
        vlan |= id;
        at += sizeof(words);
    }
    return 0;
}

/* The flow of a packet. mac: where its Ethernet header is, or HS_NO_HEADER. l3: where the kernel
 * has its IP header, or 0; behind what the frame begins with, the kernel is right (a tunnel's inner
 * header). dev: the interface that it is on. Returns 0 for no flow; the tuple is then undefined.
 * The caller has zeroed it. */
static __noinline int hs_met(struct sk_buff *skb, __u32 mac, __u32 l3, struct net_device *dev,
                             struct hs_tuple *tuple) {
    unsigned char *head = skb->head;
    __u32 tail = skb->tail, vlan = hs_vlan_of(dev), beside = hs_vlan_beside(skb), header;
    __u8 ip[HS_GLANCE_IP], l4[HS_GLANCE_L4];
    __u64 inside;

    if (vlan == HS_OTHER_VLANS || (vlan && beside))
        return 0;
    vlan |= beside;
    if (mac != HS_NO_HEADER) {
        /* head, once more: newer kernels take it for a pointer as it is, and this takes a number */
        inside = hs_past_tags((__u64)BPF_CORE_READ(skb, head), tail, mac, vlan);
        header = inside;
        if (!header)
            return 0;
        if (l3 <= header) {
            l3 = header;
            vlan = inside >> 32;
        }
    }
    if (!l3 || l3 + 20 > tail || bpf_probe_read_kernel(ip, sizeof(ip), head + l3))
        return 0;
    header = hs_glance_ip(ip, tuple);
    if (!header || l3 + header + sizeof(l4) > tail ||
        bpf_probe_read_kernel(l4, sizeof(l4), head + l3 + header))
        return 0;
    tuple->vlan = vlan;
    return hs_glance_l4(l4, tuple);
}

#endif
