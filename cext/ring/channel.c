// SPDX-License-Identifier: Apache-2.0
/* See ring/channel.h. This file: each kind of channel, by copy and by frame, and every check of
 * what the peer wrote. */
#include "ring/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { RETURNS = 64 }; /* frames of a batch */

static uint64_t ring_at(void) {
    return HS_APART;
}

static uint64_t returns_at(const struct hs_channel_shape *shape) {
    return ring_at() + hs_ring_bytes(shape->ring_size, shape->mode == HS_SHARED
                                                           ? sizeof(struct xdp_desc)
                                                           : sizeof(hs_brief));
}

static uint64_t data_at(const struct hs_channel_shape *shape) {
    uint64_t at = returns_at(shape);

    if (shape->mode == HS_SHARED)
        at += hs_ring_bytes(shape->ring_size, sizeof(hs_frame));
    return (at + 4095) & ~UINT64_C(4095);
}

uint64_t hs_channel_bytes(const struct hs_channel_shape *shape) {
    if (hs_ring_bytes(shape->ring_size, 1) == 0 || shape->max_len == 0 ||
        shape->max_len > HS_FRAME_MAX)
        return 0;
    if (shape->mode == HS_SHARED)
        return shape->data_size == 0 ? data_at(shape) : 0;
    if (shape->mode != HS_ISOLATED || shape->data_size > HS_DATA_MAX ||
        shape->data_size < 2 * HS_FRAME_MAX || (shape->data_size & (shape->data_size - 1)))
        return 0;
    return data_at(shape) + shape->data_size;
}

int hs_channel_make(const struct hs_channel_shape *shape) {
    uint64_t size = hs_channel_bytes(shape);
    struct hs_channel_shared *shared;
    uint8_t *base;
    int fd, ret;

    if (size == 0)
        return -EINVAL;
    fd = hs_region_make("hostsim-channel", size);
    if (fd < 0)
        return fd;
    ret = hs_region_map(fd, size, &base);
    if (ret < 0)
        goto out;
    shared = (struct hs_channel_shared *)base;
    shared->magic = HS_CHANNEL_MAGIC;
    shared->version = HS_CHANNEL_VERSION;
    shared->shape = *shape;
    hs_region_unmap(base, size);
    return fd;
out:
    close(fd);
    return ret;
}

int hs_channel_open(struct hs_channel *c, int fd, const struct hs_channel_shape *shape,
                    struct hs_umem *umem, uint32_t number, int sender) {
    struct hs_channel_shared seen;
    int ret;

    memset(c, 0, sizeof(*c));
    c->region_size = hs_channel_bytes(shape);
    if (c->region_size == 0 || number == 0 || number >= HS_CHANNELS_MAX ||
        shape->max_len + (umem->colors - 1) * HS_LINE > umem->frame_size)
        return -EINVAL;
    ret = hs_region_map(fd, c->region_size, &c->region);
    if (ret < 0)
        return ret;
    memcpy(&seen, c->region, sizeof(seen));
    if (seen.magic != HS_CHANNEL_MAGIC || seen.version != HS_CHANNEL_VERSION ||
        memcmp(&seen.shape, shape, sizeof(*shape)) != 0) {
        ret = -EPROTO;
        goto out;
    }
    c->shape = *shape;
    c->umem = umem;
    c->number = (uint8_t)number;
    c->sender = sender != 0;
    hs_ring_open(&c->packets, (struct hs_ring_shared *)(c->region + ring_at()), shape->ring_size);
    if (shape->mode == HS_SHARED)
        hs_ring_open(&c->returns, (struct hs_ring_shared *)(c->region + returns_at(shape)),
                     shape->ring_size);
    else
        c->data = c->region + data_at(shape);
    if (shape->mode == HS_ISOLATED && sender) {
        c->ends = calloc(shape->ring_size, sizeof(*c->ends));
        if (!c->ends) {
            ret = -ENOMEM;
            goto out;
        }
    }
    return 0;
out:
    hs_channel_close(c);
    return ret;
}

void hs_channel_close(struct hs_channel *c) {
    hs_region_unmap(c->region, c->region_size);
    free(c->ends);
    memset(c, 0, sizeof(*c));
}

/* What a packet takes of the byte ring. */
static uint32_t round_up(uint32_t len) {
    return (len + HS_LINE - 1) & ~(uint32_t)(HS_LINE - 1);
}

static uint64_t bad_indices(const struct hs_channel *c) {
    return c->packets.bad_index + c->returns.bad_index;
}

/* The bytes behind the receiver's index as we know it. To be called before anything more is sent:
 * then `ends` still has the place in front of that index. */
static void update_tail(struct hs_channel *c) {
    const struct hs_ring *r = &c->packets;

    if (r->peer != c->tail_index) {
        c->tail = c->ends[(r->peer - 1) & r->mask];
        c->tail_index = r->peer;
    }
}

static void refresh_tail(struct hs_channel *c) {
    hs_ring_used(&c->packets);
    update_tail(c);
}

/* The usual burst: good packets, one behind the other in the byte ring, and descriptors that do not
 * wrap. First the packets and then what is to be said of them: a processor sees from the stores
 * which lines come next, and fetches them back from the other core ahead of time, if nothing else
 * is stored in between. How many packets of the burst went; the others are for send_copies. */
static uint32_t send_run(struct hs_channel *c, const struct xdp_desc *batch, uint32_t n) {
    const struct hs_ring *r = &c->packets;
    const uint8_t *const from = c->umem->base;
    const uint32_t size = c->shape.data_size, max_len = c->shape.max_len;
    const uint32_t first = r->own & r->mask, most = round_up(max_len);
    uint32_t head = c->head, run = size - (head & (size - 1)), room = r->mask + 1 - first, i;
    uint32_t *const ends = c->ends + first;
    hs_brief *const brief = hs_ring_briefs(r) + first;
    uint8_t *at = c->data + (head & (size - 1));
    uint64_t bytes = 0;

    if (run > c->tail + size - head)
        run = c->tail + size - head;
    if (room > r->mask + 1 - (r->own - r->peer))
        room = r->mask + 1 - (r->own - r->peer);
    if (n > room)
        n = room;
    for (i = 0; i < n && run >= most && batch[i].len - 1 < max_len; i++) {
        const uint32_t need = round_up(batch[i].len);

        hs_copy(at, from + batch[i].addr, batch[i].len);
        at += need;
        run -= need;
    }
    n = i;
    for (i = 0; i < n; i++) {
        brief[i] = batch[i].len | batch[i].options << HS_BRIEF_LEN_BITS;
        bytes += batch[i].len;
    }
    for (i = 0; i < n; i++) {
        head += round_up(batch[i].len);
        ends[i] = head;
    }
    c->head = head;
    c->bytes += bytes;
    return n;
}

/* The loops below keep everything they need in locals: a store through a byte pointer may alias any
 * structure, and would make the compiler load each field again for each packet. `run` is how many
 * bytes may be used without another look at limits: in the usual case the next packet's place costs
 * one addition. */
static uint32_t send_copies(struct hs_channel *c, const struct xdp_desc *batch, uint32_t n) {
    struct hs_ring *r = &c->packets;
    hs_brief *const brief = hs_ring_briefs(r);
    const uint8_t *const from = c->umem->base;
    uint8_t *const data = c->data;
    uint32_t *const ends = c->ends;
    const uint32_t size = c->shape.data_size, max_len = c->shape.max_len;
    const uint32_t mask = r->mask, own = r->own;
    uint32_t head, run = 0;
    uint32_t room = mask + 1 - (own - r->peer), put, i;
    uint64_t bytes = 0;

    update_tail(c); /* someone else may have looked at the index */
    put = send_run(c, batch, n);
    head = c->head;
    for (i = put; i < n; i++) {
        const uint32_t len = batch[i].len;
        const uint32_t need = round_up(len);
        uint32_t slot;

        if (__builtin_expect(len - 1 >= max_len, 0)) {
            c->counters[HS_BAD_LEN]++;
            continue;
        }
        if (__builtin_expect(put == room || run < need, 0)) {
            if (size - (head & (size - 1)) < need) /* a packet does not wrap */
                head = (head | (size - 1)) + 1;
            if (put == room || c->tail + size - head < need ||
                c->tail + size - head > size) { /* the skip went past the tail */
                refresh_tail(c);
                room = mask + 1 - (own - r->peer);
                if (put == room || c->tail + size - head < need || c->tail + size - head > size) {
                    c->counters[HS_FULL]++;
                    break;
                }
            }
            run = size - (head & (size - 1));
            if (run > c->tail + size - head)
                run = c->tail + size - head;
        }
        hs_copy(data + (head & (size - 1)), from + batch[i].addr, len);
        slot = (own + put) & mask;
        brief[slot] = len | batch[i].options << HS_BRIEF_LEN_BITS;
        head += need;
        run -= need;
        ends[slot] = head;
        bytes += len;
        put++;
    }
    if (put) {
        c->head = ends[(own + put - 1) & mask]; /* a skip that led to nothing is made again */
        hs_ring_submit(r, put);
    }
    c->moved += put;
    c->bytes += bytes;
    return i;
}

static uint32_t send_frames(struct hs_channel *c, const struct xdp_desc *batch, uint32_t n) {
    struct hs_ring *r = &c->packets;
    struct hs_umem *u = c->umem;
    uint32_t room = hs_ring_free(r, n);
    uint8_t *const state = u->state, *const origin = u->origin;
    struct xdp_desc *const desc = hs_ring_descs(r);
    const uint8_t number = c->number, lent = (uint8_t)(HS_LENT | number << 2);
    const uint32_t mask = r->mask, own = r->own;
    uint32_t put = 0, lends = 0, i = 0;
    uint64_t bytes = 0;

    while (i < n && put < room) {
        const uint32_t first = i, slot = (own + put) & mask;
        uint32_t most = n - i < room - put ? n - i : room - put;

        if (most > mask + 1 - slot)
            most = mask + 1 - slot;
        for (most += i; i < most; i++) {
            const uint32_t frame = hs_umem_frame(u, batch[i].addr);

            if (__builtin_expect(state[frame] != HS_OWN, 0))
                break;
            if (__builtin_expect(origin[frame] == number, 0)) { /* it goes back where it is from */
                state[frame] = HS_FOREIGN;
                origin[frame] = 0;
            } else {
                state[frame] = lent;
                lends++;
            }
            bytes += batch[i].len;
        }
        memcpy(&desc[slot], &batch[first], (i - first) * sizeof(*desc)); /* see send_run */
        put += i - first;
        if (i < most) {
            c->counters[HS_BAD_STATE]++;
            i++;
        }
    }
    if (i < n)
        c->counters[HS_FULL]++;
    if (put)
        hs_ring_submit(r, put);
    c->lent += lends;
    c->moved += put;
    c->bytes += bytes;
    return i;
}

uint32_t hs_channel_send(struct hs_channel *c, const struct xdp_desc *batch, uint32_t n) {
    uint32_t taken = c->data ? send_copies(c, batch, n) : send_frames(c, batch, n);

    c->counters[HS_BAD_INDEX] = bad_indices(c);
    return taken;
}

static uint32_t recv_copies(struct hs_channel *c, struct xdp_desc *batch, uint32_t n) {
    struct hs_ring *r = &c->packets;
    struct hs_umem *u = c->umem;
    const hs_brief *const brief = hs_ring_briefs(r);
    const uint8_t *const data = c->data;
    uint8_t *const to = u->base;
    const uint32_t size = c->shape.data_size, max_len = c->shape.max_len;
    const uint32_t mask = r->mask, own = r->own, shift = u->frame_shift;
    const uint32_t color = u->colors - 1, color_shift = u->color_shift;
    const uint32_t *top;
    uint32_t at = c->head, run = size - at;
    uint32_t avail = hs_ring_avail(r, n), got = 0, i;
    uint64_t bytes = 0;

    if (avail > n)
        avail = n;
    if (avail > u->free_count) {
        c->counters[HS_NO_FRAME]++;
        avail = u->free_count;
    }
    if (avail == 0)
        return 0;
    top = u->free_frames + u->free_count - 1;
    for (i = 0; i < avail; i++) {
        const hs_brief d = __atomic_load_n(&brief[(own + i) & mask], __ATOMIC_RELAXED);
        const uint32_t len = d & ((1u << HS_BRIEF_LEN_BITS) - 1);
        const uint32_t need = round_up(len);
        const uint8_t *place;
        uint64_t frame;

        if (__builtin_expect(len - 1 >= max_len, 0)) { /* what passes fits into the data */
            c->counters[HS_BAD_LEN]++;
            continue;
        }
        if (__builtin_expect(run < need, 0)) {
            at = 0;
            run = size;
        }
        place = data + at;
        at += need;
        run -= need;
        if (__builtin_expect(d != len, 0)) {
            c->counters[HS_BAD_OPTIONS]++;
            continue;
        }
        frame = (uint64_t)*top << shift;
        frame += ((*top >> color_shift ^ *top >> 6) & color) * HS_LINE;
        top--;
        hs_copy(to + frame, place, len);
        batch[got++] = (struct xdp_desc){.addr = frame, .len = len};
        bytes += len;
    }
    c->head = at;
    u->free_count -= got;
    hs_ring_advance(r, avail);
    hs_ring_release(r);
    c->moved += got;
    c->bytes += bytes;
    return got;
}

static uint32_t recv_frames(struct hs_channel *c, struct xdp_desc *batch, uint32_t n) {
    struct hs_ring *r = &c->packets;
    struct hs_umem *u = c->umem;
    const struct xdp_desc *const desc = hs_ring_descs(r);
    uint8_t *const state = u->state, *const origin = u->origin;
    const uint8_t *const base = u->base;
    const uint64_t size = u->size;
    const uint32_t in_frame = u->frame_size - 1, shift = u->frame_shift;
    const uint32_t max_len = c->shape.max_len, mask = r->mask, own = r->own;
    const uint8_t number = c->number, lent = (uint8_t)(HS_LENT | number << 2);
    uint32_t avail = hs_ring_avail(r, n), got = 0, i;
    uint64_t bytes = 0;

    if (avail > n)
        avail = n;
    for (i = 0; i < avail; i++)
        batch[i] = hs_desc_read(&desc[(own + i) & mask]);
    if (avail) { /* `batch` is what counts from here on */
        hs_ring_advance(r, avail);
        hs_ring_release(r);
    }
    for (i = 0; i < avail; i++) {
        const struct xdp_desc d = batch[i];
        uint32_t frame;

        if (__builtin_expect(d.len - 1 >= max_len, 0)) {
            c->counters[HS_BAD_LEN]++;
            continue;
        }
        if (__builtin_expect(d.addr >= size || in_frame + 1 - (d.addr & in_frame) < d.len, 0)) {
            c->counters[HS_BAD_ADDR]++;
            continue;
        }
        if (__builtin_expect(d.options != 0, 0)) {
            c->counters[HS_BAD_OPTIONS]++;
            continue;
        }
        frame = (uint32_t)(d.addr >> shift);
        if (__builtin_expect(state[frame] == lent, 0)) { /* answered in the frame it came in */
            c->home++;
        } else if (__builtin_expect(state[frame] != HS_FOREIGN, 0)) {
            c->counters[HS_BAD_STATE]++;
            continue;
        } else {
            origin[frame] = number;
        }
        state[frame] = HS_OWN;
        batch[got++] = d;
        __builtin_prefetch(base + d.addr); /* its headers are looked at next */
        bytes += d.len;
    }
    c->moved += got;
    c->bytes += bytes;
    return got;
}

uint32_t hs_channel_recv(struct hs_channel *c, struct xdp_desc *batch, uint32_t n) {
    uint32_t got = c->data ? recv_copies(c, batch, n) : recv_frames(c, batch, n);

    c->counters[HS_BAD_INDEX] = bad_indices(c);
    return got;
}

static uint32_t reclaim_frames(struct hs_channel *c) {
    struct hs_ring *r = &c->returns;
    struct hs_umem *u = c->umem;
    const hs_frame *const returned = hs_ring_frames(r);
    uint8_t *const state = u->state;
    const uint8_t *const origin = u->origin;
    const uint8_t lent = (uint8_t)(HS_LENT | c->number << 2);
    const uint32_t frames = u->frames;
    uint32_t free_count = u->free_count, got = 0, avail, i;

    avail = hs_ring_avail(r, 1);
    for (i = 0; i < avail; i++) {
        const hs_frame frame = __atomic_load_n(&returned[(r->own + i) & r->mask], __ATOMIC_RELAXED);

        if (__builtin_expect(frame >= frames, 0)) {
            c->counters[HS_BAD_ADDR]++;
            continue;
        }
        if (__builtin_expect(state[frame] != lent, 0)) {
            c->counters[HS_BAD_STATE]++;
            continue;
        }
        state[frame] = HS_OWN;
        if (origin[frame] == 0)
            u->free_frames[free_count++] = frame;
        else
            u->homeward[u->homeward_count++] = frame;
        got++;
    }
    u->free_count = free_count;
    if (avail) {
        hs_ring_advance(r, avail);
        hs_ring_release(r);
    }
    c->counters[HS_BAD_INDEX] = bad_indices(c);
    return got;
}

uint32_t hs_channel_reclaim(struct hs_channel *c) {
    return c->data ? 0 : reclaim_frames(c);
}

uint32_t hs_channel_return(struct hs_channel *c, const uint64_t *addrs, uint32_t n) {
    struct hs_ring *r = &c->returns;
    struct hs_umem *u = c->umem;
    uint8_t *const state = u->state, *const origin = u->origin;
    hs_frame *const returned = hs_ring_frames(r);
    const uint32_t mask = r->mask, own = r->own, room = hs_ring_free(r, n);
    uint32_t put = 0, i = 0, k;

    while (i < n && put < room) {
        hs_frame frames[RETURNS]; /* stored in one go, see send_run */
        uint32_t some = 0;

        for (; i < n && some < RETURNS && put + some < room; i++) {
            const hs_frame frame = hs_umem_frame(u, addrs[i]);

            if (state[frame] != HS_OWN || origin[frame] != c->number) {
                c->counters[HS_BAD_STATE]++;
                continue;
            }
            state[frame] = HS_FOREIGN;
            origin[frame] = 0;
            frames[some++] = frame;
        }
        for (k = 0; k < some; k++)
            returned[(own + put + k) & mask] = frames[k];
        put += some;
    }
    if (put)
        hs_ring_submit(r, put);
    c->counters[HS_BAD_INDEX] = bad_indices(c);
    return i;
}
