// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the kernel drops in the namespaces of a host, by its own reason: at the tracepoint
 * skb:kfree_skb, where only what is lost comes by; what is consumed goes by another.
 *
 * A packet is in the namespace of the socket that refused it, or of its device, or, where the
 * queue that it was in uses that place otherwise, of its route's device. A pointer that is none
 * reads as nothing, and nothing is in no namespace of ours.
 *
 * What the classifier drops has its name on it (reason.bpf.h), and counts by flow only: `counters`
 * have the sums, and some of it is in the flow's entry already. Left out is what nobody has lost
 * anything by: copies for a listener that does not keep up (PACKET_SOCK_ERROR);
 * copies of what went to a group, if nobody belongs to it; and the echo reply that a raw socket
 * has a clone of, and no ping socket wants. A frame that is addressed to somebody else counts where
 * it was (`reasons`), and not as its flow's.
 *
 * A drop within the few instructions of another one on the same CPU is missed; the kernel counts
 * it (recursion_misses of the program).
 *
 * What is too long for the next link has a reason of its own here: switch/reason.bpf.h. Of a frame
 * to a group it counts where it was only. */
#include "bpf/kernel.bpf.h"
#include "flow/met.bpf.h"
#include "switch/drops.h"
#include "switch/layout.h"
#include "switch/reason.bpf.h"
#include "switch/wait.h"

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What is read here besides. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct dst_entry {
    struct net_device *dev;
};
struct sock_common {
    unsigned short skc_family;
    possible_net_t skc_net;
};
struct sock {
    struct sock_common __sk_common;
};
struct trace_event_raw_kfree_skb {
    void *rx_sk; /* from Linux 6.11 on, as the fourth argument */
};
#pragma clang attribute pop

enum { HS_REFDST_PTR = ~7 };

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __type(key, __u32); /* inode of the network namespace */
    __type(value, __u32);
} homes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1 << 15);
    __type(key, struct hs_drop_key);
    __type(value, struct hs_drop);
} drops SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1 << 16);
    __type(key, struct hs_reason);
    __type(value, __u64);
} reasons SEC(".maps");

static __always_inline __u32 *hs_home(struct net *net) {
    __u32 inode = BPF_CORE_READ(net, ns.inum);

    return bpf_map_lookup_elem(&homes, &inode);
}

/* The VM that an interface number of the host belongs to, as its sender. */
static __always_inline __u32 hs_sender(__u32 index) {
    if (index & HS_DIRECT)
        return index >> 12 & HS_VM_MAX;
    return index - HS_IFINDEX <= HS_VM_MAX ? index - HS_IFINDEX : 0;
}

/* Whether its frame is to a group, as who received it first has found. */
static __always_inline int hs_to_group(struct sk_buff *skb) {
    __u8 type = BPF_CORE_READ_BITFIELD(skb, pkt_type);

    return type == PACKET_BROADCAST || type == PACKET_MULTICAST;
}

/* Whether it is a copy that nothing is lost by. */
static __always_inline int hs_spare(struct sk_buff *skb, __u32 reason, struct hs_tuple *tuple) {
    if (IS(reason, PACKET_SOCK_ERROR))
        return 1;
    if (hs_to_group(skb))
        return IS(reason, NOT_SPECIFIED) || IS(reason, IPV6DISABLED) ||
               IS(reason, UNHANDLED_PROTO) || IS(reason, IP_INNOROUTES);
    return IS(reason, NO_SOCKET) && (tuple->proto == HS_IP_ICMP || tuple->proto == HS_IP_ICMPV6) &&
           BPF_CORE_READ_BITFIELD(skb, cloned);
}

static __always_inline void hs_add(struct hs_drop_key *key) {
    struct hs_drop *drop = bpf_map_lookup_elem(&drops, key);
    struct hs_drop first = {.packets = 1, .last = bpf_ktime_get_ns()};

    if (!drop) {
        int done = bpf_map_update_elem(&drops, key, &first, BPF_NOEXIST);

        if (!done)
            return;
        if (done == -7 /* E2BIG */) { /* a flood: all of it has one entry, which is there by now */
            __builtin_memset(&key->key.tuple, 0, sizeof(key->key.tuple));
            drop = bpf_map_lookup_elem(&drops, key);
            if (!drop && bpf_map_update_elem(&drops, key, &first, BPF_NOEXIST) == 0)
                return;
        }
        if (!drop)
            drop = bpf_map_lookup_elem(&drops, key); /* another CPU was first */
    }
    if (drop) {
        __sync_fetch_and_add(&drop->packets, 1);
        drop->last = first.last;
    }
}

/* What had counted a packet that the classifier drops, by its mark. Of what no transfer component
 * takes for a flow's, nobody has: it must not stand for another packet that is missing. */
static __always_inline __u8 hs_place_of(__u32 mark) {
    if (mark & HS_DROP_COUNTED)
        return HS_IN_SWITCH;
    switch (mark & HS_DROP_NAME) {
    case HS_C_MALFORMED:
    case HS_C_ORPHAN_FRAGMENT:
    case HS_C_FRAGMENT_CONFLICT:
    case HS_C_DEEP_TAGS:
    case HS_C_SPOOFED:
    case HS_C_FORGED:
        return HS_IN_VM;
    default:
        return HS_AT_EXIT;
    }
}

SEC("tp_btf/kfree_skb")
int kernel_drop(__u64 *ctx) {
    struct sk_buff *skb = (struct sk_buff *)ctx[0];
    struct net_device *dev = skb->dev, *on = dev;
    struct hs_drop_key key = {.reason = ctx[2]};
    struct hs_reason reason = {.reason = ctx[2]};
    __u32 *home = 0, index = 0, from;
    __u64 *count, none = 0;
    __u16 mac, network, data;
    int framed, waited;

    if (bpf_core_field_exists(struct trace_event_raw_kfree_skb, rx_sk) && ctx[3]) {
        struct sock *sk = (struct sock *)ctx[3];
        __u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

        if (family == 2 || family == 10) /* AF_INET, AF_INET6 */
            home = hs_home(BPF_CORE_READ(sk, __sk_common.skc_net.net));
    }
    if (!home) {
        home = hs_home(BPF_CORE_READ(dev, nd_net.net));
        if (home)
            index = BPF_CORE_READ(dev, ifindex);
    }
    if (!home) {
        unsigned long refdst = skb->_skb_refdst & HS_REFDST_PTR;

        on = BPF_CORE_READ((struct dst_entry *)refdst, dev);
        home = hs_home(BPF_CORE_READ(on, nd_net.net));
    }
    if (!home)
        return 0;
    reason.home = *home;
    waited = index == HS_WAIT_TAP && hs_is_marked(skb->mark);

    mac = skb->mac_header;
    network = skb->network_header;
    data = skb->data - skb->head;
    /* What a packet function sends, before it is received. An skb without contents is none: the
     * kernel makes one where a NAPI begins (napi_get_frags_check). */
    if (mac == HS_NO_HEADER && !network && skb->len > ETH_HLEN)
        mac = data;
    framed = mac != HS_NO_HEADER && data == mac; /* the device has it, or is to have it */
    if (network && network < mac + ETH_HLEN)     /* on an interface without Ethernet */
        mac = HS_NO_HEADER;
    else if (framed && *home == HS_HOME_SWITCH && !waited &&
             (index == HS_LINE_TAP || index == HS_WAIT_TAP))
        mac += sizeof(struct hs_line_head);
    if (!hs_met(skb, mac, network, on, &key.key.tuple))
        __builtin_memset(&key.key.tuple, 0, sizeof(key.key.tuple));
    key.reason = hs_reason_of(skb, dev, *home, framed, ctx[2]);
    reason.reason = key.reason;
    if (key.reason - HS_REASON_OURS <= HS_DROP_NAME) {
        if (skb->mark & HS_DROP_BOOKED)
            return 0;
        key.key.vm = hs_sender(index);
        key.place = hs_place_of(skb->mark);
        hs_add(&key);
        return 0;
    }
    if (*home == HS_HOME_SWITCH && IS(key.reason, TC_INGRESS))
        return 0; /* by a filter of somebody else's, before the classifier or behind it */
    if (hs_spare(skb, key.reason, &key.key.tuple))
        return 0;
    if (*home == HS_HOME_SWITCH) {
        from = skb->skb_iif; /* 0 until it is received: veth clears it */
        key.key.vm = waited ? skb->mark & HS_VM_MAX : hs_sender(from ? from : index);
        key.place = !from ? HS_AT_EXIT : from & HS_DIRECT ? HS_BEHIND : HS_IN_SWITCH;
        if (from && from != index)
            key.at = hs_sender(index);
    } else {
        key.key.vm = *home;
        if (framed && (index & HS_DIRECT || index == HS_ETH0 + *home) &&
            !IS(key.reason, NETFILTER_DROP) && !IS(key.reason, TC_EGRESS) &&
            !IS(key.reason, TC_INGRESS) && !IS(key.reason, XDP))
            key.place = HS_AT_EXIT;
    }
    count = bpf_map_lookup_elem(&reasons, &reason);
    if (!count) {
        bpf_map_update_elem(&reasons, &reason, &none, BPF_NOEXIST);
        count = bpf_map_lookup_elem(&reasons, &reason);
    }
    if (count)
        __sync_fetch_and_add(count, 1);
    if (IS(key.reason, OTHERHOST))
        return 0; /* a flood's or a mirror's copy, addressed to somebody else */
    if (key.reason == HS_REASON_TOO_LONG && hs_to_group(skb))
        return 0; /* a copy: others may have got theirs */
    hs_add(&key);
    return 0;
}
