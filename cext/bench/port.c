// SPDX-License-Identifier: Apache-2.0
/* See bench/port.h. This file: the two ends of a chain: datagrams made and verified, and frames
 * echoed and timed. */
#include "bench/port.h"

#include "nf/packet.h"

#include <errno.h>
#include <poll.h>

enum { LEAST = 50, L3 = 14, L4 = 34, PAYLOAD = 42 };

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

/* The internet checksum's sum (RFC 1071), in the machine's byte order, not yet folded. */
static uint64_t sum(const uint8_t *at, uint32_t len) {
    uint64_t total = 0;
    uint32_t word, i;
    uint16_t half = 0;

    for (i = 0; i + 4 <= len; i += 4) {
        memcpy(&word, at + i, 4);
        total += word;
    }
    if (len - i >= 2) {
        memcpy(&half, at + i, 2);
        total += half;
        i += 2;
    }
    if (i < len) {
        half = 0;
        memcpy(&half, at + i, 1);
        total += half;
    }
    return total;
}

static uint16_t folded(uint64_t total) {
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)total;
}

/* UDP's, over datagram and pseudo header; with the checksum field as it is. */
static uint16_t udp_sum(const uint8_t *ip, const uint8_t *udp, uint32_t len) {
    const uint8_t pseudo[4] = {0, HS_IP_UDP, (uint8_t)(len >> 8), (uint8_t)len};

    return folded(sum(ip + 12, 8) + sum(pseudo, 4) + sum(udp, len));
}

static void make_datagram(uint8_t *frame, const uint8_t *packet, uint32_t len, uint64_t number) {
    uint16_t check;

    memcpy(frame, packet, PAYLOAD);
    memset(frame + L4 + 6, 0, 2);
    hs_copy(frame + PAYLOAD, packet + PAYLOAD, len - PAYLOAD);
    memcpy(frame + PAYLOAD, &number, sizeof(number));
    check = (uint16_t)~udp_sum(frame + L3, frame + L4, len - L4);
    if (check == 0)
        check = 0xffff;
    memcpy(frame + L4 + 6, &check, sizeof(check));
}

int hs_port_datagrams(struct hs_port *p, const uint8_t *packet, uint32_t len, uint64_t *made,
                      int also) {
    struct hs_packet batch[HS_BURST];
    struct pollfd ask = {.fd = also, .events = POLLIN};
    uint32_t rounds = 0;
    int ret = 0;

    if (len < LEAST || len > p->umem.frame_size / 4 * 3)
        return -EMSGSIZE;
    p->pace.puts_off = 1;
    for (;;) {
        uint32_t n = hs_port_recv(p, batch, HS_BURST); /* takes back what was sent, too */
        const uint32_t most = hs_port_room(p);

        hs_port_drop(p, batch, n);
        for (n = 0; n < most && hs_port_new(p, &batch[n]) == 0; n++) {
            batch[n].len = len;
            make_datagram(hs_packet_data(p, &batch[n]), packet, len, (*made)++);
        }
        if (n > 0)
            hs_port_send(p, batch, n);
        else
            ret = hs_port_wait_for_frames(p, also);
        if (++rounds % HS_ROUNDS_PUT_OFF == 0)
            hs_port_ring(p, 0);
        if (rounds % 256 == 0 && poll(&ask, 1, 0) > 0)
            ret = 2;
        if (ret != 0)
            break;
    }
    p->pace.puts_off = 0;
    hs_port_ring(p, 1);
    return ret < 0 ? ret : 0;
}

static int verified(const uint8_t *frame, const struct hs_view *v, uint8_t *buffer) {
    const uint8_t *ip = frame + v->l3, *udp = frame + v->l4;
    const uint32_t size = hs_load16(udp + 4);

    if (size < 8 || size != v->end - v->l4) /* `end` is within the frame */
        return 0;
    memcpy(buffer, udp + 8, size - 8);
    return folded(sum(ip, v->l4 - v->l3)) == 0xffff && udp_sum(ip, udp, size) == 0xffff;
}

uint32_t hs_judge_verify(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n) {
    struct hs_verified *counts = state;

    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *frame = hs_packet_data(p, &batch[i]);
        struct hs_view v;

        if (hs_view_parse(frame, batch[i].len, &v) < 0 || v.tuple.family != 4 ||
            v.tuple.proto != HS_IP_UDP || v.fragment != HS_WHOLE)
            continue;
        if (verified(frame, &v, counts->buffer))
            counts->good++;
        else
            counts->bad++;
    }
    return 0;
}
