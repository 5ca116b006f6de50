// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Impaired links: loss, copies, wrong bits, delay, at the exits of the switch's ports.
 *
 *   impair   tc egress of each port of the switch, while any link of the host is impaired
 *
 * A packet first meets what the link that it came by does on the way out of its VM, then what the
 * link that it leaves by does on the way in. A packet that is lost is the kernel's drop TC_EGRESS
 * of the switch's namespace, where nothing else drops at this place: the daemon calls it
 * `link-loss`.
 *
 * Delay is a packet's time of departure: skb->tstamp, which the port's queue fq holds it for, or,
 * if the kernel has none, in a head before the frame that goes to the line (switch/line.h). The
 * line sends it by the port again, marked. What no port could send, since it is too long, does not
 * wait: the kernel drops it, or a router gets it at once (HS_MARK_LONG). */
#include "switch/impair.h"
#include "switch/layout.h"

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum {
    HS_SECOND = 1000000000,
    HS_MS = 1000000,
    HS_TAG = 4, /* bytes of a VLAN tag, which a port takes beyond its MTU */
};

/* The dice of one packet; each is rolled for one thing. */
enum { HS_FOR_LOSS = 1, HS_FOR_COPY, HS_FOR_BIT, HS_FOR_PLACE, HS_FOR_EARLY, HS_FOR_JITTER };

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 2 * (HS_VM_MAX + 1));
    __type(key, __u32);
    __type(value, struct hs_link);
} links SEC(".maps");

/* What befalls a packet. */
struct hs_fate {
    __u64 delay; /* ns, of all links */
    __u64 least; /* when it may go at the earliest; 0: now */
    __u64 place; /* a random number, if a bit is to be turned */
    __u32 spoiled;
    __u32 copied;
    __u32 timed;
    __u32 line;  /* the line holds it */
    __u32 group; /* its frame is to a group */
};

/* A 32-bit random number of a packet, for one thing (SplitMix64's finisher). */
static __always_inline __u64 hs_dice(__u64 seed, __u64 nth, __u64 what) {
    __u64 x = seed + (nth * 8 + what) * 0x9e3779b97f4a7c15ull;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return (x ^ x >> 31) >> 32;
}

static __always_inline void hs_add_one(__u64 *count) {
    __sync_fetch_and_add(count, 1);
}

/* When a packet of `length` bytes may go by a link's rate; 0: it would have to wait too long. */
static __always_inline __u64 hs_turn(struct hs_link *link, __u64 now, __u64 length) {
    __u64 takes = length * HS_SECOND / link->rate, before, start;

    for (int i = 0; i < 8; i++) {
        before = *(volatile __u64 *)&link->next;
        start = before > now ? before : now;
        if (start - now > (__u64)HS_LINK_WAIT_MS * HS_MS)
            return 0;
        if (__sync_val_compare_and_swap(&link->next, before, start + takes) == before)
            return start;
    }
    return 0;
}

/* What one link does to a packet. Returns 0 if it is lost. */
static __always_inline int hs_pass(struct hs_link *link, struct __sk_buff *skb, __u64 now,
                                   struct hs_fate *fate) {
    __u64 nth = __sync_fetch_and_add(fate->group ? &link->groups : &link->packets, 1);
    __u64 seed = fate->group ? ~link->seed : link->seed;

    if (link->flags & HS_LINK_DOWN || hs_dice(seed, nth, HS_FOR_LOSS) < link->loss) {
        hs_add_one(&link->lost);
        if (fate->group)
            hs_add_one(&link->groups_lost);
        return 0;
    }
    if (hs_dice(seed, nth, HS_FOR_COPY) < link->duplicate) {
        hs_add_one(&link->duplicated);
        fate->copied = 1;
    }
    if (hs_dice(seed, nth, HS_FOR_BIT) < link->corrupt) {
        hs_add_one(&link->corrupted);
        fate->spoiled = 1;
        fate->place = hs_dice(seed, nth, HS_FOR_PLACE);
    }
    if (!(link->flags & HS_LINK_TIMED))
        return 1;
    fate->timed = 1;
    fate->line |= link->flags & HS_LINK_LINE;
    if (link->rate) {
        __u64 turn = hs_turn(link, now, skb->wire_len);

        if (!turn) {
            hs_add_one(&link->late);
            return 0;
        }
        if (turn > fate->least)
            fate->least = turn;
    }
    if (hs_dice(seed, nth, HS_FOR_EARLY) < link->reorder) {
        hs_add_one(&link->reordered);
        return 1;
    }
    fate->delay += link->delay - link->jitter;
    fate->delay += hs_dice(seed, nth, HS_FOR_JITTER) * (2 * link->jitter) >> 32;
    return 1;
}

/* Turn one bit behind the Ethernet header, which has `ahead` bytes before it. */
static __always_inline void hs_spoil(struct __sk_buff *skb, __u64 place, __u32 ahead) {
    __u32 start = ahead + ETH_HLEN, body = skb->len - start, at;
    __u8 byte;

    if (skb->len <= start)
        return;
    at = start + (__u32)((place >> 3) % body);
    if (bpf_skb_load_bytes(skb, at, &byte, 1) < 0)
        return;
    byte ^= 1 << (place & 7);
    bpf_skb_store_bytes(skb, at, &byte, 1, 0);
}

/* Whether the port does not take the frame: the line could not send it, and the kernel names what
 * the port drops. */
static __always_inline int hs_too_long(struct __sk_buff *skb) {
    __u32 mtu = 0;

    return bpf_check_mtu(skb, 0, &mtu, -HS_TAG, 0) != 0; /* 0: what is to be cut, it takes */
}

/* Send a frame, and its copy, to the line. */
static __always_inline int hs_hold(struct __sk_buff *skb, struct hs_fate *fate, __u64 due) {
    struct hs_line_head head = {.due = due, .port = skb->ifindex, .magic = HS_LINE_MAGIC};

    if (bpf_skb_change_head(skb, sizeof(head), 0) < 0 ||
        bpf_skb_store_bytes(skb, 0, &head, sizeof(head), 0) < 0)
        return TC_ACT_SHOT; /* no memory */
    if (fate->copied)
        bpf_clone_redirect(skb, HS_LINE_TAP, 0);
    if (fate->spoiled)
        hs_spoil(skb, fate->place, sizeof(head));
    return bpf_redirect(HS_LINE_TAP, 0);
}

/* Have the classifier step into the router's eth0 with a packet, and its copy. */
static __always_inline int hs_step_in(struct __sk_buff *skb, const struct hs_fate *fate) {
    if (fate->copied)
        bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
    if (fate->spoiled)
        hs_spoil(skb, fate->place, 0);
    return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

SEC("tc")
int impair(struct __sk_buff *skb) {
    __u32 to = (skb->ifindex - HS_IFINDEX) << 1 | HS_LINK_IN;
    __u32 from = (skb->ingress_ifindex - HS_IFINDEX) << 1 | HS_LINK_OUT;
    __u64 now = bpf_ktime_get_ns();
    struct hs_fate fate = {0};
    struct hs_link *link;
    __u8 first = 0;

    if (skb->mark == HS_MARK_DONE)
        return TC_ACT_OK;
    bpf_skb_load_bytes(skb, 0, &first, 1);
    fate.group = first & 1;
    link = bpf_map_lookup_elem(&links, &from);
    if (link && !hs_pass(link, skb, now, &fate))
        return TC_ACT_SHOT;
    link = bpf_map_lookup_elem(&links, &to);
    if (link && !hs_pass(link, skb, now, &fate))
        return TC_ACT_SHOT;
    if (skb->mark == HS_MARK_LONG)
        return hs_step_in(skb, &fate);
    if (fate.line && !hs_too_long(skb))
        return hs_hold(skb, &fate, (fate.least ? fate.least : now) + fate.delay);
    if (fate.timed)
        bpf_skb_set_tstamp(skb, (fate.least ? fate.least : now) + fate.delay,
                           BPF_SKB_TSTAMP_DELIVERY_MONO);
    if (fate.copied) {
        skb->mark = HS_MARK_DONE;
        bpf_clone_redirect(skb, skb->ifindex, 0);
        skb->mark = 0;
    }
    if (fate.spoiled)
        hs_spoil(skb, fate.place, 0);
    return TC_ACT_OK;
}
