// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A walk over all sockets that are charged to a VM, which adds up what they are charged with
 * (see vm/sockets.bpf.h). Whoever starts it empties `sums` before. */
#include "vm/sockets.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct bpf_iter__bpf_sk_storage_map {
    void *meta;
    void *map;
    void *sk;
    void *value;
};
#pragma clang attribute pop

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, HS_VMS);
    __type(key, __u64);
    __type(value, __u64);
} sums SEC(".maps");

SEC("iter/bpf_sk_storage_map")
int sum(struct bpf_iter__bpf_sk_storage_map *ctx) {
    struct held *held = ctx->value;
    __u64 bytes = 0, vm, *sum;

    if (!held)
        return 0;
    vm = held->vm;
    for (int i = 0; i < HS_HELD_FOR; i++)
        bytes += held->bytes[i];
    sum = bpf_map_lookup_elem(&sums, &vm);
    if (sum)
        *sum += bytes;
    else
        bpf_map_update_elem(&sums, &vm, &bytes, BPF_ANY);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
