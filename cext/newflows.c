/* See newflows.h. */
#define _GNU_SOURCE
#include "newflows.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, FIRST_PORT = 1024, WINDOW_MAX = 4096 };

struct frame {
    struct ethhdr ethernet;
    struct iphdr ip;
    struct udphdr udp;
    uint64_t number; /* network order */
    uint8_t padding[10];
} __attribute__((packed));
_Static_assert(sizeof(struct frame) == ETH_ZLEN, "the smallest frame");

struct ends {
    struct frame frames[BATCH];
    uint64_t numbers[BATCH];
    struct iovec out[BATCH], in[BATCH];
    struct mmsghdr sending[BATCH], receiving[BATCH];
};

static uint64_t now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The sum of a header in 16-bit words (RFC 1071); its checksum field is 0. */
static uint16_t header_sum(const struct iphdr *ip) {
    const uint8_t *bytes = (const uint8_t *)ip;
    uint32_t sum = 0;

    for (size_t i = 0; i < sizeof(*ip); i += 2)
        sum += (uint32_t)(bytes[i] << 8 | bytes[i + 1]);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void prepare(struct ends *ends, const struct hs_newflows *run) {
    for (unsigned i = 0; i < BATCH; i++) {
        struct frame *frame = &ends->frames[i];

        memcpy(frame->ethernet.h_dest, run->to, ETH_ALEN);
        memcpy(frame->ethernet.h_source, run->from, ETH_ALEN);
        frame->ethernet.h_proto = htons(ETH_P_IP);
        frame->ip.version = 4;
        frame->ip.ihl = 5;
        frame->ip.ttl = 64;
        frame->ip.protocol = IPPROTO_UDP;
        frame->ip.tot_len = htons(sizeof(frame->ip) + sizeof(frame->udp) + sizeof(frame->number));
        frame->ip.daddr = htonl(run->target);
        frame->udp.dest = htons(run->port);
        frame->udp.len = htons(sizeof(frame->udp) + sizeof(frame->number));
        ends->out[i] = (struct iovec){frame, sizeof(*frame)};
        ends->in[i] = (struct iovec){&ends->numbers[i], sizeof(ends->numbers[i])};
        ends->sending[i].msg_hdr.msg_iov = &ends->out[i];
        ends->receiving[i].msg_hdr.msg_iov = &ends->in[i];
        ends->sending[i].msg_hdr.msg_iovlen = ends->receiving[i].msg_hdr.msg_iovlen = 1;
    }
}

/* Make a frame the first packet of flow `number`. The UDP checksum stays 0: none (RFC 768). */
static void make(struct frame *frame, const struct hs_newflows *run, uint64_t number) {
    frame->ip.saddr = htonl(run->source + (uint32_t)(number / HS_NEWFLOWS_PORTS));
    frame->ip.check = 0;
    frame->ip.check = htons(header_sum(&frame->ip));
    frame->udp.source = htons((uint16_t)(FIRST_PORT + number % HS_NEWFLOWS_PORTS));
    frame->number = htobe64(number);
}

static int send_some(int fd, struct ends *ends, struct hs_newflows *run, uint64_t room) {
    uint64_t left = run->count - run->sent;
    unsigned want = BATCH;
    int sent;

    if (want > left)
        want = (unsigned)left;
    if (want > room)
        want = (unsigned)room;
    for (unsigned i = 0; i < want; i++)
        make(&ends->frames[i], run, run->first + run->sent + i);
    sent = sendmmsg(fd, ends->sending, want, 0);
    if (sent < 0)
        return errno == ENOBUFS || errno == EAGAIN || errno == EINTR ? 0 : -errno;
    run->sent += (uint64_t)sent;
    return 0;
}

/* Take what has come; `seen` has a byte for each flow. Returns how many, or a negative errno. */
static int take(int fd, struct ends *ends, struct hs_newflows *run, uint8_t *seen) {
    int got = recvmmsg(fd, ends->receiving, BATCH, MSG_DONTWAIT, NULL);

    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    for (int i = 0; i < got; i++) {
        uint64_t number = be64toh(ends->numbers[i]);

        if (number < run->first)
            continue;
        number -= run->first;
        if (ends->receiving[i].msg_len != sizeof(ends->numbers[i]) || number >= run->sent ||
            seen[number])
            return -EPROTO;
        seen[number] = 1;
        run->got++;
    }
    return got;
}

int hs_newflows_run(int send_fd, int receive_fd, struct hs_newflows *run) {
    uint64_t start, last, given_up = 0; /* flows no longer waited for */
    struct pollfd ready = {.fd = receive_fd, .events = POLLIN};
    struct ends *ends = NULL;
    uint8_t *seen = NULL;
    int ret = 0;

    run->sent = run->got = run->lost = run->ns = 0;
    if (!run->window || run->window > WINDOW_MAX || !run->count || run->count > 1u << 24)
        return -EINVAL;
    ends = calloc(1, sizeof(*ends));
    seen = calloc(run->count, 1);
    if (!ends || !seen) {
        ret = -ENOMEM;
        goto out;
    }
    prepare(ends, run);
    start = last = now();
    for (;;) {
        /* One given up may come later all the same: then more have come than are missing. */
        uint64_t settled = run->got + given_up;
        uint64_t flying = settled < run->sent ? run->sent - settled : 0;

        if (run->sent < run->count && now() - start >= run->ms * 1000000u)
            run->count = run->sent; /* time is up: wait for the rest */
        if (run->sent == run->count && !flying)
            break;
        if (run->sent < run->count && flying < run->window) {
            ret = send_some(send_fd, ends, run, run->window - flying);
            if (ret < 0)
                goto out;
        }
        ret = take(receive_fd, ends, run, seen);
        if (ret < 0)
            goto out;
        if (ret > 0) {
            last = now();
            continue;
        }
        if (run->sent < run->count && flying < run->window)
            continue;
        ret = poll(&ready, 1, HS_NEWFLOWS_QUIET_MS);
        if (ret < 0 && errno != EINTR) {
            ret = -errno;
            goto out;
        }
        if (ret == 0)
            given_up = run->sent - run->got;
    }
    ret = 0;
    run->lost = run->sent - run->got;
    run->ns = last - start;
out:
    free(seen);
    free(ends);
    return ret;
}
