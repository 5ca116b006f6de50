// SPDX-License-Identifier: Apache-2.0
/* See ring/umem.h. This file: regions, sealed and mapped between guard pages, and the list of free
 * frames. */
#define _GNU_SOURCE
#include "ring/umem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE (2u << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#define PAGE 4096u /* that first-level caches index by, whatever the machine's pages are */
#define COLORS_MAX 32
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static uint64_t whole_pages(uint64_t size) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

    return (size + page - 1) & ~(page - 1);
}

int hs_region_make(const char *name, uint64_t size) {
    int ret, fd;

    fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)whole_pages(size)) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
        ret = -errno;
        goto out;
    }
    return fd;
out:
    close(fd);
    return ret;
}

/* `size` whole pages between two that fault, on a huge page's boundary where that can matter: a
 * mistake in our own arithmetic must not reach a neighbour. fd < 0: private memory. */
static int map_guarded(int fd, uint64_t size, uint8_t **base) {
    const uint64_t page = whole_pages(1), align = size >= HUGE ? HUGE : page;
    uint64_t start;
    uint8_t *space;

    space = mmap(NULL, size + 2 * page + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED)
        return -errno;
    start = ((uint64_t)(uintptr_t)space + page + align - 1) & ~(align - 1);
    *base = space + (start - (uint64_t)(uintptr_t)space);
    if (*base - page > space)
        munmap(space, (size_t)(*base - page - space));
    if (space + align > *base - page) /* what is left behind the second guard */
        munmap(*base + size + page, (size_t)(space + align - (*base - page)));
    if (mmap(*base, size, PROT_READ | PROT_WRITE,
             MAP_FIXED | (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS), fd,
             0) == MAP_FAILED) {
        int ret = -errno;
        hs_region_unmap(*base, size);
        return ret;
    }
    (void)madvise(*base, size, MADV_HUGEPAGE); /* refused by kernels without them */
    (void)madvise(*base, size, MADV_POPULATE_WRITE);
    if (size >= HUGE) /* memory of a memfd gets none by the advice alone, on most machines */
        (void)madvise(*base, size & ~(uint64_t)(HUGE - 1), MADV_COLLAPSE);
    return 0;
}

int hs_region_map(int fd, uint64_t size, uint8_t **base) {
    struct stat st;
    int seals;

    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return -errno;
    if ((seals & SEALS) != SEALS)
        return -EPERM;
    if (fstat(fd, &st) < 0)
        return -errno;
    size = whole_pages(size);
    if (size == 0 || (uint64_t)st.st_size != size)
        return -EMSGSIZE;
    return map_guarded(fd, size, base);
}

void hs_region_unmap(uint8_t *base, uint64_t size) {
    const uint64_t page = whole_pages(1);

    if (base)
        munmap(base - page, whole_pages(size) + 2 * page);
}

int hs_umem_open(struct hs_umem *u, int fd, uint32_t frames, uint32_t frame_size, uint32_t first,
                 uint32_t count) {
    uint32_t i;
    int ret;

    memset(u, 0, sizeof(*u));
    if (frame_size < HS_FRAME_MIN || frame_size > HS_FRAME_MAX || (frame_size & (frame_size - 1)))
        return -EINVAL;
    if (frames == 0 || frames > HS_FRAMES_MAX || first > frames || count > frames - first)
        return -EINVAL;
    u->frames = frames;
    u->frames_own = count;
    u->colors = 1;
    u->color_shift = frame_size < PAGE ? (uint32_t)__builtin_ctz(PAGE / frame_size) : 0;
    u->frame_size = frame_size;
    u->frame_shift = (uint32_t)__builtin_ctz(frame_size);
    u->size = (uint64_t)frames * frame_size;
    if (fd >= 0) {
        ret = hs_region_map(fd, u->size, &u->base);
        if (ret < 0)
            return ret;
    } else {
        ret = map_guarded(-1, whole_pages(u->size), &u->base);
        if (ret < 0)
            return ret;
    }
    u->free_frames = calloc(frames, sizeof(*u->free_frames));
    u->state = calloc(frames, 1);
    u->origin = calloc(frames, 1);
    u->homeward = calloc(frames, sizeof(*u->homeward));
    if (!u->free_frames || !u->state || !u->origin || !u->homeward) {
        hs_umem_close(u);
        return -ENOMEM;
    }
    for (i = 0; i < count; i++) { /* the lowest frame on top */
        uint32_t frame = first + count - 1 - i;
        u->state[frame] = HS_OWN;
        u->free_frames[u->free_count++] = frame;
    }
    return 0;
}

void hs_umem_spread(struct hs_umem *u, uint32_t max_len) {
    uint32_t colors = 1;

    while (colors < COLORS_MAX && max_len + (2 * colors - 1) * HS_LINE <= u->frame_size)
        colors *= 2;
    u->colors = colors;
}

void hs_umem_close(struct hs_umem *u) {
    hs_region_unmap(u->base, u->size);
    free(u->free_frames);
    free(u->state);
    free(u->origin);
    free(u->homeward);
    memset(u, 0, sizeof(*u));
}

uint32_t hs_umem_recover(struct hs_umem *u, uint32_t channel) {
    uint32_t frame, n = 0;

    for (frame = 0; frame < u->frames; frame++) {
        if (u->state[frame] != (HS_LENT | channel << 2))
            continue;
        u->state[frame] = HS_OWN;
        if (u->origin[frame] == 0)
            u->free_frames[u->free_count++] = frame;
        else
            u->homeward[u->homeward_count++] = frame;
        n++;
    }
    return n;
}
