// SPDX-License-Identifier: Apache-2.0
/* The messages between an OS's agent and the KMC, as bytes. hostsim/kmc/wire.py says who sends
 * which and when, and encodes the KMC's side; tests/unit/test_wire.py holds its numbers against
 * these. One datagram of a SOCK_SEQPACKET socket is one message: a header, and a body of at most
 * HS_WIRE_BODY_MAX bytes. Native byte order: both ends are on one machine. */
#ifndef HS_WIRE_H
#define HS_WIRE_H
#include <stdint.h>

#define HS_WIRE_PATH "/run/hostsim/agent.sock" /* in every OS */
#define HS_WIRE_MAGIC_0 'h'
#define HS_WIRE_MAGIC_1 'A'
#define HS_WIRE_VERSION 1
#define HS_WIRE_BODY_MAX 4096

enum hs_wire_type {
    /* from the agent */
    HS_WIRE_HELLO = 1,
    HS_WIRE_FLIP = 2,
    HS_WIRE_NEXT = 3,
    HS_WIRE_STATUS = 4,
    HS_WIRE_WATCH = 5,
    HS_WIRE_RELEASED = 6,
    HS_WIRE_BEAT = 7,
    /* from the KMC */
    HS_WIRE_RELEASE = 16,
    HS_WIRE_STATE = 17,
    HS_WIRE_PING = 18,
    HS_WIRE_OK = 19,
    HS_WIRE_ERROR = 20,
    HS_WIRE_EVENT = 21,
};

struct hs_wire_header {
    uint8_t magic[2];
    uint8_t version, type;
    uint32_t sequence; /* an answer's is that of the question; an event's is 0 */
};
_Static_assert(sizeof(struct hs_wire_header) == 8, "struct hs_wire_header");

struct hs_wire_message {
    struct hs_wire_header header;
    char body[HS_WIRE_BODY_MAX];
};
_Static_assert(sizeof(struct hs_wire_message) == 8 + HS_WIRE_BODY_MAX, "struct hs_wire_message");

static inline struct hs_wire_header hs_wire_header(enum hs_wire_type type, uint32_t sequence) {
    return (struct hs_wire_header){.magic = {HS_WIRE_MAGIC_0, HS_WIRE_MAGIC_1},
                                   .version = HS_WIRE_VERSION,
                                   .type = (uint8_t)type,
                                   .sequence = sequence};
}

#endif
