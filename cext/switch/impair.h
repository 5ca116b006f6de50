// SPDX-License-Identifier: Apache-2.0
/* What the program at the ports' exits (switch/impair.bpf.c) and the daemon agree on.
 *
 * A link is a VM's or an endpoint's, in one direction. Whether its packet number n is lost, copied,
 * spoiled or early, and how long it takes, follows from its seed and n alone: the same seed has the
 * same losses. Frames to groups (ARP's questions, IPv6's) have numbers of their own: nobody knows
 * when a kernel sends one. Everything is in host byte order. */
#ifndef HS_IMPAIR_H
#define HS_IMPAIR_H

#include <linux/types.h>

enum hs_direction {
    HS_LINK_IN,  /* what the switch sends to the VM */
    HS_LINK_OUT, /* what came from the VM, on its way out of any other port */
};

enum {
    HS_LINK_DOWN = 1,  /* everything is lost */
    HS_LINK_TIMED = 2, /* delay, jitter or rate is given: packets have a time of departure */
    HS_LINK_LINE = 4,  /* the line holds them until then; else the port's queue fq (tc-fq(8)) */
};

#define HS_LINK_ALL (1ull << 32) /* a share of packets is in 2^-32 */

/* `links`, by VM << 1 | direction. */
struct hs_link {
    __u64 seed;
    __u64 loss, duplicate, corrupt, reorder; /* shares of packets: 0 to HS_LINK_ALL */
    __u64 delay, jitter;   /* ns; a packet takes delay - jitter to delay + jitter */
    __u64 rate;            /* bytes a second; 0: as many as go */
    __u64 next;            /* when the next may go, by `rate` (CLOCK_MONOTONIC) */
    __u64 packets, groups; /* frames that came, to one and to many: the number of the next */
    __u64 lost, duplicated, corrupted, reordered, late; /* late: lost, since `rate` had no time */
    __u64 groups_lost;                                  /* of `lost`, frames to groups */
    __u32 flags;
    __u32 pad;
};
_Static_assert(sizeof(struct hs_link) == 144, "no padding");

/* The line (switch/line.h): the number of its TAP, which is no port's, and what stands before each
 * frame there. due: CLOCK_MONOTONIC, ns; port: the interface that the frame is to leave by, and in
 * its upper half, if that is not 0, the lower half of the frame's mark, HS_LINE_MARKED. */
enum { HS_LINE_TAP = 30000 };
#define HS_LINE_MAGIC 0x48534c4eu
struct hs_line_head {
    __u64 due;
    __u32 port;
    __u32 magic; /* HS_LINE_MAGIC */
};
_Static_assert(sizeof(struct hs_line_head) == 16, "no padding");
#define HS_LINE_MARKED 0x48420000u

/* skb->mark of what no link does anything to any more: it has been through all. Marks do not leave
 * a namespace (veth). */
#define HS_MARK_DONE 0x48534350

/* skb->mark of what is longer than the port of the router takes that it is for. The classifier
 * sends it out by that port all the same, if a link of the way is impaired; once it has been
 * through all links it comes in by the port, from where the classifier steps with it into the
 * router's eth0. */
#define HS_MARK_LONG 0x48534c47

enum { HS_LINK_WAIT_MS = 1000 }; /* a packet that would have to wait longer for `rate` is lost */

#endif
