/* The maps of the data plane, and the words its programs share: epoch tag, verdict, counters.
 *
 * The tag. A policy is replaced while packets are in flight, and each packet must meet the old
 * policy or the new one, whole. So a packet carries the epoch it was first judged by through every
 * VM of its chain: in skb->hash, which neither a veth crossing (skb_scrub_packet) nor the kernel's
 * IP forwarding, fragmentation or bridging touches, and which no software in a VM sees. A packet
 * that lost it (a VM's own, or one that went through user space) takes the newest epoch. A tag is
 * believed from a chain's VM only, and names one of the last HS_EPOCHS policies only. */
#ifndef HS_MAPS_BPF_H
#define HS_MAPS_BPF_H

#include "flow/packet.bpf.h"
#include "switch/layout.h"

/* A function that the verifier checks by itself, once, and not for every state of every caller.
 * It must not trust its pointers to be there. */
#define HS_GLOBAL __attribute__((noinline))

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hs_config);
} config SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, HS_EPOCHS);
    __type(key, __u32);
    __type(value, struct hs_policy);
} policies SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, HS_REGIONS *HS_ROWS_MAX);
    __type(key, __u32);
    __type(value, struct hs_row);
} rows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, HS_REGIONS *HS_ROWS_MAX);
    __type(key, __u32);
    __type(value, struct hs_route);
} routes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, HS_VM_MAX + 1);
    __type(key, __u32);
    __type(value, struct hs_vm);
} vms SEC(".maps");

/* `flows` and `conns` may be loaded without BPF_F_NO_PREALLOC: hostsim/routing/memory.py. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1 << 20);
    __type(key, struct hs_key);
    __type(value, struct hs_flow);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, HS_VM_MAX + 1);
    __type(key, __u32);
    __type(value, struct hs_ended);
} ended SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1 << 18);
    __type(key, struct hs_tuple);
    __type(value, struct hs_conn);
} conns SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1 << 16);
    __type(key, __u32);
    __type(value, __u32);
} pairs SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1 << 16);
    __type(key, struct hs_name);
    __type(value, __u8);
} names SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, HS_REASONS);
    __type(key, __u32);
    __type(value, __u64);
} counters SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} events SEC(".maps");

static __always_inline void hs_count(__u32 reason) {
    __u64 *n = bpf_map_lookup_elem(&counters, &reason);

    if (n)
        *n += 1;
}

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

static __always_inline __u64 hs_verdict(__u32 epoch, __u8 flags, __u8 action, __u16 to) {
    return (__u64)epoch << 32 | (__u32)flags << 24 | (__u32)action << 16 | to;
}

static __always_inline __u32 hs_epoch_of(__u64 verdict) {
    return verdict >> 32;
}
static __always_inline __u8 hs_flags_of(__u64 verdict) {
    return verdict >> 24;
}
static __always_inline __u8 hs_action_of(__u64 verdict) {
    return verdict >> 16;
}
static __always_inline __u16 hs_to_of(__u64 verdict) {
    return verdict;
}

/* Tells a verdict from those of other epochs and VMs, in 32 bits. */
static __always_inline __u32 hs_mark(__u64 verdict) {
    return hs_epoch_of(verdict) << 12 | hs_to_of(verdict);
}

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

/* The connection of a tuple; turned: whether its key is the tuple of the other direction. */
static __always_inline struct hs_conn *hs_find_conn(const struct hs_tuple *tuple, int *turned) {
    struct hs_tuple key;

    *turned = hs_tuple_both_ways(tuple, &key);
    return bpf_map_lookup_elem(&conns, &key);
}

/* Parse into the packet in hand, as a packet on the interface of `vm`, and settle what an ICMP
 * error belongs to: its flow if that is known, else its own. on: HS_ON_*. Returns enum hs_kind. */
HS_GLOBAL int hs_flow_of(struct __sk_buff *skb, __u32 vm, __u32 on) {
    struct hs_packet *p = hs_packet();
    int kind, turned;

    if (!p)
        return HS_PLAIN;
    __builtin_memset(p, 0, sizeof(*p));
    p->key.vm = vm;
    kind = hs_parse(skb, p, on, 1);
    if (kind == HS_FLOW && p->error && !hs_find_conn(&p->key.tuple, &turned)) {
        __builtin_memset(p, 0, sizeof(*p));
        p->key.vm = vm;
        kind = hs_parse(skb, p, on, 0);
    }
    return kind;
}

#endif
