// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A capture: sees each packet of a host where it leaves a VM, where it arrives at the switch, and
 * where the kernel drops it.
 *
 * The programs are at tracepoints of the kernel (net:net_dev_start_xmit, net:netif_receive_skb,
 * skb:kfree_skb): while no capture is on, nothing of this runs, and nothing asks whether to. They
 * go when the process that attached them ends, however it ends. The path is told by the interface,
 * whose number hostsim chose (switch/layout.h); route and epoch by the classifier's `flows`, which
 * is taken from the running host. */
#include "bpf/kernel.bpf.h"
#include "flow/met.bpf.h"
#include "sight/sight.h"
#include "switch/layout.h"
#include "switch/reason.bpf.h"
#include "switch/wait.h"

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __type(key, __u32);   /* inode of a network namespace of the host */
    __type(value, __u32); /* HS_HOME_SWITCH, or another number */
} homes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, HS_VM_MAX + 1);
    __type(key, __u32);
    __type(value, __u32); /* bytes of a frame at most, for a VM that is captured; else 0 */
} chosen SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64); /* packets that found no place in the buffer */
} unseen SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, HS_FLOWS_MAX);
    __type(key, struct hs_key);
    __type(value, struct hs_flow);
} flows SEC(".maps"); /* the classifier's */

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hs_sight);
} hands SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
    __uint(key_size, sizeof(__u32));
    __uint(value_size, sizeof(__u32));
} sights SEC(".maps");

/* See a packet. It is on an interface of VM `vm`. */
static __always_inline int hs_see(struct sk_buff *skb, __u32 vm, __u8 place, __u32 to,
                                  __u32 reason) {
    __u32 zero = 0, *snap, at, inode = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
    unsigned char *head = skb->head, *start = head + skb->mac_header, *data = skb->data;
    struct hs_sight *sight;
    struct hs_flow *flow;
    __u64 *missed;

    snap = bpf_map_lookup_elem(&chosen, &vm);
    sight = bpf_map_lookup_elem(&hands, &zero);
    if (!snap || !*snap || !sight || !bpf_map_lookup_elem(&homes, &inode))
        return 0;
    __builtin_memset(sight, 0, sizeof(*sight));
    sight->key.vm = vm;
    sight->place = place;
    sight->to = to;
    sight->reason = reason;
    sight->route = HS_NO_ROUTE;
    sight->time = bpf_ktime_get_ns();
    at = data - start;
    if (skb->mac_header != HS_NO_HEADER && at < HS_SIGHT_BEFORE) {
        asm("" : "+r"(at)); /* or the bound that the verifier wants is optimised away */
        at &= HS_SIGHT_BEFORE - 1;
        if (at && !bpf_probe_read_kernel(sight->head, at, start))
            sight->before = at;
        if (!hs_met(skb, skb->mac_header, 0, skb->dev, &sight->key.tuple))
            sight->key.tuple.family = 0;
    }
    flow = sight->key.tuple.family ? bpf_map_lookup_elem(&flows, &sight->key) : 0;
    if (flow) {
        sight->verdict = place == HS_STRAIGHT ? flow->rule.verdict : flow->verdict;
        if (flow->verdict) { /* else the classifier has yet to decide it */
            sight->route = flow->route;
            sight->reply = flow->reply;
        }
    }
    sight->length = skb->len + sight->before;
    sight->taken = skb->len < *snap ? skb->len : *snap;
    if (bpf_skb_output(skb, &sights, BPF_F_CURRENT_CPU | (__u64)sight->taken << 32, sight,
                       sizeof(*sight)) < 0) {
        missed = bpf_map_lookup_elem(&unseen, &zero);
        if (missed)
            __sync_fetch_and_add(missed, 1);
    }
    return 0;
}

SEC("tp_btf/net_dev_start_xmit")
int leaves(__u64 *ctx) {
    struct sk_buff *skb = (struct sk_buff *)ctx[0];
    __u32 index = skb->dev->ifindex;

    if (index & HS_DIRECT)
        return hs_see(skb, index >> 12 & HS_VM_MAX, HS_STRAIGHT, index & HS_VM_MAX, 0);
    if (index - HS_ETH0 <= HS_VM_MAX)
        return hs_see(skb, index - HS_ETH0, HS_LEAVES, 0, 0);
    return 0;
}

SEC("tp_btf/netif_receive_skb")
int arrives(__u64 *ctx) {
    struct sk_buff *skb = (struct sk_buff *)ctx[0];
    __u32 index = skb->dev->ifindex;

    if (index - HS_IFINDEX <= HS_VM_MAX && skb->mark != HS_MARK_LONG && /* it leaves by there */
        !hs_is_marked(skb->mark))                                       /* it has arrived before */
        return hs_see(skb, index - HS_IFINDEX, HS_ARRIVES, 0, 0);
    return 0;
}

SEC("tp_btf/kfree_skb")
int loses(__u64 *ctx) {
    struct sk_buff *skb = (struct sk_buff *)ctx[0];
    __u32 index = BPF_CORE_READ(skb, dev, ifindex), inode, reason, *home;
    const __u16 mac = skb->mac_header;

    inode = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
    home = bpf_map_lookup_elem(&homes, &inode);
    if (!home)
        return 0;
    reason = hs_reason_of(skb, skb->dev, *home, mac == HS_NO_HEADER || skb->data - skb->head == mac,
                          ctx[2]);
    if (index & HS_DIRECT)
        return hs_see(skb, index >> 12 & HS_VM_MAX, HS_LOST, 0, reason);
    if (index - HS_IFINDEX <= HS_VM_MAX)
        return hs_see(skb, index - HS_IFINDEX, HS_LOST, 0, reason);
    if (index - HS_ETH0 <= HS_VM_MAX)
        return hs_see(skb, index - HS_ETH0, HS_LOST, 0, reason);
    return 0;
}
