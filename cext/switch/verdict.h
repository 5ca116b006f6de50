// SPDX-License-Identifier: Apache-2.0
/* A verdict in one 64-bit word, which is read and written whole: epoch, flags (HS_F_*), action
 * (enum hs_action), and the VM that it is to. For BPF programs and for user space. */
#ifndef HS_VERDICT_H
#define HS_VERDICT_H

#include "flow/tuple.h"

HS_INLINE __u64 hs_verdict(__u32 epoch, __u8 flags, __u8 action, __u16 to) {
    return (__u64)epoch << 32 | (__u32)flags << 24 | (__u32)action << 16 | to;
}

HS_INLINE __u32 hs_epoch_of(__u64 verdict) {
    return verdict >> 32;
}
HS_INLINE __u8 hs_flags_of(__u64 verdict) {
    return verdict >> 24;
}
HS_INLINE __u8 hs_action_of(__u64 verdict) {
    return verdict >> 16;
}
HS_INLINE __u16 hs_to_of(__u64 verdict) {
    return verdict;
}

/* Tells a verdict from those of other epochs and VMs, in 32 bits. */
HS_INLINE __u32 hs_mark(__u64 verdict) {
    return hs_epoch_of(verdict) << 12 | hs_to_of(verdict);
}

#endif
