/* See port/xsk.h. This file: the four rings of the socket, and the calls that make the kernel go
 * on. */
#define _GNU_SOURCE
#include "port/xsk.h"

#include <errno.h>
#include <sys/socket.h>

#define KICK 32 /* packets the kernel sends for one call in copy mode */

int hs_xsk_open(struct hs_xsk *x, const char *interface, struct hs_umem *frames, uint32_t ring) {
    const struct xsk_umem_config umem_config = {
        .fill_size = ring,
        .comp_size = ring,
        .frame_size = frames->frame_size,
    };
    const struct xsk_socket_config socket_config = {
        .rx_size = ring,
        .tx_size = ring,
        .libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
        .bind_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
    };
    int ret;

    if (!x->umem) {
        memset(x, 0, sizeof(*x));
        x->frames = frames;
        ret = xsk_umem__create(&x->umem, frames->base, frames->size, &x->fill, &x->completion,
                               &umem_config);
        if (ret < 0)
            goto out;
    }
    ret = xsk_socket__create(&x->socket, interface, 0, x->umem, &x->rx, &x->tx, &socket_config);
    if (ret < 0)
        goto out;
    hs_xsk_refill(x);
    return 0;
out:
    if (ret != -EBUSY) /* else it is tried again, and its memory stays the kernel's until then */
        hs_xsk_close(x);
    return ret;
}

void hs_xsk_close(struct hs_xsk *x) {
    if (x->socket)
        xsk_socket__delete(x->socket);
    if (x->umem)
        xsk_umem__delete(x->umem);
    memset(x, 0, sizeof(*x));
}

int hs_xsk_fd(const struct hs_xsk *x) {
    return xsk_socket__fd(x->socket);
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

uint32_t hs_xsk_recv(struct hs_xsk *x, struct xdp_desc *batch, uint32_t n) {
    uint32_t at, got = xsk_ring_cons__peek(&x->rx, n, &at), i;

    for (i = 0; i < got; i++) {
        batch[i] = *xsk_ring_cons__rx_desc(&x->rx, at + i);
        batch[i].options = 0;
    }
    if (got)
        xsk_ring_cons__release(&x->rx, got);
    x->in_fill -= got;
    x->received += got;
    if (x->in_fill < x->fill.size / 2)
        hs_xsk_refill(x);
    return got;
}

static void kick(struct hs_xsk *x, uint32_t n) {
    for (; n > 0; n -= n < KICK ? n : KICK)
        if (sendto(xsk_socket__fd(x->socket), NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 &&
            errno != EAGAIN && errno != EBUSY)
            return; /* ENOBUFS, ENETDOWN: they stay queued; reap tries again */
}

static void take_back(struct hs_xsk *x) {
    struct hs_umem *u = x->frames;
    uint32_t at, n = xsk_ring_cons__peek(&x->completion, x->completion.size, &at), i;

    for (i = 0; i < n; i++) {
        uint64_t addr = *xsk_ring_cons__comp_addr(&x->completion, at + i);
        uint32_t frame = hs_umem_frame(u, addr);

        if (u->origin[frame] == 0)
            hs_umem_give(u, addr);
        else
            u->homeward[u->homeward_count++] = frame;
    }
    if (n)
        xsk_ring_cons__release(&x->completion, n);
    x->in_tx -= n;
}

uint32_t hs_xsk_send(struct hs_xsk *x, const struct xdp_desc *batch, uint32_t n) {
    uint32_t room, at, i;

    if (x->in_tx > x->tx.size / 2)
        hs_xsk_reap(x);
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
