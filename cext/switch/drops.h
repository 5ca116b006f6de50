// SPDX-License-Identifier: Apache-2.0
/* What the program at the kernel's drops (switch/drops.bpf.c) and the daemon agree on.
 *
 * Everything is in host byte order, but for the tuple (flow/tuple.h). Reasons are the kernel's
 * own numbers (enum skb_drop_reason); their names come from its BTF, by the daemon. */
#ifndef HS_DROPS_H
#define HS_DROPS_H
#include "flow/tuple.h"

enum { HS_HOME_SWITCH = 0 }; /* in `homes`, the switch's namespace; else a VM's number */

/* Reasons that the kernel has no number for, beyond those of all its subsystems. */
enum {
    HS_REASON_OURS = 0x7ffffe00,      /* and from there on: the classifier's (enum hs_counter) */
    HS_REASON_LINK_LOSS = 0x7ffffffe, /* an impaired link lost it */
    HS_REASON_TOO_LONG = 0x7fffffff,  /* the next link does not take a packet as long as this */
};

/* skb->mark of a frame that the classifier or a direct link's end drops: its name, and what the
 * flow's entry has of it. */
enum {
    HS_MARK_DROP = 0x48440000,
    HS_DROP_NAME = 0xff,     /* enum hs_counter */
    HS_DROP_COUNTED = 0x100, /* it counts among the packets of its flow */
    HS_DROP_BOOKED = 0x200,  /* and among the dropped ones: the books need no more */
    HS_DROP_BITS = 0xffff,
};

/* Where a packet was dropped, by what had counted it until then. */
enum hs_drop_place {
    HS_IN_VM,     /* nobody has counted it as sent: in a VM, or at a port, if it is no flow's */
    HS_AT_EXIT,   /* sent by the transfer component, and not yet at the port or the link's end */
    HS_IN_SWITCH, /* behind the classifier, which has counted it */
    HS_BEHIND,    /* behind the direct link, where transfer_in has counted it */
};

/* `drops`: packets of a flow (family 0: of none that can be told), by VM: the one it was in, or,
 * past its exit, the one that had sent it. */
struct hs_drop_key {
    struct hs_key key;
    __u32 reason;
    __u16 at; /* the VM whose port it was on its way out of, in the switch; else 0 */
    __u8 place;
    __u8 pad;
};
_Static_assert(sizeof(struct hs_drop_key) == 52, "hash key without padding");

struct hs_drop {
    __u64 packets;
    __u64 last; /* CLOCK_MONOTONIC, ns */
};

/* `reasons`: packets by where they were dropped (as in `homes`) and why, since the start. */
struct hs_reason {
    __u32 home;
    __u32 reason;
};

#endif
