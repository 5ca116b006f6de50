// SPDX-License-Identifier: Apache-2.0
/* The ends of `hostsim bench chain`: of its round trips, one packet at a time, there and back; and
 * of its load, which do what the stacks of two endpoints do with each datagram. */
#ifndef HS_PORT_BENCH_H
#define HS_PORT_BENCH_H
#include "port/port.h"

#define HS_PING_LATE UINT64_C(100000000) /* ns until a packet counts as lost */

struct hs_ping {
    uint64_t count, lost; /* round trips; packets that did not come back in time */
    uint32_t samples;     /* a power of two */
    uint64_t *ns;         /* of the last `samples` round trips: number i at i % samples */
};

/* Send a packet of at least 50 bytes (its last eight are overwritten), wait for it, and so on,
 * until `also` is readable. 0, or a negative errno. */
int hs_port_ping(struct hs_port *p, const uint8_t *packet, uint32_t len, struct hs_ping *ping,
                 int also);

/* Send each UDP packet back to where it came from; drop all else. */
uint32_t hs_judge_echo(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n);

/* The endpoint that sends: each datagram's payload is copied out of a buffer, its number written
 * into the first eight bytes of it, and the UDP checksum taken over all of it. `packet`: an
 * Ethernet frame with the headers, and the payload. Sends until `also` is readable; *made: how many
 * so far. 0, or a negative errno. */
int hs_port_datagrams(struct hs_port *p, const uint8_t *packet, uint32_t len, uint64_t *made,
                      int also);

/* The endpoint that receives: headers are parsed, the payload is copied into the reader's buffer,
 * and IP's and UDP's checksums are verified over the whole datagram. Frames that are not UDP over
 * IPv4 are not counted. */
struct hs_verified {
    uint64_t good, bad; /* datagrams */
    uint8_t buffer[HS_FRAME_MAX];
};
/* state: a struct hs_verified. */
uint32_t hs_judge_verify(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n);

#endif
