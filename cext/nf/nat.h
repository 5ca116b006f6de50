// SPDX-License-Identifier: Apache-2.0
/* The translator: source NAT for IPv4 (RFC 3022), many inside addresses to one outside address.
 *
 * Which side is inside, a connection's first packet says: its sender. It gets a port of the outside
 * address, its own if that is free, else any; the replies to it are turned back. TCP, UDP and
 * ICMP echo (by its identifier) are translated, and ICMP errors about them, with the headers that
 * they quote; every checksum is corrected, never computed anew, so that a packet that was damaged
 * stays so. Frames on the outside carry the translator's MAC address; on the inside, that of
 * whoever began the connection.
 *
 * One that begins connections without end gets no more ports than HS_NAT_SHARE times those that are
 * still free, in each class: seven eighths if it is alone. What is not IPv4 passes as it is. What
 * is, and cannot be translated, is dropped and counted: no inside address gets out.
 */
#ifndef HS_NF_NAT_H
#define HS_NF_NAT_H
#include "nf/track.h"

enum hs_nat_count {
    HS_NAT_OUT,       /* packets translated, inside to outside */
    HS_NAT_IN,        /* and back */
    HS_NAT_NEW,       /* connections begun */
    HS_NAT_PLAIN,     /* passed as they are: not IPv4 */
    HS_NAT_MALFORMED, /* the rest: dropped */
    HS_NAT_PROTOCOL,  /* one that is not translated */
    HS_NAT_UNKNOWN,   /* to the outside address, or a reply, of no connection */
    HS_NAT_ORPHAN,    /* a fragment whose first one was not seen */
    HS_NAT_LOOPED,    /* from the outside address itself */
    HS_NAT_FULL,      /* no port is free, or its source has its share of them */
    HS_NAT_COUNTS
};

enum { HS_NAT_SHARE = 7 };   /* a source may have so many times the ports that are free */
enum { HS_NAT_CLASSES = 3 }; /* TCP, UDP, ICMP have ports of their own */

/* The ports of a class: free ones first, in `order`; where[p]: the place of port low + p there. */
struct hs_nat_ports {
    uint16_t *order, *where;
    uint32_t *conn;      /* which entry of the table has the port */
    uint32_t *of_source; /* how many each source has (hs_track_source) */
    uint32_t free_count;
};

struct hs_nat {
    uint8_t address[4], mac[6];
    uint16_t low, high; /* ports, inclusive, host order */
    uint64_t random, swept;
    struct hs_track conns;
    struct hs_nat_ports ports[HS_NAT_CLASSES];
    struct hs_frags frags;
    uint64_t counts[HS_NAT_COUNTS];
};

/* address, mac: the outside's. kept_fd: see hs_track_open; the connections in it have their ports
 * again. 0, or a negative errno. */
int hs_nat_open(struct hs_nat *n, const uint8_t address[4], const uint8_t mac[6], uint16_t low,
                uint16_t high, int kept_fd);
/* Twice is harmless. */
void hs_nat_close(struct hs_nat *n);

/* Translate the frame where it stands; whether it goes on. now: ns, never less than before. */
int hs_nat_pass(struct hs_nat *n, uint8_t *frame, uint32_t len, uint64_t now);

#endif
