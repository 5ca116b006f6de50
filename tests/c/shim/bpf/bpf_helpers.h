// SPDX-License-Identifier: Apache-2.0
/* libbpf's header of this name, as far as flow/packet.bpf.h needs it, for user space: so that a
 * test runs the kernel's parser under a sanitizer, on frames that end where their memory does.
 *
 * A frame is where the 32-bit pointers of struct __sk_buff reach (mmap with MAP_32BIT). The test
 * defines what the helpers do. */
#ifndef SHIM_BPF_HELPERS_H
#define SHIM_BPF_HELPERS_H
#include <linux/bpf.h>

#define SEC(name) __attribute__((used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))

void *bpf_map_lookup_elem(void *map, const void *key);
long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags);
long bpf_skb_load_bytes(const struct __sk_buff *skb, __u32 offset, void *to, __u32 size);
__u64 bpf_ktime_get_coarse_ns(void);

#endif
