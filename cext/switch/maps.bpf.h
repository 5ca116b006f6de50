// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The maps of the data plane, and its counters. */
#ifndef HS_MAPS_BPF_H
#define HS_MAPS_BPF_H

#include "flow/packet.bpf.h"
#include "switch/layout.h"

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
    __uint(max_entries, HS_FLOWS_MAX);
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
    __uint(max_entries, HS_CONNS_MAX);
    __type(key, struct hs_tuple);
    __type(value, struct hs_conn);
} conns SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, union hs_swept);
} swept SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1 << 16);
    __type(key, struct hs_address);
    __type(value, __u32);
} owners SEC(".maps");

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
    __uint(max_entries, HS_EVENTS_MAX);
} events SEC(".maps");

static __always_inline void hs_count(__u32 reason) {
    __u64 *n = bpf_map_lookup_elem(&counters, &reason);

    if (n)
        *n += 1;
}

/* A full barrier. */
static __always_inline void hs_barrier(void) {
    __u64 word = 0, before = __sync_fetch_and_add(&word, 1);

    barrier_var(before); /* it is wanted: what only adds is no barrier */
}

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

#endif
