// SPDX-License-Identifier: Apache-2.0
/* A tester as for RFC 2544, inside the kernel: frames from a VM's eth0, counted at another's.
 *
 * What a path costs shows only as far as sending and receiving cost less. So frames are not made by
 * system calls: `generate` (bench/tester.bpf.c) clones one finished frame, BURST times in a row,
 * out by the interface, where it meets queueing disciplines and the programs at egress as every
 * packet does; that is also how a NIC's poll hands packets on, in bursts. `arrive`, at the ingress
 * of the far VM's eth0, counts those of the tester's that have come out of the path into that VM's
 * stack, and takes them. Both are the same on every switch.
 *
 * Frames are Ethernet, IPv4, UDP without a checksum (RFC 768), HS_TESTER_FRAME bytes; the payload
 * starts with the frame's number, 64 bits in network order. In a stream of flows each has a source
 * address and port of its own, made of the number, so that no tuple comes twice. At most `window`
 * are on their way at a time: what is between is loaded and not flooded. */
#ifndef HS_TESTER_H
#define HS_TESTER_H
#include <linux/types.h>

enum {
    HS_TESTER_FRAME = 60, /* bytes: 64 with the check sequence of a wire */
    HS_TESTER_BURST = 64,
    HS_TESTER_SOURCES = 60000, /* source ports in use, from HS_TESTER_FIRST */
    HS_TESTER_FIRST = 1024,
    HS_TESTER_PORTS = 8,   /* destination ports that are counted, from `port`, each by itself */
    HS_TESTER_SEEN = 4096, /* flows to an entry of `seen`, a byte for each */
};

/* `arrivals`, mapped by the sender (BPF_F_MMAPABLE). */
struct hs_arrivals {
    __u64 got[HS_TESTER_PORTS];
    __u64 limit; /* flows of each destination port; 0: their numbers are not noted */
    __u64 port;  /* host order */
};
_Static_assert(sizeof(struct hs_arrivals) == 80, "no padding");

/* `generate`'s orders, in skb->cb; it leaves the number of the next frame there. */
enum {
    HS_CB_COUNT,  /* frames of a burst */
    HS_CB_NUMBER, /* of the first one, the lower 32 bits */
    HS_CB_SOURCE, /* source address of the first flows, host order; 0: one flow, of the frame's */
};

struct hs_tester {
    __u32 ifindex, source;
    __u64 first;  /* number of the first frame, < 2^32 */
    __u64 count;  /* frames; 0: as many as go in `ms` */
    __u64 ms;     /* at most this long */
    __u64 window; /* 1 or more */
    __u64 sent, got;
    __u64 lost;   /* out: given up, none came for HS_TESTER_QUIET_MS */
    __u64 ns;     /* out: from the first frame sent to the last that came */
    __u64 cpu_ns; /* out: of the calling thread */
};

enum { HS_TESTER_QUIET_MS = 1000 };

#ifndef __bpf__
#include <stdint.h>

/* Send copies of `frame` by the interface of the namespace netns_fd, with `generate`, and wait for
 * them; got: the counter of their destination port, in `arrivals`. Returns 0 or a negative errno
 * (EPROTO: more came than were sent). */
int hs_tester_run(int netns_fd, int prog_fd, const void *frame, const uint64_t *got,
                  struct hs_tester *run);
#endif

#endif
