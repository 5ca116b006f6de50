// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Of the kernel's structures, what programs read of a packet that no context of theirs has; libbpf
 * finds the places in the kernel's BTF. */
#ifndef HS_KERNEL_BPF_H
#define HS_KERNEL_BPF_H

#include <linux/types.h>

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
    unsigned int mtu;
    possible_net_t nd_net;
};
struct sk_buff {
    struct net_device *dev;
    unsigned long _skb_refdst;
    unsigned int len, mark;
    int skb_iif;
    __be16 protocol;
    __u16 network_header, mac_header;
    unsigned int tail, end;
    unsigned char *head, *data;
    __u8 pkt_type : 3;
    __u8 cloned : 1;
    __u8 ip_summed : 2;
    __u16 csum_start, csum_offset; /* in a union of the kernel's, which libbpf looks into */
};
#pragma clang attribute pop

#endif
