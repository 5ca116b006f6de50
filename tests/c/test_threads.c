// SPDX-License-Identifier: Apache-2.0
/* Two threads, one end each: numbered packets arrive whole, once and in order, in both modes, and
 * whoever sleeps is woken. Meant for ThreadSanitizer; argument: packets (default 200000). */
#define _GNU_SOURCE
#include "ring/channel.h"
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FRAME 2048
#define FRAMES 512

static uint64_t total = 200000;
static struct hs_channel_shape shape;
static int channel_fd, umem_fd, bell, slept;

static void *send_all(void *unused) {
    struct hs_umem u;
    struct hs_channel c;
    uint64_t sent = 0, random = 3, one = 1;

    CHECK(hs_umem_open(&u, umem_fd, FRAMES, FRAME, 0, FRAMES) == 0);
    CHECK(hs_channel_open(&c, channel_fd, &shape, &u, 1, 1) == 0);
    while (sent < total) {
        struct xdp_desc batch[64];
        uint32_t n = 1 + draw(&random) % 64, taken;

        hs_channel_reclaim(&c);
        if (n > u.free_count)
            n = u.free_count;
        if (n > total - sent)
            n = (uint32_t)(total - sent);
        for (uint32_t i = 0; i < n; i++) {
            batch[i] = (struct xdp_desc){.addr = hs_umem_take(&u), .len = 16 + (sent + i) % 1900};
            memcpy(hs_umem_data(&u, batch[i].addr), &(uint64_t){sent + i}, 8);
            memcpy(hs_umem_data(&u, batch[i].addr) + batch[i].len - 8, &(uint64_t){sent + i}, 8);
        }
        taken = hs_channel_send(&c, batch, n);
        for (uint32_t i = c.data ? 0 : taken; i < n; i++)
            hs_umem_give(&u, batch[i].addr);
        sent += taken;
        if (hs_ring_rings(&c.packets, HS_CONSUMER, hs_ring_must_ring(&c.packets, HS_CONSUMER)))
            CHECK(write(bell, &one, 8) == 8);
        if (draw(&random) % 512 == 0) /* long enough that the receiver sleeps */
            poll(NULL, 0, 1);
    }
    while (!c.data && u.free_count < FRAMES)
        hs_channel_reclaim(&c);
    hs_channel_close(&c);
    hs_umem_close(&u);
    return unused;
}

static void receive_all(void) {
    struct hs_umem u;
    struct hs_channel c;
    uint64_t received = 0, seen;

    CHECK(hs_umem_open(&u, umem_fd, FRAMES, FRAME, 0, shape.mode == HS_ISOLATED ? FRAMES : 0) == 0);
    CHECK(hs_channel_open(&c, channel_fd, &shape, &u, 1, 0) == 0);
    while (received < total) {
        struct xdp_desc batch[64];
        uint64_t addrs[64];
        uint32_t n = hs_channel_recv(&c, batch, 64);

        for (uint32_t i = 0; i < n; i++, received++) {
            CHECK(batch[i].len == 16 + received % 1900);
            memcpy(&seen, hs_umem_data(&u, batch[i].addr), 8);
            CHECK(seen == received);
            memcpy(&seen, hs_umem_data(&u, batch[i].addr) + batch[i].len - 8, 8);
            CHECK(seen == received);
            addrs[i] = batch[i].addr;
            if (c.data)
                hs_umem_give(&u, addrs[i]);
        }
        for (uint32_t back = 0;
             !c.data && back < n;) /* waits where the sender is slow to reclaim */
            back += hs_channel_return(&c, addrs + back, n - back);
        if (n > 0)
            continue;
        hs_ring_sleep(&c.packets, HS_CONSUMER);
        if (hs_ring_avail(&c.packets, 1) == 0) {
            struct pollfd p = {.fd = bell, .events = POLLIN};
            /* a wake-up that is lost would end the test here */
            CHECK(poll(&p, 1, 20000) == 1 && read(bell, &seen, 8) == 8);
            slept++;
        }
        hs_ring_awake(&c.packets, HS_CONSUMER);
    }
    for (int i = 0; i < HS_COUNTERS; i++)
        CHECK(c.counters[i] == 0);
    hs_channel_close(&c);
    hs_umem_close(&u);
}

int main(int argc, char **argv) {
    if (argc > 1)
        total = strtoull(argv[1], NULL, 10);
    for (uint32_t mode = HS_ISOLATED; mode <= HS_SHARED; mode++) {
        pthread_t sender;

        shape = (struct hs_channel_shape){mode, 256, mode == HS_ISOLATED ? 1u << 17 : 0, FRAME};
        slept = 0;
        CHECK((channel_fd = hs_channel_make(&shape)) >= 0 && (bell = eventfd(0, 0)) >= 0);
        umem_fd = mode == HS_SHARED ? hs_region_make("test", FRAMES * FRAME) : -1;
        CHECK(pthread_create(&sender, NULL, send_all, NULL) == 0);
        receive_all();
        CHECK(pthread_join(sender, NULL) == 0);
        CHECK(slept > 0);
        close(channel_fd);
        close(bell);
        if (umem_fd >= 0)
            close(umem_fd);
    }
    return 0;
}
