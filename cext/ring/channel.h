// SPDX-License-Identifier: Apache-2.0
/* A channel: packets one way, from one VM's memory to another's, past switch and kernel.
 *
 * One memfd holds one channel and is mapped by its two VMs and no other. What lies in it:
 *
 *     offset 0          struct hs_channel_shared: what it is; written once, before anyone maps it
 *     packets           a ring of descriptors, sender to receiver: hs_brief or struct xdp_desc
 *     returns           shared mode: a ring of hs_frame, receiver to sender: frames going home
 *     data              isolated mode: data_size bytes that hold the packets themselves
 *
 * Isolated mode: the sender copies each packet out of its umem into `data`, which it uses as a byte
 * ring: each packet begins on the cache line after the last one's end, and at 0 if it would not
 * fit before the end. So both sides know the address of each packet, small packets lie densely, and
 * memory is run through in order; a descriptor is a hs_brief. The receiver copies the packet into a
 * frame of its own umem before anyone looks at it, for what a program has judged must not change
 * under it. No frame, no free list and no address of either umem is shared.
 *
 * Shared mode: both map one umem, and a descriptor hands over the frame it names; nothing is
 * copied. The frame comes home through `returns`, or as a packet that is sent back in it: an answer
 * written into the frame of the question (the two channels of a pair of VMs have one number in each
 * VM's book). For VMs that trust each other with the contents;
 * what the peer may break is still only itself: ring/umem.h's table of moves is enforced on this
 * side.
 *
 * Nothing read from the region is believed. A bad descriptor is dropped and counted by reason.
 */
#ifndef HS_CHANNEL_H
#define HS_CHANNEL_H
#include "ring/ring.h"
#include "ring/umem.h"

#define HS_CHANNEL_MAGIC 0x68534368u /* "hCSh" */
#define HS_CHANNEL_VERSION 3
#define HS_CHANNELS_MAX 64 /* of one process; number 0 is "own" in the book of frames */
#define HS_DATA_MAX (1u << 28)

enum hs_mode { HS_ISOLATED = 1, HS_SHARED = 2 };

struct hs_channel_shape {
    uint32_t mode;      /* enum hs_mode */
    uint32_t ring_size; /* descriptors, a power of two */
    uint32_t data_size; /* isolated: bytes, a power of two >= 2 * HS_FRAME_MAX; shared: 0 */
    uint32_t max_len;   /* longest packet, bytes */
};

struct hs_channel_shared {
    uint32_t magic;
    uint32_t version;
    struct hs_channel_shape shape;
};
_Static_assert(sizeof(struct hs_channel_shared) == 24, "layout is protocol");

/* Why a descriptor was refused, or a packet not sent. */
enum hs_bad {
    HS_BAD_INDEX,   /* the peer's index cannot be true */
    HS_BAD_ADDR,    /* the packet does not lie inside the data, or inside one frame */
    HS_BAD_LEN,     /* nothing, or more than the longest packet */
    HS_BAD_OPTIONS, /* bits that mean nothing */
    HS_BAD_STATE,   /* a frame that was not the peer's to give */
    HS_NO_FRAME,    /* no free frame to receive into: the packet waits; counted once a burst */
    HS_FULL,        /* sending: no room; the caller still has the packet */
    HS_COUNTERS
};

struct hs_channel {
    struct hs_ring packets;
    struct hs_ring returns;
    struct hs_umem *umem; /* the process's; in shared mode also the peer's */
    uint8_t *data;
    uint32_t *ends; /* isolated sender: where the slot of descriptor i ended in the byte ring */
    uint32_t head;  /* isolated: the position in the byte ring where the next packet goes; the
                     * sender's  runs free, the receiver's is below data_size */
    uint32_t tail; /* isolated sender: where the oldest packet is that the receiver still has ... */
    uint32_t tail_index; /* ... as of this index of the receiver's */
    uint32_t lent;       /* shared, sender: frames that the receiver is to give back, ever */
    uint32_t home;       /* shared, receiver: of those lent to the peer, come back as packets */
    uint8_t number;      /* 1..HS_CHANNELS_MAX - 1, unique in the process */
    uint8_t sender;
    struct hs_channel_shape shape;
    uint8_t *region;
    uint64_t region_size;
    uint64_t moved; /* packets sent, or received well */
    uint64_t bytes;
    uint64_t counters[HS_COUNTERS];
};

/* Bytes of the region of such a channel; 0 if the shape is impossible. */
uint64_t hs_channel_bytes(const struct hs_channel_shape *shape);

/* Make and seal the region of a channel. Returns a descriptor that the caller owns, or a negative
 * errno. */
int hs_channel_make(const struct hs_channel_shape *shape);

/* Map one end. `shape` is what the channel's maker said, never what the memory says; where the two
 * differ: -EPROTO. The descriptor stays the caller's, the umem outlives the channel. Returns 0 or a
 * negative errno. */
int hs_channel_open(struct hs_channel *c, int fd, const struct hs_channel_shape *shape,
                    struct hs_umem *umem, uint32_t number, int sender);

/* Unmap. Twice is harmless. */
void hs_channel_close(struct hs_channel *c);

/* Send up to `n` packets of the umem, in order, and publish them. Returns how many were taken.
 * Isolated: they were copied, and their frames stay the caller's. Shared: the frames are lent
 * now; one that is not OWN is a fault of the caller, passed over and counted as BAD_STATE.
 * Isolated: a packet longer than the longest is passed over and counted as BAD_LEN. */
uint32_t hs_channel_send(struct hs_channel *c, const struct xdp_desc *batch, uint32_t n);

/* Receive up to `n` packets into `batch`: addresses in the own umem. The frames are the caller's:
 * it sends them on, or gives them back (an own frame: hs_umem_give; one whose umem.origin is this
 * channel: hs_channel_return). */
uint32_t hs_channel_recv(struct hs_channel *c, struct xdp_desc *batch, uint32_t n);

/* Shared mode. Sender: take back what the receiver returned; how many frames. Own ones are free
 * again; those of another channel go onto the umem's `homeward` stack, for their own return. */
uint32_t hs_channel_reclaim(struct hs_channel *c);

/* Shared mode. Receiver: queue frames that go back to the sender, and publish them. How many were
 * taken; the others stay the caller's. */
uint32_t hs_channel_return(struct hs_channel *c, const uint64_t *addrs, uint32_t n);

#endif
