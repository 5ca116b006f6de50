/* See port/port.h. */
#define _GNU_SOURCE
#include "port/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int hs_port_open(struct hs_port *p, int umem_fd, uint32_t frames, uint32_t frame_size,
                 uint32_t first, uint32_t count) {
    int ret;

    memset(p, 0, sizeof(*p));
    p->spin_ns = 20000;
    ret = hs_umem_open(&p->umem, umem_fd, frames, frame_size, first, count);
    if (ret == 0)
        hs_umem_spread(&p->umem, frame_size / 4 * 3);
    return ret;
}

int hs_port_eth0(struct hs_port *p, const char *interface, uint32_t ring) {
    int ret = hs_xsk_open(&p->eth0, interface, &p->umem, ring);

    p->has_eth0 = ret == 0;
    return ret;
}

int hs_port_eth0_fd(const struct hs_port *p) {
    return p->has_eth0 ? hs_xsk_fd(&p->eth0) : -ENOTCONN;
}

int hs_port_neighbour(struct hs_port *p, uint32_t vm, const struct hs_channel_shape *shape,
                      int out_fd, int in_fd, int bell_in, int bell_out) {
    struct hs_neighbour *n = NULL;
    uint32_t number;
    int ret;

    for (number = 1; number <= HS_NEIGHBOURS_MAX && !n; number++)
        if (p->neighbour[number - 1].vm == 0)
            n = &p->neighbour[number - 1];
    if (!n || vm == 0)
        return -ENOSPC;
    number--;
    ret = hs_channel_open(&n->out, out_fd, shape, &p->umem, number, 1);
    if (ret < 0)
        return ret;
    ret = hs_channel_open(&n->in, in_fd, shape, &p->umem, number, 0);
    if (ret < 0)
        goto out;
    n->vm = vm;
    n->bell_in = bell_in;
    n->bell_out = bell_out;
    n->seen = n->gone = n->stuck = n->deaf = n->put_off = n->rounds_put_off = 0;
    if (number > p->neighbours)
        p->neighbours = number;
    return 0;
out:
    hs_channel_close(&n->out);
    return ret;
}

int hs_port_rules(struct hs_port *p, int fd, uint32_t entries) {
    const uint64_t size = hs_rules_bytes(entries);
    struct stat st;
    void *at;

    if (size == 0)
        return -EINVAL;
    if (fstat(fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size < size)
        return -EMSGSIZE;
    at = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return -errno;
    p->rules = at;
    p->rules_size = size;
    p->rule_entries = entries;
    return 0;
}

int hs_port_tally(struct hs_port *p, int fd, uint32_t entries) {
    const uint64_t size = hs_tally_bytes(entries);
    uint8_t *at;
    int ret;

    if (size == 0)
        return -EINVAL;
    ret = hs_region_map(fd, size, &at);
    if (ret < 0)
        return ret;
    p->tally = (struct hs_tally *)at;
    p->tally_size = size;
    p->tally_entries = entries;
    return 0;
}

void hs_port_forget(struct hs_port *p, uint32_t vm) {
    for (uint32_t i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];

        if (n->vm != vm || vm == 0 || n->gone)
            continue;
        n->gone = 1;
        n->until = hs_now() + (n->out.data ? 0 : HS_MOURNING);
        p->gone++;
    }
    p->last_to = 0;
}

static void bury(struct hs_port *p, struct hs_neighbour *n) {
    for (uint32_t i = 0; i < HS_COUNTERS; i++)
        p->refused[i] += n->in.counters[i] + n->out.counters[i];
    hs_umem_recover(&p->umem, n->out.number);
    hs_channel_close(&n->out);
    hs_channel_close(&n->in);
    close(n->bell_in);
    close(n->bell_out);
    n->vm = n->gone = 0;
}

/* Let go of the dead of whom nothing is left: no packet to take, and no frame to give back. */
void hs_port_bury(struct hs_port *p) {
    const uint64_t now = hs_now();

    for (uint32_t i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *n = &p->neighbour[i];

        if (!n->gone || now < n->until || hs_ring_avail(&n->in.packets, 1))
            continue;
        n->until = now + HS_MOURNING; /* a frame in a function's hands: not before it lets go */
        if (n->in.data || memchr(p->umem.origin, (int)(i + 1), p->umem.frames) == NULL) {
            bury(p, n);
            p->gone--;
        }
    }
}

void hs_port_close(struct hs_port *p) {
    for (uint32_t i = 0; i < p->neighbours; i++)
        if (p->neighbour[i].vm)
            bury(p, &p->neighbour[i]);
    hs_xsk_close(&p->eth0);
    if (p->rules)
        munmap((void *)(uintptr_t)p->rules, p->rules_size);
    hs_region_unmap((uint8_t *)p->tally, p->tally_size);
    hs_umem_close(&p->umem);
    memset(p, 0, sizeof(*p));
}

/* Frames that belong to the other end of a channel go home. */
static void send_home(struct hs_port *p) {
    struct hs_umem *u = &p->umem;
    uint32_t i = 0, k, kept = 0;

    while (i < u->homeward_count) { /* those of one neighbour that follow each other, together */
        const uint32_t number = u->origin[u->homeward[i]];
        struct hs_neighbour *nb = &p->neighbour[number - 1];
        uint64_t addrs[HS_BURST];
        uint32_t n = 0, taken;

        for (; n < HS_BURST && i < u->homeward_count && u->origin[u->homeward[i]] == number; i++)
            addrs[n++] = (uint64_t)u->homeward[i] << u->frame_shift;
        /* The neighbour is gone: nobody to take it, and nobody who would miss it. */
        if (nb->vm == 0 || nb->gone) {
            for (k = 0; k < n; k++)
                hs_umem_disown(u, hs_umem_frame(u, addrs[k]));
            continue;
        }
        taken = hs_channel_return(&nb->in, addrs, n);
        for (k = taken; k < n; k++) /* behind i: what is there has been looked at */
            u->homeward[kept++] = hs_umem_frame(u, addrs[k]);
        hs_port_wake(p, nb, HS_WAKE_FOR_FRAMES);
    }
    u->homeward_count = kept;
}

void hs_port_let_go(struct hs_port *p, uint64_t addr) {
    struct hs_umem *u = &p->umem;
    uint32_t frame = hs_umem_frame(u, addr);

    if (u->origin[frame] == 0)
        hs_umem_give(u, addr);
    else
        u->homeward[u->homeward_count++] = frame;
}

/* Shared mode: take back what neighbours have let go of, when frames run low or nothing else is to
 * do. */
void hs_port_reclaim(struct hs_port *p) {
    for (uint32_t i = 0; i < p->neighbours; i++)
        if (p->neighbour[i].vm && !p->neighbour[i].gone)
            hs_channel_reclaim(&p->neighbour[i].out);
    if (p->umem.homeward_count)
        send_home(p);
}

/* The tally's entry for a flow; one that was made in another's place is nobody's any more. */
struct hs_tally_entry *hs_port_entry(struct hs_port *p, const struct hs_tuple *tuple, uint32_t peer,
                                     uint64_t now) {
    struct hs_tally_entry *e = hs_tally_open(p->tally, p->tally_entries, tuple, peer, now);

    if (e == p->last_sent)
        p->last_sent = NULL;
    if (e == p->last_in)
        p->last_in = NULL;
    return e;
}

/* Count what came from a neighbour, by flow: packets of one flow that follow each other, together.
 */
static void tally_in(struct hs_port *p, const struct hs_packet *batch, uint32_t n, uint32_t peer) {
    const uint64_t now = hs_now();
    struct hs_tuple tuple;

    for (uint32_t i = 0; i < n;) {
        struct hs_tally_entry *e = &p->tally->other;
        const uint32_t first = i;
        uint64_t bytes = 0;

        if (!p->last_in || p->last_in_peer != peer ||
            !hs_flow_again(hs_packet_data(p, &batch[i]), batch[i].len, &p->last_in_look)) {
            if (hs_flow_parse(hs_packet_data(p, &batch[i]), batch[i].len, &tuple) == 0) {
                e = p->last_in = hs_port_entry(p, &tuple, peer, now);
                p->last_in_look = hs_flow_look_of(&tuple);
                p->last_in_peer = peer;
            }
            bytes = batch[i++].len;
        } else {
            e = p->last_in;
        }
        if (e == p->last_in)
            for (; i < n &&
                   hs_flow_again(hs_packet_data(p, &batch[i]), batch[i].len, &p->last_in_look);
                 i++)
                bytes += batch[i].len;
        atomic_store_explicit(&e->last, now, memory_order_release);
        hs_tally_add(e, HS_T_RING_BYTES, bytes);
        hs_tally_add(e, HS_T_RING_PACKETS, i - first);
    }
}

uint32_t hs_port_recv(struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    struct xdp_desc *descs = (struct xdp_desc *)(void *)batch;
    uint32_t got = 0, i;

    if (n > HS_BURST)
        n = HS_BURST;
    if (p->umem.free_count < p->umem.frames_own / 2)
        hs_port_reclaim(p);
    else if (p->umem.homeward_count)
        send_home(p);
    if (p->gone)
        hs_port_bury(p);
    for (i = 0; i < p->neighbours; i++) {
        struct hs_neighbour *nb = &p->neighbour[i];

        if (nb->vm && nb->seen == 0)
            nb->seen = hs_ring_avail(&nb->in.packets, HS_BURST);
    }
    if (p->has_eth0) {
        if (p->eth0.in_tx)
            hs_xsk_reap(&p->eth0);
        got = hs_xsk_recv(&p->eth0, descs, n); /* options, our `from`, is 0 */
        p->counters.eth0_in += got;
    }
    for (i = 0; i < p->neighbours && got < n; i++) {
        struct hs_neighbour *nb = &p->neighbour[i];
        uint32_t want = nb->seen < n - got ? nb->seen : n - got, have, k;

        if (nb->vm == 0 || want == 0)
            continue;
        have = hs_channel_recv(&nb->in, descs + got, want);
        nb->seen = 0;
        for (k = 0; k < have; k++)
            batch[got + k].from = nb->vm;
        if (p->tally)
            tally_in(p, batch + got, have, nb->vm);
        got += have;
        p->counters.ring_in += have;
        hs_port_wake(p, nb, HS_WAKE_FOR_ROOM);
    }
    return got;
}

void hs_port_drop(struct hs_port *p, const struct hs_packet *batch, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        hs_port_let_go(p, batch[i].addr);
    p->counters.dropped += n;
}

void hs_port_finish(struct hs_port *p, struct hs_packet *batch, uint32_t n, uint64_t drop) {
    uint32_t on = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (drop >> i & 1)
            hs_port_drop(p, &batch[i], 1);
        else
            batch[on++] = batch[i];
    }
    hs_port_send(p, batch, on);
}

int hs_port_new(struct hs_port *p, struct hs_packet *packet) {
    if (p->umem.free_count == 0)
        hs_port_reclaim(p);
    if (p->umem.free_count == 0)
        return -ENOBUFS;
    *packet = (struct hs_packet){.addr = hs_umem_take(&p->umem)};
    return 0;
}
