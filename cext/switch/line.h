// SPDX-License-Identifier: Apache-2.0
/* The line: holds frames back until their time, on a thread of its own, where the kernel has no
 * queue that does (tc-fq(8)).
 *
 * switch/impair.bpf.c puts a head (struct hs_line_head) before a frame and sends it to a TAP
 * (Documentation/networking/tuntap.rst) in the switch's namespace. The thread reads it there, keeps
 * it until its time, and sends it by a packet socket (packet(7)) out of the port that the head
 * names, with the mark HS_MARK_DONE, which the program lets pass, or the one in the head. Frames
 * that have the same time go in the order in which they came. Checksums and segments that the
 * kernel has left to hardware stay so (struct virtio_net_hdr on both sides).
 *
 * Frames come from VMs: a line keeps at most HS_LINE_PACKETS of them and HS_LINE_BYTES. While it is
 * full it reads no more, and the TAP's own queue fills; what the kernel drops there it names.
 *
 * The line owns both descriptors. One thread has all of its state; others ask hs_line_count only.
 *
 * Every function returns 0 or a value >= 0, or a negative errno. */
#ifndef HS_LINE_H
#define HS_LINE_H
#include <stdbool.h>
#include <stdint.h>

#include "switch/impair.h"

#define HS_LINE_PACKETS 100000
#define HS_LINE_BYTES (64u << 20)

struct hs_line;

/* What became of the frames. */
struct hs_line_count {
    uint64_t held;   /* that have come */
    uint64_t sent;   /* of them, those that are gone at their time */
    uint64_t unsent; /* of them, those that the kernel did not take: their port is gone */
};
_Static_assert(sizeof(struct hs_line_count) == 24, "struct hs_line_count");

/* Start the thread. tap: a TAP with IFF_NO_PI and IFF_VNET_HDR, that does not block. out: a packet
 * socket with PACKET_VNET_HDR and its mark, that does not block. Both become the line's, also if
 * this fails. exact: the thread comes before others, for tests see when it sends. */
int hs_line_new(struct hs_line **out_line, int tap, int out, bool exact);
/* Stop the thread and free; what is held then is lost. NULL is allowed. */
void hs_line_free(struct hs_line *l);
void hs_line_counted(struct hs_line *l, struct hs_line_count *found);

#endif
