// SPDX-License-Identifier: Apache-2.0
/* See port/port.h. This file: a port from its opening to its close, and what it is given in
 * between. */
#define _GNU_SOURCE
#include "port/parts.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

int hs_port_open(struct hs_port *p, int umem_fd, uint32_t frames, uint32_t frame_size,
                 uint32_t first, uint32_t count) {
    int ret;

    memset(p, 0, sizeof(*p));
    p->pace.spin_ns = HS_SPIN;
    ret = hs_umem_open(&p->umem, umem_fd, frames, frame_size, first, count);
    if (ret < 0)
        return ret;
    p->memory = p->umem.base;
    hs_umem_spread(&p->umem, frame_size / 4 * 3);
    return 0;
}

int hs_port_eth0(struct hs_port *p, int fd, const char *interface, uint32_t ring) {
    int ret = hs_xsk_open(&p->eth0, fd, interface, &p->umem, ring);

    p->has_eth0 = ret == 0;
    return ret;
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
    n->after = 0;
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

int hs_port_tap(struct hs_port *p, int fd) {
    struct stat st;
    void *at;

    if (fstat(fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size < sizeof(*p->tap))
        return -EMSGSIZE;
    at = mmap(NULL, sizeof(*p->tap), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return -errno;
    p->tap = at;
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
    p->last.to = 0;
}

void hs_port_close(struct hs_port *p) {
    for (uint32_t i = 0; i < p->neighbours; i++)
        if (p->neighbour[i].vm)
            hs_port_part(p, &p->neighbour[i]);
    hs_xsk_close(&p->eth0);
    if (p->rules)
        munmap((void *)(uintptr_t)p->rules, p->rules_size);
    if (p->tap)
        munmap(p->tap, sizeof(*p->tap));
    hs_region_unmap((uint8_t *)p->tally, p->tally_size);
    hs_umem_close(&p->umem);
    memset(p, 0, sizeof(*p));
}
