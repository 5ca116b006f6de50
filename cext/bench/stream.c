// SPDX-License-Identifier: Apache-2.0
/* See bench/stream.h. This file: numbered datagrams at a rate, and what of them came, when, and in
 * which order. */
#define _GNU_SOURCE
#include "bench/stream.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, WINDOW = 65536, SPIN_NS = 1000000 };

static uint64_t now(clockid_t clock) {
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void wait_until(uint64_t when) {
    struct timespec t = {.tv_sec = (time_t)(when / 1000000000u),
                         .tv_nsec = (long)(when % 1000000000u)};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

int hs_stream_send(int fd, uint32_t size, uint64_t count, uint64_t ms, uint64_t rate,
                   struct hs_stream *out) {
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    uint64_t start, cpu = now(CLOCK_THREAD_CPUTIME_ID), number = 0;
    unsigned batch = rate && rate < 20000 ? 1 : BATCH;
    unsigned char *buffers;
    int ret = 0;

    memset(out, 0, sizeof(*out));
    if (size < 8 || size > 65507)
        return -EINVAL;
    buffers = calloc(BATCH, size);
    if (!buffers)
        return -ENOMEM;
    memset(messages, 0, sizeof(messages));
    for (unsigned i = 0; i < BATCH; i++) {
        parts[i].iov_base = buffers + (size_t)i * size;
        parts[i].iov_len = size;
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    start = now(CLOCK_MONOTONIC);
    while (!count || number < count) {
        unsigned want = count && count - number < batch ? (unsigned)(count - number) : batch;
        int sent;

        if (ms && now(CLOCK_MONOTONIC) - start >= ms * 1000000u)
            break;
        if (rate)
            wait_until(start + number * 1000000000u / rate);
        for (unsigned i = 0; i < want; i++) {
            uint64_t be = htobe64(number + i);
            memcpy(parts[i].iov_base, &be, sizeof(be));
        }
        sent = sendmmsg(fd, messages, want, 0);
        if (sent < 0) {
            if (errno == ENOBUFS || errno == EAGAIN || errno == EINTR || errno == ECONNREFUSED) {
                out->refused++;
                continue;
            }
            ret = -errno;
            break;
        }
        number += (uint64_t)sent;
    }
    out->packets = number;
    out->ns = now(CLOCK_MONOTONIC) - start;
    out->cpu_ns = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    free(buffers);
    return ret;
}

/* One number came: `next` is one past the highest seen, `seen` a bitmap of the last WINDOW. */
static void account(struct hs_stream *out, uint64_t number, uint64_t *next, uint8_t *seen) {
    uint64_t slot = number % WINDOW;

    out->packets++;
    if (number >= *next) {
        uint64_t skipped = number - *next;

        out->lost += skipped;
        for (uint64_t i = 0; i < skipped && i < WINDOW; i++)
            seen[(*next + i) % WINDOW] = 0;
        *next = number + 1;
        seen[slot] = 1;
        return;
    }
    if (*next - number <= WINDOW && seen[slot]) {
        out->doubled++;
        return;
    }
    out->reordered++;
    out->lost--;
    seen[slot] = 1;
}

int hs_stream_receive(int fd, uint64_t count, uint64_t quiet_ms, struct hs_stream *out) {
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    uint64_t numbers[BATCH], next = 0, start = 0, last = 0;
    uint64_t cpu = now(CLOCK_THREAD_CPUTIME_ID);
    uint8_t *seen = calloc(WINDOW, 1);
    int ret = 0;

    memset(out, 0, sizeof(*out));
    if (!seen)
        return -ENOMEM;
    memset(messages, 0, sizeof(messages));
    for (unsigned i = 0; i < BATCH; i++) {
        parts[i].iov_base = &numbers[i];
        parts[i].iov_len = sizeof(numbers[i]);
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    while (!count || out->packets < count) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);

        if (got < 0 && errno == EAGAIN && start && now(CLOCK_MONOTONIC) - last < SPIN_NS)
            continue; /* a waking receiver would cost the sender an interrupt for each packet */
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            int woken = poll(&ready, 1, start ? (int)quiet_ms : -1);

            if (woken == 0)
                break;
            if (woken < 0 && errno != EINTR) {
                ret = -errno;
                break;
            }
            continue;
        }
        if (got < 0) {
            ret = -errno;
            break;
        }
        last = now(CLOCK_MONOTONIC);
        if (!start)
            start = last;
        for (int i = 0; i < got; i++)
            if (messages[i].msg_len >= sizeof(numbers[i]))
                account(out, be64toh(numbers[i]), &next, seen);
    }
    out->ns = last - start;
    out->cpu_ns = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    free(seen);
    return ret;
}
