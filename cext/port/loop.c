// SPDX-License-Identifier: Apache-2.0
/* See port/port.h. This file: the loop of functions written in C. */
#define _GNU_SOURCE
#include "port/parts.h"

#include <poll.h>

static int loop(struct hs_port *p, hs_judge judge, void *state, int also) {
    struct hs_packet batch[HS_BURST];
    struct pollfd ask = {.fd = also, .events = POLLIN};
    uint32_t rounds = 0;

    for (;;) {
        uint32_t n = hs_port_recv(p, batch, HS_BURST), on;
        int ret;

        if (n > 0) {
            on = judge(state, p, batch, n);
            if (on > n) /* a plug-in's mistake: there is nothing behind the batch */
                on = n;
            if (on > 0)
                hs_port_send(p, batch, on);
            if (on < n)
                hs_port_drop(p, batch + on, n - on);
            if (++rounds % HS_ROUNDS_PUT_OFF == 0)
                hs_port_ring(p, 0);
            if (rounds % HS_ROUNDS_ASK == 0 && poll(&ask, 1, 0) > 0)
                return 0;
            continue;
        }
        ret = hs_port_wait(p, also, UINT64_C(1000000000));
        if (ret < 0)
            return ret;
        if (ret == 2)
            return 0;
    }
}

int hs_port_loop(struct hs_port *p, hs_judge judge, void *state, int also) {
    int ret;

    p->pace.puts_off = 1;
    ret = loop(p, judge, state, also);
    p->pace.puts_off = 0;
    hs_port_ring(p, 1);
    return ret;
}
