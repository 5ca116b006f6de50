// SPDX-License-Identifier: Apache-2.0
/* A numbered UDP stream: what benches and tests send to see what a path loses and reorders.
 *
 * Each datagram starts with its number, 64 bits in network order, from 0. The sender and the
 * receiver each run in one thread, on connected or bound sockets that the caller made. */
#ifndef HS_STREAM_H
#define HS_STREAM_H
#include <stdint.h>

struct hs_stream {
    uint64_t packets;
    uint64_t lost;      /* receiver: numbers below the highest seen that never came */
    uint64_t reordered; /* receiver: came after a higher number */
    uint64_t doubled;   /* receiver: came twice, as far as the last 65536 numbers tell */
    uint64_t refused;   /* sender: not taken by the kernel, sent again */
    uint64_t ns;        /* from the first packet to the last */
    uint64_t cpu_ns;    /* of the calling thread */
};

/* Send datagrams of `size` bytes (8..65507) on `fd`, `count` of them (0: no limit), for at most
 * `ms` milliseconds (0: no limit), at most `rate` a second (0: as fast as it goes).
 * Returns 0 or a negative errno. */
int hs_stream_send(int fd, uint32_t size, uint64_t count, uint64_t ms, uint64_t rate,
                   struct hs_stream *out);

/* Receive until `count` datagrams came (0: no limit) or none came for `quiet_ms` after the first.
 * Returns 0 or a negative errno. */
int hs_stream_receive(int fd, uint64_t count, uint64_t quiet_ms, struct hs_stream *out);

#endif
