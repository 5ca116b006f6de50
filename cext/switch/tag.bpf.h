// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The epoch that a packet was first judged by, which it carries through its chain.
 *
 * A policy is replaced while packets are in flight, and each packet must meet the old
 * policy or the new one, whole. So a packet carries the epoch it was first judged by through every
 * VM of its chain: in skb->hash, which neither a veth crossing (skb_scrub_packet) nor the kernel's
 * IP forwarding, fragmentation or bridging touches, and which nobody in a VM can choose.
 *
 * The hash is for others too: multipath routes, fair queues, RPS and tunnels tell flows by it. So
 * it stays a flow's hash, of its tuple, and only the last byte has the epoch in it: flows differ as
 * before, a flow's packets are alike for as long as an epoch lasts, and an epoch that changes
 * leaves all but the last byte as it was. Whoever knows the tuple takes the epoch out again.
 *
 * A packet that lost it (a VM's own, or one that went through user space, or that NAT gave another
 * tuple) takes the newest epoch. So does one without a hash: what a VM sends by a packet socket has
 * none, and the VM could choose a tuple whose own hash looks like a tag. The kernel's hash of what
 * another socket sends is random: one in 2^24 looks like one. A tag is believed from a chain's VM
 * only, and names one of the last HS_EPOCHS policies only. */
#ifndef HS_TAG_BPF_H
#define HS_TAG_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "flow/tuple.h"

enum { HS_TAG = 0xff }; /* the bits that have the epoch in them */

static __always_inline void hs_tag(struct __sk_buff *skb, const struct hs_tuple *tuple,
                                   __u32 epoch) {
    __u32 want = hs_tuple_hash(tuple) ^ (epoch & HS_TAG);

    if (skb->hash != want)
        bpf_set_hash(skb, want);
}

/* How many epochs ago the packet of that flow was first judged; 0 also if it carries no tag. */
static __always_inline __u32 hs_age(struct __sk_buff *skb, const struct hs_tuple *tuple,
                                    __u32 epoch) {
    __u32 tag = skb->hash ^ hs_tuple_hash(tuple);

    return !skb->hash || tag & ~(__u32)HS_TAG ? 0 : (epoch - tag) & HS_TAG;
}

#endif
