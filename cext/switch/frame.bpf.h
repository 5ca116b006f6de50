// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What becomes of a frame: it is dropped and counted, or addressed to a VM that takes it. */
#ifndef HS_FRAME_BPF_H
#define HS_FRAME_BPF_H

#include "switch/drops.h"
#include "switch/maps.bpf.h"

#include <linux/pkt_cls.h>

/* Drop a frame, and leave its name on it for who looks at the kernel's drops. why: enum hs_counter,
 * with HS_DROP_COUNTED or HS_DROP_BOOKED if the flow's entry has counted it. */
static __always_inline int hs_dropped(struct __sk_buff *skb, __u32 why) {
    hs_count(why & HS_DROP_NAME);
    skb->mark = HS_MARK_DROP | why;
    return TC_ACT_SHOT;
}

/* Address the frame to a VM, if it is not already. */
static __always_inline void hs_address(struct __sk_buff *skb, const struct hs_vm *vm) {
    const __u16 *now = (void *)(long)skb->data, *mac = (void *)vm->mac;

    if ((void *)(now + 3) > (void *)(long)skb->data_end || now[0] != mac[0] || now[1] != mac[1] ||
        now[2] != mac[2])
        bpf_skb_store_bytes(skb, 0, vm->mac, 6, 0);
}

/* Whether a VM's port does not take the frame, which would be lost there (is_skb_forwardable). What
 * is still to be cut into segments, it takes. */
static __always_inline int hs_too_long(const struct __sk_buff *skb, const struct hs_vm *vm) {
    return vm->longest && skb->len > vm->longest && !skb->gso_size;
}

#endif
