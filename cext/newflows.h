/* A stream of new flows: every packet is the first of a flow of its own, and is waited for.
 *
 * One thread holds both ends: a packet socket (packet(7), SOCK_RAW, bound to the interface) that
 * sends finished frames, and a bound UDP socket that they arrive at. At most `window` flows are
 * on their way at a time, so that what is between is loaded and not flooded: what it loses it
 * could not have decided in time. Each datagram carries its number, 64 bits in network order from
 * `first`; source address and port are made of the number, so that no tuple comes twice. */
#ifndef HS_NEWFLOWS_H
#define HS_NEWFLOWS_H
#include <stdint.h>

enum { HS_NEWFLOWS_PORTS = 60000 }; /* source ports in use, from 1024 */

struct hs_newflows {
    uint8_t to[6], from[6]; /* MAC addresses */
    uint32_t source;        /* host order; flow n comes from source + n / HS_NEWFLOWS_PORTS */
    uint32_t target;        /* host order */
    uint16_t port;          /* the receiver's, host order */
    uint16_t pad;
    uint32_t window;       /* 1..4096 */
    uint64_t first, count; /* numbers of the flows */
    uint64_t ms;           /* at most this long */
    uint64_t sent, got;    /* out: flows */
    uint64_t lost;         /* out: given up, nothing came for HS_NEWFLOWS_QUIET_MS */
    uint64_t ns;           /* out: from the first packet sent to the last that came */
};

enum { HS_NEWFLOWS_QUIET_MS = 1000 };

/* Returns 0 or a negative errno; -EPROTO where a flow came twice or was never sent. What comes late
 * of a run before, of lower numbers, is passed over. */
int hs_newflows_run(int send_fd, int receive_fd, struct hs_newflows *run);

#endif
