// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* See bench/tester.h. This file: the source of frames, and the count of those that arrive. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bench/tester.h"

struct hs_frame {
    struct ethhdr ethernet;
    struct iphdr ip;
    struct udphdr udp;
    __be64 number;
} __attribute__((packed));

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hs_arrivals);
} arrivals SEC(".maps");

struct hs_seen {
    __u8 count[HS_TESTER_SEEN];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hs_seen);
} seen SEC(".maps");

/* Make the frame the first packet of flow `number`. Returns whether it is a whole frame. */
static __always_inline int hs_make(struct __sk_buff *skb, __u32 number, __u32 source) {
    struct hs_frame *frame = (void *)(long)skb->data;
    __u16 *words;
    __u32 sum = 0;

    if ((void *)(frame + 1) > (void *)(long)skb->data_end)
        return 0;
    frame->ip.saddr = bpf_htonl(source + number / HS_TESTER_SOURCES);
    frame->ip.check = 0;
    words = (void *)&frame->ip;
#pragma unroll
    for (int i = 0; i < 10; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    frame->ip.check = ~sum; /* RFC 1071: the same in either byte order */
    frame->udp.source = bpf_htons(HS_TESTER_FIRST + number % HS_TESTER_SOURCES);
    frame->number = bpf_cpu_to_be64(number);
    return 1;
}

/* Run with BPF_PROG_TEST_RUN. Returns how many frames went out. */
SEC("tc")
int generate(struct __sk_buff *skb) {
    __u32 count = skb->cb[HS_CB_COUNT], number = skb->cb[HS_CB_NUMBER];
    __u32 source = skb->cb[HS_CB_SOURCE], interface = skb->ifindex;
    int sent = 0;

    for (__u32 i = 0; i < HS_TESTER_BURST && i < count; i++) {
        if (source && !hs_make(skb, number + i, source))
            break;
        sent += bpf_clone_redirect(skb, interface, 0) == 0;
    }
    skb->cb[HS_CB_NUMBER] = number + count;
    return sent;
}

/* At the tc ingress of the far VM's eth0; of clsact, whose TC_ACT_STOLEN consumes. A drop would
 * cost each packet the look that switch/drops.bpf.c takes at what is lost. */
SEC("tc")
int arrive(struct __sk_buff *skb) {
    struct hs_frame *frame = (void *)(long)skb->data;
    struct hs_arrivals *all;
    struct hs_seen *part;
    __u32 zero = 0, stream, key;
    __u64 number;

    if ((void *)(frame + 1) > (void *)(long)skb->data_end)
        return TC_ACT_UNSPEC;
    if (frame->ethernet.h_proto != bpf_htons(ETH_P_IP) || frame->ip.protocol != IPPROTO_UDP ||
        frame->ip.ihl != 5)
        return TC_ACT_UNSPEC;
    all = bpf_map_lookup_elem(&arrivals, &zero);
    if (!all)
        return TC_ACT_UNSPEC;
    stream = bpf_ntohs(frame->udp.dest) - all->port;
    if (stream >= HS_TESTER_PORTS)
        return TC_ACT_UNSPEC;
    number = bpf_be64_to_cpu(frame->number);
    if (number < all->limit) {
        number += stream * all->limit;
        key = number / HS_TESTER_SEEN;
        part = bpf_map_lookup_elem(&seen, &key);
        if (part)
            part->count[number % HS_TESTER_SEEN]++;
    }
    __sync_fetch_and_add(&all->got[stream], 1); /* pairs with the sender's acquire */
    return TC_ACT_STOLEN;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
