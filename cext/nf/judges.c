// SPDX-License-Identifier: Apache-2.0
/* See nf/judges.h. This file: batches parted into what goes on and what is dropped, and the loop of
 * the source. */
#include "nf/judges.h"

#include <errno.h>
#include <poll.h>

/* The packets that go on come first, in their order; the others behind them. */
static uint32_t part(struct hs_packet *batch, uint32_t n, uint64_t pass) {
    struct hs_packet out[HS_BURST];
    uint32_t on = 0, off = 0;

    if (pass == (n < 64 ? (UINT64_C(1) << n) - 1 : UINT64_MAX))
        return n;
    for (uint32_t i = 0; i < n; i++) {
        if (pass >> i & 1)
            batch[on++] = batch[i];
        else
            out[off++] = batch[i];
    }
    memcpy(batch + on, out, off * sizeof(*out));
    return on;
}
_Static_assert(HS_BURST <= 64, "one bit for each packet");

uint32_t hs_judge_forward(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    (void)state;
    (void)p;
    (void)batch;
    return n;
}

uint32_t hs_judge_sink(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    (void)state;
    (void)p;
    (void)batch;
    (void)n;
    return 0;
}

uint32_t hs_judge_firewall(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    const uint64_t now = hs_now();
    uint64_t pass = 0;

    for (uint32_t i = 0; i < n; i++)
        if (hs_firewall_pass(state, hs_packet_data(p, &batch[i]), batch[i].len, now))
            pass |= UINT64_C(1) << i;
    return part(batch, n, pass);
}

uint32_t hs_judge_nat(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    const uint64_t now = hs_now();
    uint64_t pass = 0;

    for (uint32_t i = 0; i < n; i++)
        if (hs_nat_pass(state, hs_packet_data(p, &batch[i]), batch[i].len, now))
            pass |= UINT64_C(1) << i;
    return part(batch, n, pass);
}

/* How many may be sent now, of `left`; `sent` of them within `elapsed` ns. */
static uint64_t due(const struct hs_port *p, uint64_t left, uint64_t rate, uint64_t sent,
                    uint64_t elapsed) {
    uint64_t n = left < HS_BURST ? left : HS_BURST;

    if (rate) { /* the first at once */
        const uint64_t seconds = elapsed / 1000000000u, rest = elapsed % 1000000000u;
        const uint64_t by_now = seconds * rate + rest * rate / 1000000000u + 1;
        const uint64_t late = by_now > sent ? by_now - sent : 0;

        if (n > late)
            n = late;
    }
    return n < hs_port_room(p) ? n : hs_port_room(p);
}

int hs_nf_source(struct hs_port *p, const uint8_t *packet, uint32_t len, uint64_t count,
                 uint64_t rate, uint64_t *sent, int also) {
    struct hs_packet batch[HS_BURST];
    struct pollfd ask = {.fd = also, .events = POLLIN};
    const uint64_t start = hs_now(), before = *sent;
    uint32_t rounds = 0;

    if (len > p->umem.frame_size / 4 * 3)
        return -EMSGSIZE;
    for (;;) {
        const uint64_t left = count ? count - *sent : UINT64_MAX;
        const uint64_t want = due(p, left, rate, *sent - before, hs_now() - start);
        uint32_t n = hs_port_recv(p, batch, HS_BURST); /* takes back what was sent, too */
        int ret = 0;

        hs_port_drop(p, batch, n);
        for (n = 0; n < want && hs_port_new(p, &batch[n]) == 0; n++) {
            batch[n].len = len;
            hs_copy(hs_packet_data(p, &batch[n]), packet, len);
        }
        if (n > 0) {
            hs_port_send(p, batch, n);
            *sent += n;
            if (++rounds % 256 != 0)
                continue;
            ret = poll(&ask, 1, 0) > 0 ? 2 : 0;
        } else if (left == 0) {
            ret = hs_port_wait(p, also, UINT64_C(1000000000));
        } else if (rate) {
            ret = hs_port_wait(p, also, 1000000000u / rate + 1);
        } else {
            ret = hs_port_wait_for_frames(p, also);
            if (ret == 0 && ++rounds % 256 == 0)
                ret = poll(&ask, 1, 0) > 0 ? 2 : 0;
        }
        if (ret < 0)
            return ret;
        if (ret == 2)
            return 0;
    }
}
