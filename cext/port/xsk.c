// SPDX-License-Identifier: Apache-2.0
/* See port/xsk.h. This file: the four rings of the socket, and the calls that make the kernel go
 * on. */
#define _GNU_SOURCE
#include "port/xsk.h"

#include "ns/sock.h"

#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOL_XDP
#define SOL_XDP 283
#endif
#ifndef XDP_USE_SG /* Linux 6.6 */
#define XDP_USE_SG (1 << 4)
#define XDP_PKT_CONTD (1 << 0)
#endif
#define KICK 32 /* packets the kernel sends for one call in copy mode */

static uint32_t chunk_of(uint32_t frame_size) {
    return frame_size < HS_CHUNK ? frame_size : HS_CHUNK;
}

int hs_xsk_make(int netns_fd, int memory_fd, uint64_t size, uint32_t frame_size, uint32_t ring) {
    static const int rings[] = {XDP_UMEM_FILL_RING, XDP_TX_RING, XDP_UMEM_COMPLETION_RING,
                                XDP_RX_RING};
    struct xdp_umem_reg umem = {.len = size, .chunk_size = chunk_of(frame_size)};
    int fd = hs_socket_at(netns_fd, AF_XDP, SOCK_RAW, 0), ret = 0;
    void *base;

    if (fd < 0)
        return fd;
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    if (base == MAP_FAILED) {
        ret = -errno;
        goto out;
    }
    umem.addr = (uint64_t)(uintptr_t)base;
    if (setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)) < 0)
        ret = -errno;
    munmap(base, size); /* the kernel has the pages */
    for (size_t i = 0; ret == 0 && i < sizeof(rings) / sizeof(rings[0]); i++)
        if (setsockopt(fd, SOL_XDP, rings[i], &ring, sizeof(ring)) < 0)
            ret = -errno;
out:
    if (ret < 0)
        close(fd);
    return ret < 0 ? ret : fd;
}

/* Where the kernel puts a ring's parts, as libxdp's two kinds of ring have them. */
#define RING(r, base, off, n)                                                                      \
    do {                                                                                           \
        (r)->mask = (n)-1;                                                                         \
        (r)->size = (n);                                                                           \
        (r)->producer = (void *)((uint8_t *)(base) + (off)->producer);                             \
        (r)->consumer = (void *)((uint8_t *)(base) + (off)->consumer);                             \
        (r)->flags = (void *)((uint8_t *)(base) + (off)->flags);                                   \
        (r)->ring = (uint8_t *)(base) + (off)->desc;                                               \
    } while (0)

/* Map a ring of `n` entries of `entry` bytes. */
static int map_ring(int fd, uint32_t n, size_t entry, const struct xdp_ring_offset *off,
                    uint64_t page_offset, void **base, size_t *mapped) {
    *mapped = off->desc + n * entry;
    *base = mmap(NULL, *mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
                 (off_t)page_offset);
    if (*base == MAP_FAILED) {
        *mapped = 0;
        return -errno;
    }
    return 0;
}

static int map_rings(struct hs_xsk *x, uint32_t n) {
    struct xdp_mmap_offsets off;
    socklen_t size = sizeof(off);
    void *base;
    int ret;

    if (getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &off, &size) < 0)
        return -errno;
    ret = map_ring(x->fd, n, sizeof(uint64_t), &off.fr, XDP_UMEM_PGOFF_FILL_RING, &base,
                   &x->mapped[0]);
    if (ret < 0)
        return ret;
    RING(&x->fill, base, &off.fr, n);
    x->fill.cached_cons = n; /* libxdp keeps a producer's free entries so */
    ret = map_ring(x->fd, n, sizeof(struct xdp_desc), &off.tx, XDP_PGOFF_TX_RING, &base,
                   &x->mapped[1]);
    if (ret < 0)
        return ret;
    RING(&x->tx, base, &off.tx, n);
    x->tx.cached_cons = n;
    ret = map_ring(x->fd, n, sizeof(uint64_t), &off.cr, XDP_UMEM_PGOFF_COMPLETION_RING, &base,
                   &x->mapped[2]);
    if (ret < 0)
        return ret;
    RING(&x->completion, base, &off.cr, n);
    ret = map_ring(x->fd, n, sizeof(struct xdp_desc), &off.rx, XDP_PGOFF_RX_RING, &base,
                   &x->mapped[3]);
    if (ret < 0)
        return ret;
    RING(&x->rx, base, &off.rx, n);
    return 0;
}

int hs_xsk_open(struct hs_xsk *x, int fd, const char *interface, struct hs_umem *frames,
                uint32_t ring) {
    struct sockaddr_xdp address = {
        .sxdp_family = AF_XDP,
        .sxdp_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
        .sxdp_ifindex = if_nametoindex(interface),
    };
    int ret;

    if (x->fd == 0) {
        memset(x, 0, sizeof(*x));
        x->frames = frames;
        x->fd = fd;
        if (frames->frame_size > HS_CHUNK) {
            x->pieces = calloc(frames->frames, 1);
            if (!x->pieces) {
                ret = -ENOMEM;
                goto out;
            }
        }
        ret = map_rings(x, ring);
        if (ret < 0)
            goto out;
    }
    if (x->pieces)
        address.sxdp_flags |= XDP_USE_SG;
    if (bind(x->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        ret = -errno;
        goto out;
    }
    hs_xsk_refill(x);
    return 0;
out:
    if (ret != -EBUSY) /* else it is tried again */
        hs_xsk_close(x);
    return ret;
}

static void unmap_ring(void *ring, const struct xdp_ring_offset *off, size_t mapped) {
    if (mapped)
        munmap((uint8_t *)ring - off->desc, mapped);
}

void hs_xsk_close(struct hs_xsk *x) {
    struct xdp_mmap_offsets off;
    socklen_t size = sizeof(off);

    if (x->fd && getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &off, &size) == 0) {
        unmap_ring(x->fill.ring, &off.fr, x->mapped[0]);
        unmap_ring(x->tx.ring, &off.tx, x->mapped[1]);
        unmap_ring(x->completion.ring, &off.cr, x->mapped[2]);
        unmap_ring(x->rx.ring, &off.rx, x->mapped[3]);
    }
    if (x->fd)
        close(x->fd);
    free(x->pieces);
    memset(x, 0, sizeof(*x));
}

int hs_xsk_fd(const struct hs_xsk *x) {
    return x->fd;
}

void hs_xsk_refill(struct hs_xsk *x) {
    struct hs_umem *u = x->frames;
    uint32_t want = x->fill.size - x->in_fill, at, i;

    /* Leave half of what is free to the channels and to what the function makes itself. */
    if (want > u->free_count / 2)
        want = u->free_count / 2;
    if (want == 0 || xsk_ring_prod__reserve(&x->fill, want, &at) != want)
        return;
    for (i = 0; i < want; i++)
        *xsk_ring_prod__fill_addr(&x->fill, at + i) =
            hs_umem_take(u) & ~(uint64_t)(u->frame_size - 1);
    xsk_ring_prod__submit(&x->fill, want);
    x->in_fill += want;
}

uint32_t hs_xsk_waiting(const struct hs_xsk *x) {
    return __atomic_load_n(x->rx.producer, __ATOMIC_ACQUIRE) - x->rx.cached_cons;
}

/* Put a piece behind those that came before; whether the packet is whole then: in x->begun. */
static int put_together(struct hs_xsk *x, const struct xdp_desc *piece) {
    struct hs_umem *u = x->frames;
    const uint64_t behind = x->begun.addr + x->begun.len;

    if (x->begun.len == 0) {
        x->begun = (struct xdp_desc){.addr = piece->addr, .len = piece->len};
    } else {
        x->spoilt |= (behind & (u->frame_size - 1)) + piece->len > u->frame_size;
        if (!x->spoilt) {
            memcpy(hs_umem_data(u, behind), hs_umem_data(u, piece->addr), piece->len);
            x->begun.len += piece->len;
        }
        hs_umem_give(u, piece->addr);
    }
    return !(piece->options & XDP_PKT_CONTD);
}

static uint32_t recv_pieces(struct hs_xsk *x, struct xdp_desc *batch, uint32_t n) {
    uint32_t at, got = 0, have, i;

    while (got < n && (have = xsk_ring_cons__peek(&x->rx, n - got, &at)) > 0) {
        for (i = 0; i < have; i++) {
            if (!put_together(x, xsk_ring_cons__rx_desc(&x->rx, at + i)))
                continue;
            if (x->spoilt) {
                hs_umem_give(x->frames, x->begun.addr);
                x->too_long++;
            } else {
                batch[got++] = x->begun;
            }
            x->begun.len = x->spoilt = 0;
        }
        xsk_ring_cons__release(&x->rx, have);
        x->in_fill -= have;
        x->received += have;
    }
    return got;
}

static uint32_t recv_whole(struct hs_xsk *x, struct xdp_desc *batch, uint32_t n) {
    uint32_t at, got = xsk_ring_cons__peek(&x->rx, n, &at), i;

    for (i = 0; i < got; i++) {
        batch[i] = *xsk_ring_cons__rx_desc(&x->rx, at + i);
        batch[i].options = 0;
    }
    if (got)
        xsk_ring_cons__release(&x->rx, got);
    x->in_fill -= got;
    x->received += got;
    return got;
}

uint32_t hs_xsk_recv(struct hs_xsk *x, struct xdp_desc *batch, uint32_t n) {
    const uint32_t got = x->pieces ? recv_pieces(x, batch, n) : recv_whole(x, batch, n);

    if (x->in_fill < x->fill.size / 2)
        hs_xsk_refill(x);
    return got;
}

static void kick(struct hs_xsk *x, uint32_t n) {
    for (; n > 0; n -= n < KICK ? n : KICK)
        if (sendto(x->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN && errno != EBUSY)
            return; /* ENOBUFS, ENETDOWN: they stay queued; reap tries again */
}

static void take_back(struct hs_xsk *x) {
    struct hs_umem *u = x->frames;
    uint32_t at, n = xsk_ring_cons__peek(&x->completion, x->completion.size, &at), i;

    for (i = 0; i < n; i++) {
        uint64_t addr = *xsk_ring_cons__comp_addr(&x->completion, at + i);
        uint32_t frame = hs_umem_frame(u, addr);

        if (x->pieces && --x->pieces[frame] > 0)
            continue;
        if (u->origin[frame] == 0)
            hs_umem_give(u, addr);
        else
            u->homeward[u->homeward_count++] = frame;
    }
    if (n)
        xsk_ring_cons__release(&x->completion, n);
    x->in_tx -= n;
}

/* How much of a packet lies in the chunk that `addr` is in. */
static uint32_t piece_of(uint64_t addr, uint32_t len) {
    const uint32_t room = HS_CHUNK - (uint32_t)(addr & (HS_CHUNK - 1));

    return len < room ? len : room;
}

static uint32_t send_pieces(struct hs_xsk *x, const struct xdp_desc *batch, uint32_t n) {
    uint32_t at, taken, k, put = 0;

    for (taken = 0; taken < n; taken++) {
        struct xdp_desc left = {.addr = batch[taken].addr, .len = batch[taken].len};
        const uint32_t in_first = (uint32_t)(left.addr & (HS_CHUNK - 1));
        const uint32_t pieces = (in_first + left.len + HS_CHUNK - 1) / HS_CHUNK;

        if (xsk_ring_prod__reserve(&x->tx, pieces, &at) != pieces) {
            x->full++;
            break;
        }
        for (k = 0; k < pieces; k++) {
            struct xdp_desc *d = xsk_ring_prod__tx_desc(&x->tx, at + k);

            d->addr = left.addr;
            d->len = piece_of(left.addr, left.len);
            d->options = k + 1 < pieces ? XDP_PKT_CONTD : 0;
            left.addr += d->len;
            left.len -= d->len;
        }
        x->pieces[hs_umem_frame(x->frames, batch[taken].addr)] = (uint8_t)pieces;
        put += pieces;
    }
    xsk_ring_prod__submit(&x->tx, put);
    x->in_tx += put;
    x->sent += taken;
    kick(x, put);
    take_back(x);
    return taken;
}

uint32_t hs_xsk_send(struct hs_xsk *x, const struct xdp_desc *batch, uint32_t n) {
    uint32_t room, at, i;

    if (x->in_tx > x->tx.size / 2)
        hs_xsk_reap(x);
    if (x->pieces)
        return send_pieces(x, batch, n);
    room = xsk_prod_nb_free(&x->tx, n);
    if (n > room) {
        x->full++;
        n = room;
    }
    if (n == 0 || xsk_ring_prod__reserve(&x->tx, n, &at) != n)
        return 0;
    for (i = 0; i < n; i++) {
        struct xdp_desc *d = xsk_ring_prod__tx_desc(&x->tx, at + i);

        d->addr = batch[i].addr;
        d->len = batch[i].len;
        d->options = 0;
    }
    xsk_ring_prod__submit(&x->tx, n);
    x->in_tx += n;
    x->sent += n;
    kick(x, n);
    take_back(x);
    return n;
}

void hs_xsk_reap(struct hs_xsk *x) {
    take_back(x);
    if (x->in_tx > 0) {
        kick(x, x->in_tx);
        take_back(x);
    }
}
