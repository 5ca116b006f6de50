// SPDX-License-Identifier: Apache-2.0
/* An AF_XDP socket on an interface of this network namespace, over a process's umem.
 *
 * Documentation/networking/af_xdp.rst. Copy mode (a veth has no other), with need-wakeup. The XDP
 * program and its XSKMAP are the daemon's (port/capture.bpf.c), and so is the making of the socket:
 * the kernel pins a umem's memory, and counts that against RLIMIT_MEMLOCK of a process without
 * CAP_IPC_LOCK in the machine's user namespace, which no process in a VM has. libxdp registers a
 * umem and sets up its rings in one call, in one process, so the rings are set up here; what is put
 * into them and taken out goes by libxdp's functions (xdp/xsk.h). The kernel is trusted, so there
 * are no checks of what it says here; but frames of the umem may belong to channels, and go back to
 * them when they have been sent.
 */
#ifndef HS_XSK_H
#define HS_XSK_H
#include "ring/umem.h"

#include <xdp/xsk.h>

/* The kernel's frames are one page at most. In a umem of larger ones it is given the first
 * HS_CHUNK bytes of each to receive into, and cuts what is longer into pieces (XDP_USE_SG, Linux
 * 6.6): they are put together in the frame of the first one, which has room behind it. What is
 * sent lies in one frame, and is handed over in pieces that end where a chunk ends. */
#define HS_CHUNK 4096u

struct hs_xsk {
    struct hs_umem *frames;
    int fd; /* 0: none; no socket of ours has that number */
    struct xsk_ring_prod fill, tx;
    struct xsk_ring_cons completion, rx;
    size_t mapped[4];              /* bytes of the four rings, in this order */
    uint32_t in_fill;              /* frames the kernel holds to receive into */
    uint32_t in_tx;                /* frames the kernel holds to send */
    uint64_t received, sent, full; /* received: descriptors */
    uint64_t too_long;             /* lost: longer than what is behind its frame's first piece */
    uint8_t *pieces;       /* by frame: what the kernel has of a packet to send; NULL: no pieces */
    struct xdp_desc begun; /* a packet of which more pieces are to come; len 0: none */
    uint32_t spoilt;       /* it is too long */
};

/* Make a socket of the network namespace, whose umem is the memory of `size` bytes behind
 * memory_fd, in frames of frame_size bytes, a power of two, and which has its four rings, of `ring`
 * entries: the process that gets it cannot have the kernel make larger ones. Returns its
 * descriptor, the caller's, for a process of that namespace to open; or a negative errno: ENOBUFS
 * beyond RLIMIT_MEMLOCK. */
int hs_xsk_make(int netns_fd, int memory_fd, uint64_t size, uint32_t frame_size, uint32_t ring);

/* Open the socket `fd`, which becomes the xsk's, on queue 0 of `interface`; `x` is all zeroes, and
 * `frames` are in the socket's umem. `ring`: entries of each of the four rings, as it was made
 * with. Returns 0 or a negative errno; -EINVAL: no kernel that takes packets in pieces; -EBUSY:
 * another socket has the queue, perhaps that of a process that has just been killed; the call may
 * be made again with what it has left in `x`. hs_xsk_close in the end, in each case. */
int hs_xsk_open(struct hs_xsk *x, int fd, const char *interface, struct hs_umem *frames,
                uint32_t ring);

/* Twice is harmless. */
void hs_xsk_close(struct hs_xsk *x);

/* The socket's descriptor; stays the xsk's. */
int hs_xsk_fd(const struct hs_xsk *x);

/* How many descriptors wait to be received. */
uint32_t hs_xsk_waiting(const struct hs_xsk *x);

/* Receive up to `n` packets into `batch`; the frames are the caller's. */
uint32_t hs_xsk_recv(struct hs_xsk *x, struct xdp_desc *batch, uint32_t n);

/* Send up to `n` packets; how many were taken: their frames are the kernel's. */
uint32_t hs_xsk_send(struct hs_xsk *x, const struct xdp_desc *batch, uint32_t n);

/* Take back what has been sent, and let the kernel go on with what has not; to be called now and
 * then while in_tx > 0. */
void hs_xsk_reap(struct hs_xsk *x);

/* Give the kernel free frames to receive into; called by recv. */
void hs_xsk_refill(struct hs_xsk *x);

#endif
