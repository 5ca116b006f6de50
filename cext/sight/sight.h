// SPDX-License-Identifier: Apache-2.0
/* A packet that a capture has seen, as its BPF programs (sight/sight.bpf.c) tell it: this, and then
 * `taken` bytes of the frame, from where the kernel was in it. Host byte order; the tuple is as in
 * the packet. */
#ifndef HS_SIGHT_H
#define HS_SIGHT_H

#include "flow/tuple.h"

enum hs_sight_place {
    HS_LEAVES = 1,   /* a VM's eth0, for the switch */
    HS_STRAIGHT = 2, /* a VM's direct link to another one */
    HS_ARRIVES = 3,  /* a VM's port of the switch, before the classifier */
    HS_LOST = 4,     /* wherever the kernel dropped it */
    HS_RING = 5,     /* a packet function's port, into a ring */
    HS_UNSENT = 6,   /* a packet function's port, which had no room for it */
};

enum {
    HS_SIGHT_SNAP = 65535, /* bytes of a frame at most */
    HS_SIGHT_BEFORE = 128,
};

struct hs_sight {
    __u64 time;        /* CLOCK_MONOTONIC, ns */
    __u64 verdict;     /* switch/verdict.h: of its flow at the port, or of its rule; 0: none yet */
    struct hs_key key; /* tuple.family 0: it is of no flow; vm: whose port or interface it is on */
    __u32 length;      /* of the frame */
    __u32 taken;       /* bytes of it that follow */
    __u32 reason;      /* HS_LOST: the kernel's; HS_UNSENT: enum hs_tap_end */
    __u16 route;       /* HS_NO_ROUTE: none */
    __u16 to;          /* HS_STRAIGHT, HS_RING: the VM at the other end */
    __u8 place;        /* enum hs_sight_place */
    __u8 reply;        /* against the chain's order */
    __u16 before;      /* bytes of `head` */
    __u8 head[HS_SIGHT_BEFORE]; /* those of the frame before where the kernel was in it */
};
_Static_assert(sizeof(struct hs_sight) == 208, "no padding");

#endif
