// SPDX-License-Identifier: Apache-2.0
/* A port that is sent more by eth0 than it takes: the rings come to their turn all the same, and
 * never before what waited at eth0 when they were looked at. The socket's ring is memory of the
 * test's, which plays the kernel. */
#define _GNU_SOURCE
#include "check.h"
#include "port/parts.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { FRAMES = 1024, FRAME = 2048, RING = 256, LEN = 60, WAITING = 100, SENT = 40 };

static struct hs_port one, two;
static struct xdp_desc slots[RING];
static uint32_t producer, consumer, flags;

static void join(void) {
    const struct hs_channel_shape shape = {HS_ISOLATED, 64, 1u << 18, 1600};
    int to = hs_channel_make(&shape), back = hs_channel_make(&shape), bells[2][2];

    CHECK(to >= 0 && back >= 0);
    CHECK(pipe2(bells[0], O_NONBLOCK | O_CLOEXEC) == 0);
    CHECK(pipe2(bells[1], O_NONBLOCK | O_CLOEXEC) == 0);
    CHECK(hs_port_open(&one, -1, FRAMES, FRAME, 0, FRAMES) == 0);
    CHECK(hs_port_open(&two, -1, FRAMES, FRAME, 0, FRAMES) == 0);
    CHECK(hs_port_neighbour(&one, 2, &shape, back, to, bells[0][0], bells[1][1]) == 0);
    CHECK(hs_port_neighbour(&two, 1, &shape, to, back, bells[1][0], bells[0][1]) == 0);
    close(to);
    close(back);
}

/* By eth0, frames come until so many wait; all are the same one. */
static void arrive(uint32_t waiting) {
    for (; producer - consumer < waiting;
         __atomic_store_n(&producer, producer + 1, __ATOMIC_RELEASE))
        slots[producer % RING] = (struct xdp_desc){.addr = 0, .len = LEN};
}

static void send_by_ring(uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        struct xdp_desc desc = {.addr = hs_umem_take(&two.umem), .len = LEN};

        memset(hs_umem_data(&two.umem, desc.addr), 0, LEN);
        CHECK(hs_channel_send(&two.neighbour[0].out, &desc, 1) == 1);
    }
}

/* Receive once; how many of the batch came by eth0, and by ring. */
static void receive(uint32_t burst, uint32_t came[2]) {
    struct hs_packet batch[HS_BURST];
    const uint32_t got = hs_port_recv(&one, batch, burst);

    CHECK(got <= burst);
    came[0] = came[1] = 0;
    for (uint32_t i = 0; i < got; i++) {
        came[batch[i].from != 0]++;
        if (batch[i].from)
            hs_port_let_go(&one, batch[i].addr);
    }
}

static void check_turns(uint32_t burst) {
    uint32_t by_eth0 = 0, by_ring = 0, came[2], i;

    arrive(WAITING);
    send_by_ring(SENT);
    for (i = 0; i < 8 * (WAITING + SENT) && by_ring < SENT; i++) {
        receive(burst, came);
        by_eth0 += came[0];
        if (came[1])
            CHECK(by_eth0 >= WAITING); /* it may be a later packet of the same flow */
        by_ring += came[1];
        arrive(RING);
    }
    CHECK(by_ring == SENT);
    CHECK(by_eth0 >= (burst > 1 ? SENT / 2 : SENT)); /* nor do the rings keep eth0 waiting */
    for (arrive(1); producer != consumer;)
        receive(burst, came);
}

int main(void) {
    struct xsk_ring_cons *rx = &one.eth0.rx;

    join();
    one.has_eth0 = 1;
    rx->mask = RING - 1;
    rx->size = RING;
    rx->producer = &producer;
    rx->consumer = &consumer;
    rx->flags = &flags;
    rx->ring = slots;
    for (uint32_t burst = HS_BURST; burst; burst /= 2)
        check_turns(burst);
    one.has_eth0 = 0;
    hs_port_close(&one);
    hs_port_close(&two);
    return 0;
}
