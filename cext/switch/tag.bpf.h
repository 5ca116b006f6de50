/* The epoch that a packet was first judged by, which it carries through its chain.
 *
 * A policy is replaced while packets are in flight, and each packet must meet the old
 * policy or the new one, whole. So a packet carries the epoch it was first judged by through every
 * VM of its chain: in skb->hash, which neither a veth crossing (skb_scrub_packet) nor the kernel's
 * IP forwarding, fragmentation or bridging touches, and which no software in a VM sees. A packet
 * that lost it (a VM's own, or one that went through user space) takes the newest epoch. A tag is
 * believed from a chain's VM only, and names one of the last HS_EPOCHS policies only. */
#ifndef HS_TAG_BPF_H
#define HS_TAG_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define HS_TAG 0x68730100u
#define HS_TAG_MASK 0xffffff00u

static __always_inline void hs_tag(struct __sk_buff *skb, __u32 epoch) {
    __u32 want = HS_TAG | (epoch & 0xff);

    if (skb->hash != want)
        bpf_set_hash(skb, want);
}

/* How many epochs ago the packet was first judged; 0 also where it carries no tag. */
static __always_inline __u32 hs_age(struct __sk_buff *skb, __u32 epoch) {
    __u32 hash = skb->hash;

    return (hash & HS_TAG_MASK) == HS_TAG ? (epoch - hash) & 0xff : 0;
}

#endif
