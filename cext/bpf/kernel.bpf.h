// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Of the kernel's structures, what programs read of a packet that no context of theirs has; libbpf
 * finds the places in the kernel's BTF. */
#ifndef HS_KERNEL_BPF_H
#define HS_KERNEL_BPF_H

#include <linux/types.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct ns_common {
    unsigned int inum;
};
struct net {
    struct ns_common ns;
};
typedef struct {
    struct net *net;
} possible_net_t;
struct net_device {
    int ifindex;
    unsigned int mtu, priv_flags;
    possible_net_t nd_net;
};
struct sk_buff {
    struct net_device *dev;
    unsigned long _skb_refdst;
    unsigned int len, mark;
    int skb_iif;
    __be16 protocol, vlan_proto;
    __u16 vlan_tci;
    __u16 network_header, mac_header;
    unsigned int tail, end;
    unsigned char *head, *data;
    __u8 pkt_type : 3;
    __u8 cloned : 1;
    __u8 ip_summed : 2;
    __u8 vlan_present : 1;         /* until Linux 6.2 */
    __u16 csum_start, csum_offset; /* in a union of the kernel's, which libbpf looks into */
};
#pragma clang attribute pop

enum { HS_NETDEV_ALIGN = 32 };

/* Where a driver's own begins, behind a device (netdev_priv of linux/netdevice.h). */
static inline __attribute__((always_inline)) __u64 hs_netdev_size(void) {
    const __u64 size = bpf_core_type_size(struct net_device);

    return (size + HS_NETDEV_ALIGN - 1) & ~(__u64)(HS_NETDEV_ALIGN - 1);
}

#endif
