// SPDX-License-Identifier: Apache-2.0
/* Memory for packets: sealed regions in memfds, and the private book of who owns which frame.
 *
 * A region is a memfd (memfd_create(2)) of fixed size: sealed against shrinking, growing and
 * further sealing before its descriptor goes to anyone. Whoever is given one checks seals and size
 * before mapping it, so that no peer can take pages away from under a load (SIGBUS). No seal
 * forbids a hole: to who has mapped the region, its pages read as zeroes then, but a socket that
 * has pinned them (AF_XDP) goes on with the old ones. So no process of a VM may punch one
 * (vm/filter.c).
 *
 * A umem (AF_XDP's word, Documentation/networking/af_xdp.rst) is a region cut into frames of equal
 * size. The book of its frames is private memory of each process and never shared:
 *
 *     from      to        by
 *     OWN       LENT      sent to a shared-mode peer that is not its origin, until it comes back
 *     LENT      OWN       came back from the peer it was lent to: let go of, or with a packet in it
 *     FOREIGN   OWN       received from a shared-mode peer, which is its origin
 *     OWN       FOREIGN   given back to its origin, as such or by being sent there; or that is dead
 *
 * Every other move is refused, and counted by the channel that saw it: a frame received that is not
 * FOREIGN would be owned twice, one that comes back without being LENT there was never that peer's.
 * Frames of one's own that nobody uses lie on the free stack.
 */
#ifndef HS_UMEM_H
#define HS_UMEM_H
#include <stdint.h>
#include <string.h>

#define HS_LINE 64 /* frames and slots start on a cache line of this many bytes */
#define HS_FRAMES_MAX (1u << 20)
#define HS_FRAME_MIN 128
#define HS_FRAME_MAX (1u << 16)

/* Make a region of `size` bytes (rounded up to pages), sealed. Returns a descriptor, close-on-exec,
 * that the caller owns; or a negative errno. */
int hs_region_make(const char *name, uint64_t size);

/* Map a region of exactly `size` bytes (rounded up to pages) for reading and writing, with its
 * pages present. The descriptor stays the caller's. -EPERM: a seal is missing; -EMSGSIZE: another
 * size; -EINVAL: not a memfd. Huge pages are asked for and never required. */
int hs_region_map(int fd, uint64_t size, uint8_t **base);

/* Unmap; a null `base` is nothing to do. */
void hs_region_unmap(uint8_t *base, uint64_t size);

/* After a peer has gone for good: take back every frame lent to its channel; how many. Whoever
 * calls this knows that nobody uses them any more: the peer is dead, and those it passed them to
 * have let go of them. */
struct hs_umem;
uint32_t hs_umem_recover(struct hs_umem *u, uint32_t channel);

enum hs_frame_state { HS_FOREIGN = 0, HS_OWN = 1, HS_LENT = 2 };

struct hs_umem {
    uint8_t *base;
    uint64_t size;
    uint32_t frame_size; /* a power of two */
    uint32_t frame_shift;
    uint32_t frames;
    uint32_t frames_own; /* of them, those that this process began with */
    /* Packets that begin at the same offset of every frame fall into a few sets of the caches and
     * throw each other out, so they begin on different lines, by frame number (hs_umem_color). A
     * power of two; 1 until hs_umem_spread has said how much of a frame stays unused. */
    uint32_t colors;
    uint32_t color_shift;
    uint32_t free_count;
    uint32_t *free_frames; /* stack: the frame used last is the one that is in the cache */
    uint8_t *state;        /* enum hs_frame_state | channel << 2 if LENT */
    uint8_t *origin;       /* channel the frame came from and goes back to; 0: own */
    uint32_t homeward_count;
    uint32_t *homeward; /* frames whose origin has yet to be given them back */
};

/* Map the umem behind `fd` and own frames [first, first + count). fd < 0: private memory (isolated
 * mode without a socket). Returns 0 or a negative errno; -EINVAL if the shape is impossible. */
int hs_umem_open(struct hs_umem *u, int fd, uint32_t frames, uint32_t frame_size, uint32_t first,
                 uint32_t count);

/* Unmap and forget. Twice is harmless. */
void hs_umem_close(struct hs_umem *u);

/* Packets placed by this process are at most `max_len` bytes: let them begin on different lines. */
void hs_umem_spread(struct hs_umem *u, uint32_t max_len);

static inline uint8_t *hs_umem_data(const struct hs_umem *u, uint64_t addr) {
    return u->base + addr;
}

static inline uint32_t hs_umem_frame(const struct hs_umem *u, uint64_t addr) {
    return (uint32_t)(addr >> u->frame_shift);
}

/* The line of a frame at which to place a packet. First-level caches of today tell 64 lines of a
 * page apart, so frames that lie at different places of a page need no different colors, and
 * neighbouring pages do (color_shift); second-level ones see 64 of the smaller frames as different
 * and the next 64 as the same again (the second shift). */
static inline uint32_t hs_umem_color(const struct hs_umem *u, uint32_t frame) {
    return (frame >> u->color_shift ^ frame >> 6) & (u->colors - 1);
}

/* Where a packet is placed in a frame. */
static inline uint64_t hs_umem_place(const struct hs_umem *u, uint32_t frame) {
    return ((uint64_t)frame << u->frame_shift) + hs_umem_color(u, frame) * HS_LINE;
}

/* Take one free frame, as the offset at which to place a packet. The caller has seen free_count >
 * 0. */
static inline uint64_t hs_umem_take(struct hs_umem *u) {
    return hs_umem_place(u, u->free_frames[--u->free_count]);
}

/* Take up to `n` free frames, of which the first lines are about to be written: in shared mode a
 * neighbour has read them last, and to get them all back takes no longer than to get one. Returns
 * how many there were. */
static inline uint32_t hs_umem_take_burst(struct hs_umem *u, uint64_t *addrs, uint32_t n) {
    if (n > u->free_count)
        n = u->free_count;
    for (uint32_t i = 0; i < n; i++) {
        addrs[i] = hs_umem_take(u);
        __builtin_prefetch(u->base + addrs[i], 1);
    }
    return n;
}

/* Give an own frame back; any address inside it. */
static inline void hs_umem_give(struct hs_umem *u, uint64_t addr) {
    u->free_frames[u->free_count++] = hs_umem_frame(u, addr);
}

/* A frame that came from a channel whose other end is dead: it has no home to go to, and is foreign
 * again. */
static inline void hs_umem_disown(struct hs_umem *u, uint32_t frame) {
    u->state[frame] = HS_FOREIGN;
    u->origin[frame] = 0;
}

/* Copy `len` bytes, exactly: what lies behind them in a frame may be another flow's. Small packets
 * dominate, so they are moved by fixed-size blocks that the compiler expands in place. */
static inline void hs_copy(uint8_t *restrict to, const uint8_t *restrict from, uint32_t len) {
    if (len > 512) {
        memcpy(to, from, len);
        return;
    }
    for (; len >= 64; len -= 64, to += 64, from += 64)
        __builtin_memcpy(to, from, 64);
    if (len == 0)
        return;
    if (len >= 32) { /* two blocks that overlap */
        __builtin_memcpy(to, from, 32);
        __builtin_memcpy(to + len - 32, from + len - 32, 32);
    } else if (len >= 16) {
        __builtin_memcpy(to, from, 16);
        __builtin_memcpy(to + len - 16, from + len - 16, 16);
    } else if (len >= 8) {
        __builtin_memcpy(to, from, 8);
        __builtin_memcpy(to + len - 8, from + len - 8, 8);
    } else {
        while (len--)
            *to++ = *from++;
    }
}

#endif
