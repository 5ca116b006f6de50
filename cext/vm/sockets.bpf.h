// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What a VM holds of the kernel's memory by its sockets, and no cgroup is charged with: rings of
 * packet sockets (packet(7)) and of AF_XDP, and what waits in the receive queues of packet, netlink
 * and raw sockets. TCP, UDP and UNIX sockets are charged by the kernel.
 *
 * Three objects share the maps that are declared here:
 *     sockets       asks before a socket option takes memory; attached to each VM's cgroup
 *     socketbirths  charges new sockets with their queue; attached once, if the kernel runs BPF
 *                   programs at the entry of its functions. Without it queues are charged as
 *                   far as SO_RCVBUF asks for more
 *     socketsums    walks all sockets that live, and says what they are charged with
 *
 * What a socket is charged with only grows while it lives: an option that failed, or a ring that
 * was given back, stays charged. What a VM was ever charged with only grows too (`used`); what
 * ended sockets were charged with is taken off it (`ended`) after a walk. Each order of the two in
 * a race errs to the VM's cost, so no number of threads holds more than the bound. */
#ifndef HS_SOCKETS_BPF_H
#define HS_SOCKETS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* What a socket is charged for. */
enum hs_held_for {
    HS_QUEUE,
    HS_PACKET_RX,
    HS_PACKET_TX,
    HS_FANOUT,
    HS_XDP_RX,
    HS_XDP_TX,
    HS_XDP_FILL,
    HS_XDP_COMPLETION,
    HS_XDP_POOL, /* and its umem: its own or another socket's, which may end before this one */
    HS_HELD_FOR
};

/* Of a VM, by the id of its cgroup. netns/sockets.py has the same. */
struct budget {
    __u64 used;  /* bytes that its sockets were ever charged with */
    __u64 most;  /* bytes that those that live may be charged with */
    __u64 queue; /* bytes, the longest queue that SO_RCVBUF gives: twice net.core.rmem_max */
    __u64 asked; /* ns of CLOCK_MONOTONIC: when a walk was asked for last */
};

struct held {
    __u64 vm; /* 0: not known yet */
    __u64 bytes[HS_HELD_FOR];
};

#define AF_INET 2
#define AF_INET6 10
#define AF_NETLINK 16
#define AF_PACKET 17
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define IPPROTO_ICMP 1
#define IPPROTO_ICMPV6 58

#define HS_VMS 8192
#define HS_DEPTH 12 /* of a VM's cgroup below the root, at most */
#define HS_ENOMEM 12
#define HS_AGAIN 500000000ULL /* ns between two walks that one VM asks for */

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, HS_VMS);
    __type(key, __u64);
    __type(value, struct budget);
} budgets SEC(".maps");

/* Bytes by VM; Python writes it. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, HS_VMS);
    __type(key, __u64);
    __type(value, __u64);
} ended SEC(".maps");

/* A VM's id: a walk is due, because half of what it may have is charged, or it was refused some. */
struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096);
} due SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct held);
} sockets_held SEC(".maps");

/* Whether nobody is charged with what waits in its queue. */
static __always_inline int hs_uncharged(int family, int type, int protocol) {
    if (family == AF_PACKET || family == AF_NETLINK)
        return 1;
    if (family != AF_INET && family != AF_INET6)
        return 0;
    return type == SOCK_RAW ||
           (type == SOCK_DGRAM && (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6));
}

/* The VM that the calling process is in; 0: none. */
static __always_inline __u64 hs_vm_now(void) {
    for (int level = 1; level < HS_DEPTH; level++) {
        __u64 id = bpf_get_current_ancestor_cgroup_id(level);

        if (id == 0)
            break;
        if (bpf_map_lookup_elem(&budgets, &id))
            return id;
    }
    return 0;
}

/* Charge a socket with `bytes` for one thing, if it is not charged with as much yet. Returns 0 or
 * -HS_ENOMEM: more than its VM may have. */
static __always_inline int hs_charge(struct held *held, enum hs_held_for what, __u64 bytes) {
    struct budget *budget = bpf_map_lookup_elem(&budgets, &held->vm);
    __u64 *over = bpf_map_lookup_elem(&ended, &held->vm);
    __u64 before = held->bytes[what], gone = over ? *over : 0, more = bytes - before, now;
    int ret = 0;

    if (!budget || bytes <= before)
        return 0;
    if (bytes > budget->most) /* also: no sum of such numbers overflows */
        return -HS_ENOMEM;
    now = *(volatile __u64 *)&budget->used - gone + more;
    if (now <= budget->most) {
        __sync_fetch_and_add(&held->bytes[what], more);
        now = __sync_fetch_and_add(&budget->used, more) - gone + more;
    }
    if (now > budget->most)
        ret = -HS_ENOMEM;
    if (now > budget->most / 2 && bpf_ktime_get_ns() - budget->asked > HS_AGAIN) {
        budget->asked = bpf_ktime_get_ns();
        bpf_ringbuf_output(&due, &held->vm, sizeof(held->vm), 0);
    }
    return ret;
}

#endif
