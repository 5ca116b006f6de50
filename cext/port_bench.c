/* See port_bench.h. */
#include "port_bench.h"

#include "nf_packet.h"

#include <errno.h>
#include <poll.h>

enum { LEAST = 50 };

static void swap(uint8_t *a, uint8_t *b, uint32_t n) {
    uint8_t kept[16];

    memcpy(kept, a, n);
    memcpy(a, b, n);
    memcpy(b, kept, n);
}

uint32_t hs_judge_echo(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    uint32_t on = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint8_t *frame = hs_packet_data(p, &batch[i]);
        struct hs_packet packet = batch[i];
        struct hs_view v;

        if (hs_view_parse(frame, packet.len, &v) < 0 || v.tuple.family != 4 ||
            v.tuple.proto != HS_IP_UDP || v.fragment != HS_WHOLE)
            continue;
        swap(frame, frame + 6, 6);
        swap(frame + v.l3 + 12, frame + v.l3 + 16, 4);
        swap(frame + v.l4, frame + v.l4 + 2, 2); /* no checksum changes */
        batch[i] = batch[on];
        batch[on++] = packet;
    }
    return on;
}

/* Whether packet `number` is among those that have come. */
static int came_back(struct hs_port *p, uint32_t len, uint64_t number) {
    struct hs_packet batch[HS_BURST];
    uint32_t n = hs_port_recv(p, batch, HS_BURST);
    int found = 0;

    for (uint32_t i = 0; i < n; i++)
        found |=
            batch[i].len == len && memcmp(hs_packet_data(p, &batch[i]) + len - 8, &number, 8) == 0;
    hs_port_drop(p, batch, n);
    return found;
}

int hs_port_ping(struct hs_port *p, const uint8_t *packet, uint32_t len, struct hs_ping *ping,
                 int also) {
    struct pollfd ask = {.fd = also, .events = POLLIN};

    if (len < LEAST || len > p->umem.frame_size / 2)
        return -EMSGSIZE;
    for (;;) {
        const uint64_t number = ping->count + ping->lost, start = hs_now();
        struct hs_packet one;

        if (hs_port_new(p, &one) < 0)
            return -ENOBUFS;
        one.len = len;
        hs_copy(hs_packet_data(p, &one), packet, len);
        memcpy(hs_packet_data(p, &one) + len - 8, &number, 8);
        hs_port_send(p, &one, 1);
        for (;;) {
            const uint64_t waited = hs_now() - start;
            int ret;

            if (came_back(p, len, number)) {
                ping->ns[ping->count++ % ping->samples] = hs_now() - start;
                break;
            }
            if (waited > HS_PING_LATE) {
                ping->lost++;
                break;
            }
            ret = hs_port_wait(p, also, HS_PING_LATE - waited);
            if (ret < 0)
                return ret;
            if (ret == 2)
                return 0;
        }
        if (number % 64 == 0 && poll(&ask, 1, 0) > 0)
            return 0;
    }
}
